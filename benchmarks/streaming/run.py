"""Measures the stream: `python -m benchmarks.streaming.run rate|latency [--events N] ...`.

rate      a topic is filled first; the clock runs from the first poll to the last usage
          row that was written, as the warehouse has both. Raw rows are stored.
latency   events are sent at a steady rate; an event is seen when the sum of a `count`
          meter, read from the warehouse every 50 ms, has reached its number.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.services import prism
from tests.services.kafka import Kafka
from warehouse.client import Warehouse

ROOT = Path(__file__).parents[2]
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


def message(rng: random.Random, number: int, at: float) -> tuple[bytes, bytes]:
    customer = f"c{min(CUSTOMERS - 1, int(rng.expovariate(20 / CUSTOMERS)))}"
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    value = (
        f'{{"event_id":"e{number}","event_name":"call","external_customer_id":"{customer}",'
        f'"timestamp":"{stamp}.{int(at % 1 * 1000):03}Z","properties":{{"region":"r{number % 3}",'
        f'"tokens":"{rng.randrange(10**6) / 100}","model":"m-large","path":"/v1/chat"}}}}'
    )
    return f"default/{customer}".encode(), value.encode()


def producer(kafka: Kafka) -> Producer:
    settings = {"linger.ms": 5, "compression.type": "lz4", "log_level": 2}
    queue = {"queue.buffering.max.messages": 10**6}
    return Producer({"bootstrap.servers": kafka.bootstrap, **settings, **queue})


def send(client: Producer, topic: str, pair: tuple[bytes, bytes]) -> None:
    while True:
        try:
            client.produce(topic, pair[1], pair[0])
        except BufferError:
            client.poll(0.05)
        else:
            return


def command(kafka: Kafka, folder: Path, url: str, topic: str, *options: str) -> list[str]:
    catalog = folder / "catalog.yaml"
    lines = [f"  - {{id: c{n}, time_zone: UTC, currency: EUR}}" for n in range(CUSTOMERS)]
    catalog.write_text(CATALOG + "\n".join(lines) + "\n", encoding="utf-8")
    words = ["stream", "--catalog", str(catalog), "--clickhouse", url, "--topic", topic]
    words += ["--bootstrap-servers", kafka.bootstrap, "--runner", "prism"]
    words += ["--prism-location", str(prism.path()), *options]
    return [sys.executable, "-m", "runners.cli", *words]


def rate(events: int) -> dict[str, Any]:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name, Kafka() as kafka:
        folder = Path(name)
        kafka.create_topic("events", partitions=4)
        client = producer(kafka)
        began = time.time() - 3600
        last: list[tuple[bytes, bytes]] = []
        for number in range(events):
            pair = message(rng, number, began + 3600 * number / events)
            if last and rng.random() < 0.05:
                pair = rng.choice(last)
            last = [*last[-99:], pair]
            send(client, "events", pair)
        client.flush()
        url = f"chdb://{folder / 'warehouse'}"
        options = ("--until-idle", "5")
        subprocess.run(command(kafka, folder, url, "events", *options), cwd=ROOT, check=True)
        with Warehouse.connect(url) as warehouse:
            (found,) = warehouse.query_rows(
                "SELECT (SELECT count() FROM events FINAL) AS raw, "
                "(SELECT sum(events) FROM usage FINAL WHERE meter = 'calls') AS counted, "
                "(SELECT min(recorded_at) FROM ingest_stats) AS first, "
                "(SELECT max(updated_at) FROM usage) AS last"
            )
    seconds = (found["last"] - found["first"]).total_seconds()  # type: ignore[operator]
    exact = found["raw"] == found["counted"]
    counts = {"raw": found["raw"], "counted": found["counted"], "exact": exact}
    return {"events": events, "seconds": seconds, "rate": events / seconds, **counts}


def latency(per_second: int, seconds: int) -> dict[str, Any]:
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name, Kafka() as kafka:
        folder = Path(name)
        kafka.create_topic("events", partitions=4)
        front = [sys.executable, "-m", "tests.warehouse.http_front", str(folder / "server")]
        with subprocess.Popen(front, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = f"clickhouse://default@localhost:{int(server.stdout.readline())}/default"
            words = command(kafka, folder, url, "events")
            with subprocess.Popen(words, cwd=ROOT) as stream, Warehouse.connect(url) as warehouse:
                time.sleep(8)
                sent: list[float] = []
                done = threading.Event()
                sender = threading.Thread(
                    target=_steady, args=(producer(kafka), rng, per_second, seconds, sent, done)
                )
                sender.start()
                seen: list[float] = []
                until = time.time() + seconds + 20
                while time.time() < until and not (done.is_set() and len(seen) >= len(sent)):
                    query = "SELECT sum(events) AS n FROM usage FINAL WHERE meter = 'calls'"
                    count = int(str(warehouse.query_rows(query)[0]["n"]))
                    seen += [time.time()] * (min(count, len(sent)) - len(seen))
                    time.sleep(0.05)
                sender.join()
                stream.terminate()
            server.kill()
    delays = sorted(b - a for a, b in zip(sent, seen, strict=False))
    points = {f"p{p}": delays[len(delays) * p // 100] for p in (50, 95, 99)}
    return {"per_second": per_second, "sent": len(sent), "seen": len(seen), **points}


def _steady(
    client: Producer,
    rng: random.Random,
    per_second: int,
    seconds: int,
    sent: list[float],
    done: threading.Event,
) -> None:
    began = time.time()
    number = 0
    while time.time() - began < seconds:
        due = int((time.time() - began) * per_second)
        while number < due:
            now = time.time()
            send(client, "events", message(rng, number, now))
            sent.append(now)
            number += 1
        client.poll(0)
        time.sleep(0.005)
    client.flush()
    done.set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["rate", "latency"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--per-second", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=30)
    given = parser.parse_args()
    measure = given.what == "rate"
    found = rate(given.events) if measure else latency(given.per_second, given.seconds)
    print(json.dumps({**found, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
