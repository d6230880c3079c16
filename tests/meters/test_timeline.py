"""Catalogs in time: an hour belongs to the catalog that was in effect when it began."""

from __future__ import annotations

from datetime import UTC

import pyarrow as pa

from meters.buckets import HOUR_US
from meters.timeline import ALWAYS, Timeline
from meters.timestamps import format_instant, parse_timestamp
from meters.zones import from_microseconds, microseconds
from tests.meters.chain import catalog_of, decoded, event, meter

TENANT = "default"


def versions(timeline: Timeline, *times: str) -> list[int]:
    events = decoded(
        [
            event(1, timestamp=time, event_id=time, ingested_at="2027-06-01T00:00:00Z")
            for time in times
        ]
    ).events
    frames = timeline.meter(TENANT, events, report=False).frames
    found = {int(at): version for version, slim in frames for at in slim["timestamp"].to_list()}
    at = events["timestamp"].cast(pa.int64()).to_pylist()
    columns = [found[moment] for moment in at]
    scalar = [
        timeline.version_at("c", from_microseconds(moment).replace(tzinfo=UTC)) for moment in at
    ]
    assert scalar == columns
    return columns


def test_one_catalog_meters_everything() -> None:
    timeline = Timeline([(ALWAYS, catalog_of(meter()))])
    assert versions(timeline, "2026-11-01T00:00:00Z", "2027-01-01T00:00:00Z") == [0, 0]


def test_an_hour_that_has_begun_stays_with_the_catalog_before() -> None:
    effective = microseconds_of("2026-11-01T12:00:00Z")
    for zone, first in (
        ("UTC", "2026-11-01T12:00:00Z"),
        ("Asia/Kathmandu", "2026-11-01T12:15:00Z"),
        ("Asia/Kolkata", "2026-11-01T12:30:00Z"),
    ):
        old, new = catalog_of(meter(), zone=zone), catalog_of(meter("max"), zone=zone)
        timeline = Timeline([(ALWAYS, old), (effective, new)])
        before = microseconds_of(first) - 1
        times = [rfc3339(before - HOUR_US), rfc3339(before), first, "2026-12-01T00:00:00Z"]
        assert versions(timeline, *times) == [0, 0, 1, 1], zone


def test_the_signature_names_catalogs_and_instants() -> None:
    one, other = catalog_of(meter()), catalog_of(meter("max"))
    signatures = {
        Timeline(entries).signature
        for entries in (
            [(ALWAYS, one)],
            [(ALWAYS, other)],
            [(ALWAYS, one), (HOUR_US, other)],
            [(ALWAYS, one), (2 * HOUR_US, other)],
        )
    }
    assert len(signatures) == 4
    assert Timeline([(ALWAYS, one)]).signature in signatures


def microseconds_of(text: str) -> int:
    return microseconds(parse_timestamp(text))


def rfc3339(at: int) -> str:
    return format_instant(from_microseconds(at))
