"""What the stream's benchmarks send, and the state that they start with."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from confluent_kafka import Producer

from warehouse.client import Warehouse

CUSTOMERS = 1000
CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: count, group_by: [region]}
  - {id: tokens, event_name: call, aggregation: sum, property: tokens}
  - {id: top, event_name: call, aggregation: max, property: tokens}
plans: []
subscriptions: []
customers:
"""
_COPIES = 0.05
_STATE = """
INSERT INTO events (tenant_id, event_id, event_name, external_customer_id, timestamp,
    ingested_at, properties, origin, origin_row, identity_hash, content_hash)
SELECT 'default', concat('p', toString(number)), 'call', concat('c', toString(number % 1000)),
    now64(6, 'UTC') - toIntervalSecond(20 * 3600 + number % 144000) AS at, at, '{}',
    'preloaded', number,
    toFixedString(concat(reinterpretAsFixedString(sipHash64(number, 1)),
        reinterpretAsFixedString(sipHash64(number, 2))), 16),
    toFixedString(concat(reinterpretAsFixedString(sipHash64(number, 3)),
        reinterpretAsFixedString(sipHash64(number, 4))), 16)
FROM numbers({first:UInt64}, {count:UInt64})
"""
_NEWEST = """
INSERT INTO events (tenant_id, event_id, event_name, external_customer_id, timestamp,
    ingested_at, properties, origin, origin_row, identity_hash, content_hash)
SELECT 'default', 'newest', 'other', 'c0', now64(6, 'UTC') - toIntervalSecond(600) AS at, at, '{}',
    'preloaded', 0, toFixedString('newest', 16), toFixedString('newest', 16)
"""
_PART = 5_000_000


def write_catalog(folder: Path) -> Path:
    """The catalog of the benchmarks, as a file."""
    path = folder / "catalog.yaml"
    lines = [f"  - {{id: c{n}, time_zone: UTC, currency: EUR}}" for n in range(CUSTOMERS)]
    path.write_text(CATALOG + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def message(rng: random.Random, number: int, at: float) -> tuple[bytes, bytes]:
    """Key and value of one event of a few customers that send much and many that don't."""
    customer = f"c{min(CUSTOMERS - 1, int(rng.expovariate(20 / CUSTOMERS)))}"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    value = (
        f'{{"event_id":"e{number}","event_name":"call","external_customer_id":"{customer}",'
        f'"timestamp":"{stamp}.{int(at % 1 * 1000):03}Z","properties":{{"region":"r{number % 3}",'
        f'"tokens":"{rng.randrange(10**6) / 100}","model":"m-large","path":"/v1/chat"}}}}'
    )
    return f"default/{customer}".encode(), value.encode()


def producer(bootstrap: str) -> Producer:
    """A producer as an ingest API would have it."""
    settings = {"linger.ms": 5, "compression.type": "lz4", "log_level": 2}
    queue = {"queue.buffering.max.messages": 10**6}
    return Producer({"bootstrap.servers": bootstrap, **settings, **queue})


def fill(bootstrap: str, topic: str, events: int) -> None:
    """Send events of the hour that ends now, 5 % of them twice."""
    rng = random.Random(1)
    client = producer(bootstrap)
    began = time.time() - 3600
    last = [message(rng, 0, began)] * 100
    for number in range(events):
        pair = message(rng, number, began + 3600 * number / events)
        if rng.random() < _COPIES:
            pair = rng.choice(last)
        last[number % 100] = pair
        _send(client, topic, pair)
    client.flush()


def preload(warehouse: Warehouse, identities: int) -> None:
    """Raw events of closed hours, within the horizon: identities that a start loads."""
    for first in range(0, identities, _PART):
        count = min(_PART, identities - first)
        warehouse.command(_STATE, {"first": first, "count": count})
    if identities:
        warehouse.command(_NEWEST)


class Steady(threading.Thread):
    """Sends at a steady rate; `sent` has the producer's clock for each event."""

    def __init__(
        self, bootstrap: str, topic: str, per_second: int, seconds: int, first: int = 0
    ) -> None:
        super().__init__(daemon=True)
        self._first = first
        self._client = producer(bootstrap)
        self._topic = topic
        self._per_second = per_second
        self._seconds = seconds
        self.sent: list[float] = []

    def run(self) -> None:
        """Send what is due, every few milliseconds."""
        rng = random.Random(1)
        began = time.time()
        number = 0
        while time.time() - began < self._seconds:
            due = int((time.time() - began) * self._per_second)
            while number < due:
                now = time.time()
                _send(self._client, self._topic, message(rng, self._first + number, now))
                self.sent.append(now)
                number += 1
            self._client.poll(0)
            time.sleep(0.005)
        self._client.flush()


def _send(client: Producer, topic: str, pair: tuple[bytes, bytes]) -> None:
    while True:
        try:
            client.produce(topic, pair[1], pair[0])
        except BufferError:
            client.poll(0.05)
        else:
            return
