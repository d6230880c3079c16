"""Shards of a stream when catalogs are announced: they go on, or meter anew, and are exact."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from meters.catalog import Catalog
from meters.catalog_file import catalog_content, catalog_hash
from meters.timeline import ALWAYS, Timeline
from meters.timestamps import parse_timestamp
from meters.zones import microseconds
from tests.meters.chain import Row, Usage, catalog_of, event, meter, plain_usage
from tests.pipelines.runs import Tenant
from transforms.deliveries import Delivery
from transforms.kafka_client import KafkaSettings
from transforms.shard_flush import ShardWork
from transforms.stream_options import StreamOptions
from warehouse.catalogs import announce

OLD = catalog_of(meter(filters={"k": ["a"]}), zone="Asia/Kathmandu")
NEW = catalog_of(meter(filters={"k": ["b"]}), meter("max", id="top"), zone="Asia/Kathmandu")
FROM = microseconds(parse_timestamp("2026-01-31T12:00:00Z"))
FIRST_NEW = "2026-01-31T12:15:00Z"
"""Hours in Kathmandu start at a quarter past."""


def events(*hours: int) -> list[Row]:
    return [
        event(
            f"{hour}:{minute}",
            timestamp=f"2026-01-31T{hour}:{minute}:00Z",
            ingested_at="2026-01-31T23:00:00Z",
            properties={"x": hour, "k": "ab"[minute % 2]},
        )
        for hour in hours
        for minute in (10, 11, 40, 41)
    ]


def expected(rows: list[Row]) -> Usage:
    new = [row for row in rows if row["timestamp"] >= FIRST_NEW]
    old = [row for row in rows if row["timestamp"] < FIRST_NEW]
    return plain_usage(OLD, old) | plain_usage(NEW, new)


def delivery(timeline: Timeline) -> Delivery:
    return Delivery(
        split=0,
        splits=1,
        sent=0,
        clock=0,
        watermark=None,
        tick=True,
        drained=False,
        signature=timeline.signature,
    )


@pytest.fixture
def tenant(new_tenant: Callable[[Catalog], Tenant]) -> Tenant:
    return new_tenant(NEW)


def work_of(tenant: Tenant) -> ShardWork:
    kafka = KafkaSettings("broker:9092", "events", "group", splits=1)
    options = StreamOptions(uuid.uuid4().hex, tenant.name, tenant.url, kafka, shards=1)
    return ShardWork(tenant.warehouse, options, Timeline.of(OLD))


def announced(tenant: Tenant) -> Timeline:
    for at, catalog in ((0, OLD), (FROM, NEW)):
        content = catalog_content(catalog)
        announce(tenant.warehouse, tenant.name, at, catalog_hash(catalog), content)
    return Timeline([(ALWAYS, OLD), (FROM, NEW)])


def test_a_shard_before_the_change_goes_on_as_it_is(tenant: Tenant) -> None:
    tenant.store(events(10, 11))
    work = work_of(tenant)
    shard = work.load(0)
    timeline = announced(tenant)
    known = len(shard.state.identities)
    assert work.outdated(shard, delivery(timeline)) is None
    assert shard.state.timeline.signature == timeline.signature
    assert len(shard.state.identities) == known


def test_a_shard_beyond_the_change_meters_anew_and_marks_what_is_closed(tenant: Tenant) -> None:
    rows = events(10, 11, 12, 13, 14, 15)
    tenant.store(rows)
    work = work_of(tenant)
    shard = work.load(0)
    assert tenant.usage() == plain_usage(OLD, rows)
    timeline = announced(tenant)
    shard.state.close(microseconds(parse_timestamp("2026-01-31T14:15:00Z")))
    since = work.outdated(shard, delivery(timeline))
    assert since == FROM
    work.load(0, shard.state.closed_until, since)
    assert {bucket for _, bucket, reason in tenant.dirty() if reason == "catalog"} == {
        f"2026-01-31T{hour}:{quarter}:00Z"
        for hour in (12, 13, 14)
        for quarter in ("00", "30")
        if (hour, quarter) != (14, "30")
    }
    assert tenant.usage() != expected(rows)
    tenant.repair()
    assert tenant.usage() == expected(rows)
    assert tenant.dirty() == set()


def test_events_that_were_made_by_catalogs_of_before_are_loaded_instead(tenant: Tenant) -> None:
    rows = events(10, 13)
    work = work_of(tenant)
    old = work.timeline
    shard = work.load(0)
    timeline = announced(tenant)
    assert work.outdated(shard, delivery(timeline)) is None
    late = events(13)
    newest = max(microseconds(parse_timestamp(row["timestamp"])) for row in late)
    packed = (0, len(late), b"not read")
    given = delivery(old)
    from_before = Delivery(
        **{
            name: getattr(given, name)
            for name in given.__struct_fields__
            if name not in ("frames", "newest")
        },
        newest=newest,
        frames=[packed],
    )
    tenant.store(rows)
    since = work.outdated(shard, from_before)
    assert since == FROM
    assert from_before.without_frames().frames == []
    work.load(0, shard.state.closed_until, since)
    assert tenant.usage() == expected(rows)
