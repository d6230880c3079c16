"""The same events through the stream on Prism, on Flink, and through a backfill.

    messages -> topic -> stream on Prism -> repair -> usage  \
                      -> stream on Flink -> repair -> usage   equal, row by row
             -> file --> backfill -----------------> usage  /

Each has a warehouse of its own. `python -m tests.streaming.same_rows URL` prints the usage
table of a warehouse.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.cli import ROOT, Result, run, start
from tests.services.flink import JobServer
from tests.services.kafka import Kafka
from warehouse.client import Warehouse

FIRST = datetime(2026, 11, 1, 22, 0, tzinfo=UTC)
HOURS = 6
ZONES = ("UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York")
METERS = """
meters:
  - {id: calls, event_name: call, aggregation: count, group_by: [region]}
  - {id: tokens, event_name: call, aggregation: sum, property: tokens}
  - {id: top, event_name: call, aggregation: max, property: tokens}
  - {id: mean, event_name: call, aggregation: avg, property: tokens}
  - {id: last, event_name: call, aggregation: latest, property: tokens}
  - {id: users, event_name: call, aggregation: unique_count, property: user}
  - {id: level, event_name: call, aggregation: weighted_sum, property: tokens}
  - {id: read, event_name: call, aggregation: weighted_sum, level: readings, property: tokens}
  - {id: p95, event_name: call, aggregation: percentile, percentile: 95, property: tokens}
customers:
"""
Message = tuple[bytes, bytes]

_ROWS = """
SELECT external_customer_id, toString(meter) AS meter, external_subscription_id, group_key,
    toString(bucket_start) AS start, toString(bucket_end) AS end, toString(sum) AS sum,
    toString(min) AS min, toString(max) AS max, toString(latest_value) AS latest, latest_id,
    toString(latest_at) AS latest_at, toString(moment) AS moment,
    toString(moment_low) AS moment_low, toString(points) AS points,
    toString(meter_hash) AS meter_hash, events, distinct
FROM (SELECT * FROM usage FINAL WHERE events > 0) AS u
LEFT JOIN (
    SELECT external_customer_id, meter, external_subscription_id, group_key, bucket_start,
        revision, hex(groupBitXor(cityHash64(value_hash))) AS distinct
    FROM (SELECT DISTINCT * EXCEPT (tenant_id) FROM usage_values)
    GROUP BY ALL
) AS v USING (
    external_customer_id, meter, external_subscription_id, group_key, bucket_start, revision
)
ORDER BY external_customer_id, meter, external_subscription_id, group_key, bucket_start
"""


def catalog(customers: int) -> str:
    """A catalog of so many customers."""
    lines = [
        f"  - {{id: c{number}, time_zone: {ZONES[number % len(ZONES)]}, currency: EUR}}"
        for number in range(customers)
    ]
    return METERS + "\n".join(lines) + "\n"


def messages(count: int, seed: int, customers: int) -> Iterator[Message]:
    """5 % copies, 1 % conflicts, 1 % bad, 2 % late, disorder of minutes, unknown customers.

    Each says when it was received, so that the copy that counts is the same everywhere.
    """
    rng = random.Random(seed)
    recent: list[tuple[str, dict[str, Any]]] = []
    for number in range(count):
        received = FIRST + timedelta(hours=HOURS + 1, milliseconds=number)
        dice = rng.random()
        if recent and dice < 0.06:
            customer, event = rng.choice(recent)
            if dice < 0.01:
                tokens = f"{rng.randrange(10**9) / 10**4:.4f}"
                event = {**event, "properties": {**event["properties"], "tokens": tokens}}
        else:
            customer = f"c{rng.randrange(customers + 1)}"
            progress = rng.random() * 0.3 if dice > 0.98 else number / count
            at = FIRST + timedelta(hours=HOURS * progress, seconds=rng.uniform(-300, 300))
            event = {
                "event_id": f"e{number}",
                "event_name": "call",
                "external_customer_id": customer,
                "timestamp": at.isoformat(),
                "properties": {
                    "region": rng.choice(["eu", "us", None]),
                    "tokens": f"{rng.randrange(10**9) / 10**4:.4f}",
                    "user": f"u{rng.randrange(50)}",
                },
            }
            recent.append((customer, event))
            del recent[:-500]
        text = json.dumps({**event, "ingested_at": received.isoformat()})
        bad = rng.random() < 0.01
        yield f"default/{customer}".encode(), (text[:-9] if bad else text).encode()


@dataclass
class SameRows:
    """One set of messages, and the rows that each way makes of it.

    `seconds` has how long each took, by name.
    """

    folder: Path
    kafka: Kafka
    count: int
    seed: int = 1
    customers: int = 40
    timeout: float = 600
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topic = f"same-{self.folder.name}"
        self.kafka.create_topic(self.topic, partitions=4)
        self._catalog = self.folder / "catalog.yaml"
        self._catalog.write_text(catalog(self.customers), encoding="utf-8")
        self._file = self.folder / "events.jsonl"
        queue = {"linger.ms": 5, "compression.type": "lz4"}
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap, **queue})
        with self._file.open("wb") as file:
            for key, value in messages(self.count, self.seed, self.customers):
                while True:
                    try:
                        producer.produce(self.topic, value, key)
                        break
                    except BufferError:
                        producer.poll(0.05)
                file.write(value + b"\n")
        assert producer.flush(60) == 0

    def by_backfill(self) -> list[dict[str, Any]]:
        """The rows of a backfill."""
        url = f"chdb://{self.folder / 'batch'}"
        self._run("backfill", "backfill", url, "--input", self._file)
        return self._rows(url)

    def by_prism(self, prism: Path) -> list[dict[str, Any]]:
        """The rows of the stream on Prism."""
        url = f"chdb://{self.folder / 'prism'}"
        self._stream("prism", url, "--runner", "prism", "--prism-location", prism)
        return self._rows(url)

    def by_flink(self, server: JobServer) -> list[dict[str, Any]]:
        """The rows of the stream on Flink with checkpoints; its warehouse is behind HTTP."""
        command = [sys.executable, "-m", "tests.warehouse.http_front", str(self.folder / "flink")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as front:
            try:
                assert front.stdout is not None
                url = f"clickhouse://default@localhost:{int(front.stdout.readline())}/default"
                checkpoints = f"file://{self.folder / 'checkpoints'}"
                where = ("--job-endpoint", server.endpoint, "--checkpoints", checkpoints)
                self._stream("flink", url, "--runner", "flink", *where)
                return self._rows(url)
            finally:
                front.kill()

    def _stream(self, name: str, url: str, *options: object) -> None:
        where = ("--bootstrap-servers", self.kafka.bootstrap, "--topic", self.topic)
        more = ("--group", name, "--lateness", 3600, "--until-idle", 5)
        self._run(name, "stream", url, *where, *more, *options)
        self._run(f"{name}, repair", "repair", url)

    def _run(self, name: str, command: str, url: str, *options: object) -> Result:
        began = time.monotonic()
        words = (command, "--catalog", self._catalog, "--clickhouse", url, *options)
        result = start(*words).wait(self.timeout)
        assert result.code == 0, result
        self.seconds[name] = round(time.monotonic() - began, 1)
        return result

    def _rows(self, url: str) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "tests.streaming.same_rows", url]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def refused(self, name: str) -> dict[str, int]:
        """How many messages an embedded warehouse has in quarantine, by reason."""
        url = f"chdb://{self.folder / name}"
        rows = run("quarantine", "--counts", "--clickhouse", url, "--format", "json").json
        return {row["reason"]: row["rows"] for row in rows}


def main(url: str) -> None:
    """Print the usage rows of a warehouse, one JSON object each."""
    with Warehouse.connect(url) as warehouse:
        for row in warehouse.query_rows(_ROWS):
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
