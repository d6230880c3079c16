"""Events of the fault run: made from a seed, sent at a rate, and what they amount to."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Producer

FIRST = datetime(2026, 11, 1, tzinfo=UTC)
HOURS = 4
CUSTOMERS = 500
CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: count}
  - {id: tokens, event_name: call, aggregation: sum, property: tokens}
customers:
""" + "".join(f"  - {{id: c{number}, time_zone: UTC}}\n" for number in range(CUSTOMERS))

Truth = dict[tuple[str, str], tuple[int, int]]
"""(customer, start of the hour) -> events, sum of tokens."""


class Sender:
    """Sends events to a topic: 5 % again, out of order by minutes.

    `unique` is how many different ones were sent, `truth` what usage must say of them.
    """

    def __init__(self, bootstrap: str, topic: str, count: int, seed: int, rate: float) -> None:
        self._topic = topic
        self._count = count
        self._rate = rate
        self._random = random.Random(seed)
        self._recent: deque[tuple[bytes, bytes]] = deque(maxlen=2000)
        settings = {"linger.ms": 5, "compression.type": "lz4", "message.timeout.ms": 300_000}
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 2, **settings}
        )
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._allowed = round(count * 0.01)
        self.sent = 0
        self.unique = 0
        self.truth: Truth = {}

    def start(self) -> None:
        """Send in the background."""
        self._thread.start()

    def allow(self, share: float) -> None:
        """Send on until this share of all is sent."""
        self._allowed = round(self._count * share)

    def join(self) -> None:
        """Wait until the broker has everything."""
        self.allow(1)
        self._thread.join()
        left = self._producer.flush(300)
        if left:
            raise RuntimeError(f"{left} messages were not delivered")

    def _send_all(self) -> None:
        now, due = time.monotonic(), 0.0
        while self.sent < self._count:
            before, now = now, time.monotonic()
            due = min(self._allowed, due + (now - before) * self._rate)
            while self.sent < int(due):
                self._send(self._next())
                self.sent += 1
            self._producer.poll(0)
            time.sleep(0.005)

    def _next(self) -> tuple[bytes, bytes]:
        rng = self._random
        if self._recent and rng.random() < 0.05:
            return rng.choice(self._recent)
        number = self.unique
        customer = f"c{min(CUSTOMERS - 1, int(rng.expovariate(10 / CUSTOMERS)))}"
        offset = HOURS * 3600 * self.sent / self._count + rng.uniform(0, 240)
        at = FIRST + timedelta(seconds=offset)
        tokens = rng.randrange(1000)
        value = (
            f'{{"event_id":"e{number}","event_name":"call","external_customer_id":"{customer}",'
            f'"timestamp":"{at.isoformat()}","properties":{{"tokens":{tokens}}}}}'
        )
        key = customer, at.strftime("%Y-%m-%dT%H:00:00Z")
        events, total = self.truth.get(key, (0, 0))
        self.truth[key] = events + 1, total + tokens
        self.unique += 1
        pair = f"default/{customer}".encode(), value.encode()
        self._recent.append(pair)
        return pair

    def _send(self, pair: tuple[bytes, bytes]) -> None:
        while True:
            try:
                self._producer.produce(self._topic, pair[1], pair[0])
            except BufferError:
                self._producer.poll(0.05)
            else:
                return


def difference(truth: Truth, usage: list[dict[str, Any]]) -> dict[str, int]:
    """By how much usage misses the truth: events that are missing, more, and wrong sums."""
    events: dict[tuple[str, str], int] = {}
    tokens: dict[tuple[str, str], int] = {}
    for row in usage:
        key = row["customer"], row["start"]
        if row["meter"] == "calls":
            events[key] = row["events"]
        else:
            tokens[key] = int(row["value"])
    keys = truth.keys() | events.keys() | tokens.keys()
    deltas = [events.get(key, 0) - truth.get(key, (0, 0))[0] for key in keys]
    return {
        "events": sum(count for count, _ in truth.values()),
        "missing": -sum(delta for delta in deltas if delta < 0),
        "twice": sum(delta for delta in deltas if delta > 0),
        "wrong_sums": sum(tokens.get(key, 0) != truth.get(key, (0, 0))[1] for key in keys),
    }
