"""A stream that was killed: what its start marks dirty in hours that are closed."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pyarrow as pa
import pytest
from msgspec import structs

from meters.catalog import Catalog
from meters.shards import owner_hash
from meters.stream_state import HORIZON_SLICES, SLICES
from meters.timeline import Timeline
from meters.timestamps import parse_timestamp
from meters.zones import microseconds
from tests.generators import Row
from tests.meters.chain import catalog_of, event, meter, plain_usage
from tests.pipelines.runs import Tenant
from transforms.batches import pack
from transforms.deliveries import Delivery, encode
from transforms.kafka_client import KafkaSettings
from transforms.log_source import log_settings
from transforms.shard_flush import ShardWork
from transforms.shard_memory import MEMORY
from transforms.shard_stage import ShardStage
from transforms.stream_options import StreamOptions
from warehouse.ownership import read_progress, write_progress
from warehouse.recovery import ShardReader

CATALOG = catalog_of(meter("sum"), zone="UTC")
CLOSED_UNTIL = "2026-01-31T12:00:00Z"


def hour(number: int) -> list[Row]:
    return [event(str(number), timestamp=f"2026-01-31T{number}:30:00Z", properties={"x": 1})]


def options_of(tenant: Tenant) -> StreamOptions:
    """One shard, two splits."""
    kafka = KafkaSettings("broker:9092", "events", "group", splits=2)
    return StreamOptions(uuid.uuid4().hex, tenant.name, tenant.url, kafka, shards=1)


def work(tenant: Tenant) -> ShardWork:
    return ShardWork(tenant.warehouse, options_of(tenant), Timeline.of(tenant.catalog))


def restart(tenant: Tenant) -> None:
    """Load the one shard as a start without state does."""
    work(tenant).load(0)


@pytest.fixture
def tenant(new_tenant: Callable[[Catalog], Tenant]) -> Tenant:
    """The stream owns what is open, as one that was killed did."""
    made = new_tenant(CATALOG)
    made.own(CLOSED_UNTIL)
    return made


@pytest.mark.parametrize("topic", ["events", log_settings().topic])
def test_what_a_stream_stored_is_marked(tenant: Tenant, topic: str) -> None:
    tenant.store(hour(10) + hour(13), topic)
    restart(tenant)
    assert tenant.dirty() == {("c", "2026-01-31T10:00:00Z", "restart")}


def test_what_a_backfill_stored_a_moment_before_is_not_marked(tenant: Tenant) -> None:
    tenant.backfill(hour(10) + hour(11))
    counted = tenant.usage()
    assert len(counted) == 2
    restart(tenant)
    assert tenant.dirty() == set()
    assert tenant.usage() == counted


def test_what_a_split_has_stored_before_it_spoke_is_not_taken_for_counted(tenant: Tenant) -> None:
    shards = work(tenant)
    begun = time.time_ns() // 1000
    shard = shards.load(0)
    [loaded] = read_progress(tenant.warehouse, tenant.name)
    later = begun + 3_600_000_000
    tick = Delivery(0, 2, later, 0, None, tick=True, drained=False, signature="")
    shards.receive(shard, tick)
    shard.progressed_at = -3600.0
    shards.flush([(0, shard)], splits=2)
    [one] = read_progress(tenant.warehouse, tenant.name)
    assert one.updated_at == loaded.updated_at
    shards.receive(shard, structs.replace(tick, split=1, sent=later + 1))
    shard.progressed_at = -3600.0
    shards.flush([(0, shard)], splits=2)
    [both] = read_progress(tenant.warehouse, tenant.name)
    assert both.updated_at == later


def test_of_several_copies_the_first_received_counts_then_the_least_hash(tenant: Tenant) -> None:
    rng = random.Random(1)
    copies = [
        event(
            str(number % 20),
            timestamp=f"2026-01-31T{13 + number % 3}:30:00Z",
            ingested_at=f"2026-01-31T16:00:0{rng.randrange(3)}.{rng.randrange(2)}Z",
            properties={"x": number},
        )
        for number in range(200)
    ]
    stored = tenant.store(copies).to_pylist()
    expected = {
        key: (min((row["ingested_at"], row["content_hash"]) for row in of), newest_of(of))
        for key, of in grouped(stored).items()
    }
    reader = ShardReader(tenant.warehouse, tenant.name, 0, 1)
    found = pa.Table.from_batches(reader.identities(0, 0)).to_pylist()
    assert len(found) == len(expected) == 20
    for row in found:
        (at, content), newest = expected[row["identity_hash"]]
        assert row["owner"] == owner_hash(tenant.name, "c")
        assert row["content"] == int.from_bytes(content[:8], "big")
        assert (row["ingested_at"], row["newest"]) == (microseconds(at), microseconds(newest))


def grouped(rows: list[Row]) -> dict[bytes, list[Row]]:
    found: dict[bytes, list[Row]] = {}
    for row in rows:
        found.setdefault(row["identity_hash"], []).append(row)
    return found


def newest_of(rows: list[Row]) -> datetime:
    return max(row["timestamp"] for row in rows)


def test_what_a_small_budget_forgets_is_counted_once_after_repair(tenant: Tenant) -> None:
    options = replace(options_of(tenant), budget=15)
    shards = ShardWork(tenant.warehouse, options, Timeline.of(tenant.catalog))
    shard = shards.load(0)
    slice_us = options.horizon_us // HORIZON_SLICES
    early = [row for number in (13, 14) for row in several(number)]
    later, newest = several(15), several(16)

    def take(rows: list[Row], clock: int) -> None:
        stored = tenant.store(rows)
        frames = [
            (version, slim.height, pack(slim))
            for version, slim in shards.timeline.meter(tenant.name, stored, report=False).frames
        ]
        at = max(microseconds(parse_timestamp(row["timestamp"])) for row in rows)
        brought = Delivery(
            0, 1, at, clock, None, True, False, shards.timeline.signature, at, frames
        )
        assert shards.outdated(shard, brought) is None
        shards.receive(shard, brought)
        shards.flush([(0, shard)], splits=1)

    first = shard.state.slice * slice_us
    take(early, first)
    take(later, first + slice_us)
    assert tenant.dirty() == set()
    take(early + newest, first + slice_us)
    assert {reason for _, _, reason in tenant.dirty()} == {"forgotten"}
    assert {bucket for _, bucket, _ in tenant.dirty()} == {
        f"2026-01-31T{number}:00:00Z" for number in (13, 14)
    }
    once = plain_usage(tenant.catalog, early + later + newest)
    assert tenant.usage() != once
    tenant.own("2026-01-31T17:00:00Z")
    tenant.repair()
    assert tenant.usage() == once
    assert tenant.dirty() == set()


def several(number: int) -> list[Row]:
    return [
        event(
            f"{number}:{minute}",
            timestamp=f"2026-01-31T{number}:{minute}:00Z",
            properties={"x": minute},
        )
        for minute in range(10, 20)
    ]


def test_a_shard_that_loads_while_its_stream_runs_dry_gives_its_buckets_away(
    tenant: Tenant,
) -> None:
    shards = work(tenant)
    waiting = time.time_ns() // 1000 - 5_000_000
    shard = shards.load(0)
    for split in (0, 1):
        last = Delivery(split, 2, waiting, 0, None, tick=True, drained=True, signature="")
        assert shards.receive(shard, last)
        shards.flush([(0, shard)], splits=2)
    [given_away] = read_progress(tenant.warehouse, tenant.name)
    assert not given_away.owned


def test_a_restored_shard_hears_its_splits_again_before_it_gives_its_buckets_away(
    tenant: Tenant,
) -> None:
    options, state = options_of(tenant), KeyedState()
    at = time.time_ns() // 1000 + 1_000_000

    def say(split: int, seconds: int) -> bool:
        """A split says that it is drained; whether the stream still owns its buckets."""
        sent = at + seconds * 1_000_000
        last = Delivery(split, 2, sent, 0, None, tick=True, drained=True, signature="")
        stage = ShardStage(options, Timeline.of(tenant.catalog))
        stage.setup()
        list(stage.process((0, encode(last)), *state.parameters))
        [progress] = read_progress(tenant.warehouse, tenant.name)
        return progress.owned

    assert say(0, 1)
    # It went on from here until it was killed: what was read since is read again.
    [before] = read_progress(tenant.warehouse, tenant.name)
    write_progress(tenant.warehouse, tenant.name, [replace(before, updated_at=at + 5_000_000)])
    MEMORY.drop(options.job)
    assert say(1, 10)
    assert not say(0, 11)


@pytest.mark.parametrize("hours", [(72, 24), (24, 72)])
def test_a_shard_that_is_restored_under_another_horizon_forgets_nothing(
    tenant: Tenant, hours: tuple[int, int]
) -> None:
    state, rows = KeyedState(), several(13)
    clock = time.time_ns() // 1000
    for lateness in hours:
        options = replace(options_of(tenant), lateness_us=lateness * 3_600_000_000)
        stage = ShardStage(options, timeline := Timeline.of(tenant.catalog))
        stage.setup()
        frames = [
            (version, slim.height, pack(slim))
            for version, slim in timeline.meter(
                tenant.name, tenant.store(rows), report=False
            ).frames
        ]
        at = microseconds(parse_timestamp(CLOSED_UNTIL))
        brought = Delivery(0, 1, at, clock, None, True, False, timeline.signature, at, frames)
        list(stage.process((0, encode(brought)), *state.parameters))
        assert tenant.usage() == plain_usage(tenant.catalog, rows)
        shard = MEMORY.take(options.job, 0, state.parameters[0].read())
        assert shard is not None
        assert shard.state.slice == clock // (options.horizon_us // HORIZON_SLICES)
        MEMORY.drop(options.job)
    assert tenant.dirty() == set()


class KeyedState:
    """Beam's state of one key, as `ShardStage.process` takes it."""

    def __init__(self) -> None:
        self.parameters = (Value(), Value(), *(Bag() for _ in range(2 + SLICES)))


class Value:
    def __init__(self) -> None:
        self._held: bytes | None = None

    def read(self) -> bytes | None:
        return self._held

    def write(self, value: bytes) -> None:
        self._held = value


class Bag:
    def __init__(self) -> None:
        self._held: list[bytes] = []

    def read(self) -> list[bytes]:
        return list(self._held)

    def add(self, value: bytes) -> None:
        self._held.append(value)

    def clear(self) -> None:
        self._held.clear()
