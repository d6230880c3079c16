"""The whole stream on real parts: broker, runner, engine. It has the usage of a backfill.

Backfill reads the same messages from a file. Events come twice, out of order and
broken, and are read in two runs that share hours; a run may be killed.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.cli import ROOT, Running, run, start
from tests.conftest import or_skip
from tests.services.flink import JobServer
from tests.services.kafka import Kafka
from tests.services.process import await_end, children

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: count, group_by: [region]}
  - {id: tokens, event_name: call, aggregation: sum, property: tokens}
  - {id: top, event_name: call, aggregation: max, property: tokens}
  - {id: last, event_name: call, aggregation: latest, property: tokens}
  - {id: users, event_name: call, aggregation: unique_count, property: user}
  - {id: level, event_name: call, aggregation: weighted_sum, property: tokens}
  - {id: read, event_name: call, aggregation: weighted_sum, level: readings, property: tokens}
  - {id: p95, event_name: call, aggregation: percentile, percentile: 95, property: tokens}
customers:
  - {id: c0, time_zone: UTC, currency: EUR}
  - {id: c1, time_zone: Europe/Berlin, currency: EUR}
  - {id: c2, time_zone: Asia/Kathmandu, currency: EUR}
plans: []
subscriptions: []
"""
FIRST = datetime(2026, 11, 1, 22, 0, tzinfo=UTC)
Message = tuple[str, bytes]


def events(seed: int, count: int, first: float = 0, hours: float = 5) -> list[Message]:
    """Messages with 5 % copies, disorder within minutes, 1 % broken, an unknown customer.

    They are of `hours` from `first` hours after `FIRST` on.
    """
    rng = random.Random(seed)
    made: list[Message] = []
    for number in range(count):
        if made and rng.random() < 0.05:
            made.append(rng.choice(made[-200:]))
            continue
        at = FIRST + timedelta(hours=first + hours * number / count, seconds=rng.uniform(-300, 300))
        customer = f"c{rng.randrange(4)}"
        event = {
            "event_id": f"{seed}-{number}",
            "event_name": "call",
            "external_customer_id": customer,
            "timestamp": at.isoformat(),
            "properties": {
                "region": rng.choice(["eu", "us", None]),
                "tokens": f"{rng.randrange(10**9) / 10**4:.4f}",
                "user": f"u{rng.randrange(50)}",
            },
        }
        text = json.dumps(event)
        made.append((f"default/{customer}", (text[:-9] if rng.random() < 0.01 else text).encode()))
    return made


class Stream:
    """A topic, a catalog and a file with the same messages."""

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self.folder = folder
        self.bootstrap = kafka.bootstrap
        self.topic = f"events-{folder.name}"
        kafka.create_topic(self.topic, partitions=3)
        self.catalog = folder / "catalog.yaml"
        self.catalog.write_text(CATALOG, encoding="utf-8")
        self.file = folder / "events.jsonl"
        self._running: list[Running] = []

    def send(self, messages: list[Message]) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        with self.file.open("ab") as file:
            for key, value in messages:
                producer.produce(self.topic, value, key)
                producer.poll(0)
                file.write(value + b"\n")
        assert producer.flush(30) == 0

    def arguments(self, url: str, *options: object) -> list[object]:
        given = ["stream", "--catalog", self.catalog, "--clickhouse", url, "--topic", self.topic]
        return [*given, "--bootstrap-servers", self.bootstrap, *options]

    def start(self, url: str, *options: object) -> Running:
        """A stream under way; it does not outlive the test."""
        self._running.append(start(*self.arguments(url, *options)))
        return self._running[-1]

    def wait_for(self, messages: int) -> None:
        """Until the stream has stored so many messages, as its offsets say."""
        group = {"bootstrap.servers": self.bootstrap, "group.id": "beammeter-default"}
        consumer = Consumer(group)
        partitions = [TopicPartition(self.topic, number) for number in range(3)]
        until = time.monotonic() + 180
        try:
            while time.monotonic() < until:
                found = consumer.committed(partitions, timeout=60)
                if sum(max(0, each.offset) for each in found) >= messages:
                    return
                time.sleep(0.1)
        finally:
            consumer.close()
        raise AssertionError(f"not {messages} messages were stored within three minutes")

    def stop(self) -> None:
        """End what still runs."""
        for running in self._running:
            running.process.kill()
            running.process.wait()

    def usage(self, url: str) -> list[dict[str, Any]]:
        options = ("--granularity", "hour", "--format", "json")
        found: list[dict[str, Any]] = run(
            "usage", "--catalog", self.catalog, "--clickhouse", url, *options
        ).json
        return found

    def backfilled(self) -> list[dict[str, Any]]:
        url = f"chdb://{self.folder / 'batch'}"
        where = ("--catalog", self.catalog, "--clickhouse", url)
        assert run("backfill", *where, "--input", self.file, "--format", "json").code == 0
        return self.usage(url)


@pytest.fixture
def stream(kafka: Kafka, tmp_path: Path) -> Iterator[Stream]:
    made = Stream(kafka, tmp_path)
    yield made
    made.stop()


def test_two_runs_on_prism_that_share_hours(stream: Stream, prism: Path) -> None:
    url = f"chdb://{stream.folder / 'stream'}"
    first, second = events(1, 3000), events(2, 3000)
    options = ("--runner", "prism", "--prism-location", prism, "--until-idle", 3)
    for messages in (first, second):
        stream.send(messages)
        assert run(*stream.arguments(url, *options)).code == 0
    assert stream.usage(url) == stream.backfilled()


def test_a_run_on_prism_that_is_killed_and_started_again(stream: Stream, prism: Path) -> None:
    url = f"chdb://{stream.folder / 'stream'}"
    stream.send(events(3, 4000))
    options = ("--runner", "prism", "--prism-location", prism)
    under_way = stream.start(url, *options)
    stream.wait_for(4000)
    stream.send(events(4, 4000))
    stream.wait_for(4001)
    started = children(under_way.process.pid)
    assert prism.resolve() in [Path(f"/proc/{pid}/exe").resolve() for pid in started]
    under_way.process.kill()
    under_way.wait()
    for pid in started:
        await_end(pid)
    stream.send(events(5, 2000))
    assert run(*stream.arguments(url, *options, "--until-idle", 3)).code == 0
    assert stream.usage(url) == stream.backfilled()


def test_rounds_on_the_direct_runner(stream: Stream) -> None:
    url = f"chdb://{stream.folder / 'stream'}"
    for seed in (6, 7):
        stream.send(events(seed, 2000))
        result = run(*stream.arguments(url, "--runner", "direct", "--until-idle", 2))
        assert result.code == 0, result
    assert stream.usage(url) == stream.backfilled()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[str]:
    """ClickHouse's HTTP protocol over the real engine, for workers of another process."""
    command = [sys.executable, "-m", "tests.warehouse.http_front", str(tmp_path / "server")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield f"clickhouse://default@localhost:{port}/default"
        process.kill()


def test_real_flink_with_checkpoints(stream: Stream, front: str) -> None:
    stream.send(events(8, 4000))
    # Its own: a job outlives the command that sent it.
    server = JobServer()
    or_skip(server.start)
    try:
        options = ("--runner", "flink", "--job-endpoint", server.endpoint)
        checkpoints = ("--checkpoints", f"file://{stream.folder / 'checkpoints'}")
        result = run(*stream.arguments(front, *options, *checkpoints, "--until-idle", 5))
    finally:
        server.stop()
    assert result.code == 0, result
    assert stream.usage(front) == stream.backfilled()


def test_a_broker_that_is_away_stops_the_start(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    result = run(
        *("stream", "--catalog", catalog, "--clickhouse", f"chdb://{tmp_path / 'w'}"),
        *("--bootstrap-servers", "127.0.0.1:1", "--runner", "direct"),
    )
    assert result.code == 1
    assert "Kafka at 127.0.0.1:1 must answer" in result.stderr
    assert not (tmp_path / "w").exists()
