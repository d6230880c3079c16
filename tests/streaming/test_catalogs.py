"""A catalog that is announced to a running stream meters each event by the hour it is of.

The backfill of the same messages, under the same catalogs in time, says what is right.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from meters.timestamps import format_instant
from tests.cli import Result, Running, run
from tests.services.flink import FlinkCluster, JobServer
from tests.services.kafka import Kafka
from tests.streaming.test_stream import CATALOG, FIRST, Message, Stream, events, front, stream

__all__ = ["front", "stream"]

FROM = FIRST + timedelta(hours=6)
NEW = (
    CATALOG.replace("property: user}", "property: region}")
    .replace("property: tokens}", "property: tokens, filters: {region: [eu]}}", 1)
    .replace("plans:", "  - {id: c3, time_zone: Asia/Kolkata, currency: EUR}\nplans:")
    .replace("customers:", "  - {id: every, event_name: call, aggregation: count}\ncustomers:")
)


@pytest.fixture
def changing(stream: Stream) -> Stream:
    """A stream with a second catalog beside its first one."""
    (stream.folder / "new.yaml").write_text(NEW, encoding="utf-8")
    return stream


def announce(stream: Stream, url: str, *options: object) -> Result:
    words = ("--catalog", stream.folder / "new.yaml", "--clickhouse", url)
    at = ("--from", format_instant(FROM))
    return run("catalog", "announce", *words, *at, "--format", "json", *options)


def usage(stream: Stream, url: str) -> list[dict[str, Any]]:
    words = ("--catalog", stream.folder / "new.yaml", "--clickhouse", url)
    found: list[dict[str, Any]] = run(
        "usage", *words, "--granularity", "hour", "--format", "json"
    ).json
    return found


def backfilled(stream: Stream, name: str = "batch") -> list[dict[str, Any]]:
    """The usage of the same messages, read from a file under the same catalogs in time."""
    url = f"chdb://{stream.folder / name}"
    assert announce(stream, url, "--replaces", stream.catalog).code == 0
    words = ("--catalog", stream.catalog, "--clickhouse", url, "--input", stream.file)
    assert run("backfill", *words, "--format", "json").code == 0
    return usage(stream, url)


def repair(stream: Stream, url: str, *options: object) -> dict[str, int]:
    words = ("--catalog", stream.folder / "new.yaml", "--clickhouse", url)
    found: dict[str, int] = run("repair", *words, "--format", "json", *options).json
    return found


def wait_for(done: Callable[[], bool], running: Running) -> None:
    until = time.monotonic() + 180
    while not done():
        assert running.process.poll() is None, running.wait()
        assert time.monotonic() < until, "not within three minutes"
        time.sleep(0.3)


def shuffled(messages: list[Message], seed: int) -> list[Message]:
    random.Random(seed).shuffle(messages)
    return messages


def through_a_change(stream: Stream, url: str, options: tuple[object, ...]) -> None:
    """Announce while it runs, kill it, start it again: usage is that of the backfill."""
    stream.send(events(31, 1500))
    under_way = stream.start(url, *options)
    wait_for(lambda: len(run("usage", *at(stream, url)).json) > 0, under_way)
    assert announce(stream, url).code == 0
    # Some are there before any worker has heard of the change, and of hours on both sides.
    stream.send(shuffled(events(32, 1500, first=3, hours=6), 1))
    expected = backfilled(stream, "first")
    wait_for(lambda: usage(stream, url) == expected, under_way)
    stream.send(shuffled(events(33, 800, first=3, hours=6), 2))
    under_way.process.send_signal(signal.SIGKILL)
    under_way.wait()


def at(stream: Stream, url: str) -> tuple[object, ...]:
    return ("--catalog", stream.catalog, "--clickhouse", url, "--format", "json")


def test_a_change_while_prism_runs_and_dies(changing: Stream, front: str, prism: Path) -> None:
    stream = changing
    options = ("--runner", "prism", "--prism-location", prism)
    through_a_change(stream, front, options)
    stream.send(shuffled(events(34, 800, first=3, hours=6), 3))
    # It starts with the first catalog.
    again = (*options, "--until-idle", 4)
    result = run(*stream.arguments(front, *again))
    assert result.code == 0, result
    assert usage(stream, front) == backfilled(stream)

    span = (FROM - timedelta(hours=2), FROM + timedelta(hours=2))
    words = ("--from", format_instant(span[0]), "--to", format_instant(span[1]))
    assert {name: repair(stream, front, *words)[name] for name in ("rows", "tombstones")} == {
        "rows": 0,
        "tombstones": 0,
    }

    # What is older than an hour is closed by newer events. Those of hours under the old catalog
    # are too late for the stream then: repair counts them.
    for messages in (events(35, 100, first=9, hours=0.5), events(36, 300, first=0, hours=2)):
        stream.send(messages)
        result = run(*stream.arguments(front, *again, "--lateness", 3600))
        assert result.code == 0, result
    assert repair(stream, front)["resolved"] > 0
    assert usage(stream, front) == backfilled(stream, "late")


def test_a_change_while_flink_runs_with_state(
    changing: Stream, front: str, cluster: FlinkCluster, server: JobServer
) -> None:
    where = ("--job-endpoint", server.endpoint, "--flink-rest", cluster.rest)
    state = ("--checkpoints", f"file://{changing.folder / 'checkpoints'}")
    options = ("--runner", "flink", *where, *state)
    through_a_change(changing, front, options)
    cluster.cancel_jobs()
    result = run(*changing.arguments(front, *options, "--until-idle", 8))
    assert result.code == 0, result
    assert usage(changing, front) == backfilled(changing)


@pytest.fixture
def batch(kafka: Kafka, tmp_path: Path) -> tuple[Stream, str]:
    """Messages in a file alone, backfilled under one catalog."""
    made = Stream(kafka, tmp_path)
    (tmp_path / "new.yaml").write_text(NEW, encoding="utf-8")
    made.file.write_bytes(b"\n".join(value for _, value in events(36, 300)))
    url = f"chdb://{tmp_path / 'batch'}"
    words = ("--catalog", made.catalog, "--clickhouse", url, "--input", made.file)
    assert run("backfill", *words).code == 0
    return made, url


def test_what_cannot_be_announced_is_refused_with_the_reason(batch: tuple[Stream, str]) -> None:
    stream, url = batch
    words = ("catalog", "announce", "--clickhouse", url)
    replaced = ("--replaces", stream.catalog)
    new = stream.folder / "new.yaml"
    other = stream.folder / "other.yaml"
    other.write_text(NEW.replace("aggregation: max", "aggregation: min"), encoding="utf-8")
    moved = stream.folder / "moved.yaml"
    moved.write_text(NEW.replace("Europe/Berlin", "Europe/Kyiv"), encoding="utf-8")
    for options, message in (
        ((new, "2026-11-02T05:30:00Z", *replaced), "--from must be a whole hour in UTC"),
        ((new, "2026-11-02T01:00:00Z", *replaced), "--from must be ahead of the events"),
        ((new, "2026-11-02T05:00:00Z"), "--replaces must name the catalog"),
        ((other, "2026-11-02T05:00:00Z", *replaced), "meter 'top' must keep its aggregation"),
        ((moved, "2026-11-02T05:00:00Z", *replaced), "customer 'c1' must keep its time zone"),
    ):
        catalog, when, *more = options
        result = run(*words, "--catalog", catalog, "--from", when, *more)
        assert result.code == 2, result
        assert message in result.stderr
    listed = run("catalog", "list", "--clickhouse", url, "--format", "json").json
    assert listed == []

    result = run(*words, "--catalog", new, "--from", "2026-11-02T05:00:00Z", *replaced)
    assert result.code == 0, result
    again = run("backfill", "--catalog", other, "--clickhouse", url, "--input", stream.file)
    assert again.code == 2
    assert "--catalog must be one of the 2 catalogs" in again.stderr
    listed = run("catalog", "list", "--clickhouse", url, "--format", "json").json
    assert [row["from"] for row in listed] == [None, "2026-11-02T05:00:00Z"]
