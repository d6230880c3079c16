"""Columns under several catalogs in time are the scalar rules under the catalog of each hour."""

from __future__ import annotations

import pickle

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from meters.buckets import HOUR_US, bucket_of
from meters.catalog import Catalog
from meters.deduplicate import deduplicate
from meters.measure import Cells
from meters.timeline import ALWAYS, Timeline, first_difference
from meters.timestamps import parse_timestamp
from meters.usage import USAGE, USAGE_VALUES, usage_rows
from meters.versions import measurement_of, projection_of
from meters.zones import microseconds
from tests.meters.chain import (
    Row,
    Usage,
    as_usage,
    catalog_of,
    decoded,
    first_copies,
    meter,
    plain_usage,
    seeded,
)


def changed(catalog: Catalog) -> Catalog:
    """Without its first meter and customer, without subscriptions, and with other groups."""
    meters = [each.model_copy(update={"group_by": []}) for each in catalog.meters[1:]]
    return catalog.model_copy(
        update={"meters": meters, "customers": catalog.customers[1:], "subscriptions": []}
    )


def measured(timeline: Timeline, events: list[Row], shards: int) -> Usage:
    """Usage as a backfill makes it: projected in two batches, cut by customer, merged."""
    projection, measurement = projection_of(timeline), measurement_of(timeline)
    halves = (events[::2], events[1::2])
    slim = pl.concat([projection.project(decoded(half).events).slim for half in halves])
    parts: dict[tuple[int, int], list[Cells]] = {}
    for half in (slim["identity_low"] % 2 == 0, slim["identity_low"] % 2 == 1):
        for cells in measurement.measure(deduplicate(slim.filter(half)).events).cells:
            for shard, part in measurement.split(cells, shards):
                parts.setdefault((shard, part.family), []).append(part)
    made = [usage_rows(measurement, measurement.merge(found)) for found in parts.values()]
    return as_usage(
        pl.concat([USAGE.to_frame(), *(rows for rows, _ in made)]),
        pl.concat([USAGE_VALUES.to_frame(), *(values for _, values in made)]),
    )


@given(st.integers(0, 10_000), st.integers(-3, 3), st.integers(1, 3))
def test_each_hour_is_metered_by_its_catalog(seed: int, hours: int, shards: int) -> None:
    old, events = seeded(seed)
    new = changed(old)
    copies = first_copies(events)
    middle = sorted(microseconds(parse_timestamp(each["timestamp"])) for each in copies)
    effective = (middle[len(middle) // 2] // HOUR_US + hours) * HOUR_US if middle else HOUR_US
    zones = {customer.id: customer.time_zone for customer in new.customers}

    def is_new(entry: Row) -> bool:
        zone = zones.get(entry["external_customer_id"], "UTC")
        at = parse_timestamp(entry["timestamp"])
        return microseconds(bucket_of(at, zone, []).start) >= effective

    expected = plain_usage(old, [each for each in copies if not is_new(each)])
    expected |= plain_usage(new, [each for each in copies if is_new(each)])
    timeline = pickle.loads(pickle.dumps(Timeline([(ALWAYS, old), (effective, new)])))
    assert measured(timeline, events, shards) == expected


def test_one_catalog_is_measured_as_ever() -> None:
    catalog = catalog_of(meter())
    timeline = Timeline.of(catalog)
    assert measurement_of(timeline) is timeline.measurements[0]
    assert timeline.everything is catalog


def test_everything_has_what_any_catalog_has_and_the_last_one_of_each() -> None:
    one = catalog_of(meter(id="a"), meter("max", id="b"))
    other = catalog_of(meter("min", id="b"), meter(id="c"))
    everything = Timeline([(ALWAYS, one), (HOUR_US, other)]).everything
    assert [(each.id, each.aggregation) for each in everything.meters] == [
        ("a", "sum"),
        ("b", "min"),
        ("c", "sum"),
    ]


def test_timelines_differ_from_the_first_catalog_on_that_is_not_the_same() -> None:
    one = ((ALWAYS, "a"), (5, "b"))
    assert first_difference(one, one) is None
    assert first_difference(one, (*one, (9, "c"))) == 9
    assert first_difference((*one, (9, "c")), one) == 9
    assert first_difference(one, ((ALWAYS, "a"), (3, "b"))) == 3
    assert first_difference(one, ((ALWAYS, "a"), (5, "c"))) == 5
    assert first_difference(one, ((ALWAYS, "x"), (5, "b"))) == ALWAYS
