"""Measuring: columns of events amount to what the scalar rules say, however they are sharded."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meters.aggregators import EMPTY, State, merge
from meters.catalog import Catalog
from meters.deduplicate import deduplicate
from meters.measure import Cells, Measurement
from meters.timestamps import format_instant, parse_timestamp
from meters.zones import from_microseconds, microseconds
from tests.meters.chain import (
    Row,
    as_usage,
    catalog_of,
    event,
    measured,
    meter,
    plain_usage,
    seeded,
    slim_of,
    stored,
)

PLAN: Row = {
    "id": "p",
    "currency": "EUR",
    "charges": [{"id": "u", "meter": "m", "price": {"model": "unit", "unit_amount": "1"}}],
}


def subscribed(
    *subscriptions: Row, zone: str = "UTC", period: str = "month", **given: Any
) -> Catalog:
    """One customer in `zone` with these subscriptions of a plan that charges the meter `m`."""
    return catalog_of(
        meter("count"),
        zone=zone,
        plans=[{**PLAN, "period": period}, {**PLAN, "id": "other", "charges": []}],
        subscriptions=[
            {"id": f"s{n}", "customer": "c", "plan": "p", **each}
            for n, each in enumerate(subscriptions)
        ],
        **given,
    )


def buckets(catalog: Catalog, *times: str, **given: Any) -> list[tuple[str, str, str, int]]:
    """(start, end, subscription, events) of the buckets of events at these times."""
    events = [event(n, timestamp=at, **given) for n, at in enumerate(times)]
    for each in events:
        each["ingested_at"] = each["timestamp"]
    measurement, cells, _ = measured(catalog, events)
    usage = as_usage(*stored(measurement, cells))
    assert usage == plain_usage(catalog, events)
    return [
        (text(start), text(end), subscription, state.events)
        for (_, _, subscription, _, start), (end, state) in sorted(usage.items())
    ]


def text(us: int) -> str:
    return format_instant(from_microseconds(us))


# Equal to the scalar rules


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 6))
@example(1, 3)
def test_usage_is_that_of_the_scalar_rules_over_any_sharding(seed, shards):
    """Worlds have odd anchors, several subscriptions, ends in mid-hour, DST and +05:45."""
    catalog, events = seeded(seed)
    expected = plain_usage(catalog, events)
    measurement, cells, unique = measured(catalog, events)
    assert as_usage(*stored(measurement, cells)) == expected
    sharded = unique.with_columns(shard=pl.col("identity") % shards).partition_by("shard")
    parts = [measurement.measure(part.drop("shard")) for part in sharded]
    for writers in (1, 2, 3):
        merged = merged_by_writer(measurement, [c for part in parts for c in part.cells], writers)
        assert as_usage(*stored(measurement, merged)) == expected
    whole = measurement.measure(unique)
    assert sum(part.meter_errors for part in parts) == whole.meter_errors
    assert sum(part.unattributed for part in parts) == whole.unattributed


def merged_by_writer(measurement: Measurement, cells: list[Cells], writers: int) -> list[Cells]:
    """Split by customer, then merged for each writer and family, in two steps."""
    keyed: dict[tuple[int, int], list[Cells]] = {}
    for part in cells:
        for writer, piece in measurement.split(part, writers):
            keyed.setdefault((writer, part.family), []).append(piece)
    return [
        measurement.merge([measurement.merge(parts[:2]), *parts[2:]]) for parts in keyed.values()
    ]


def test_every_customer_has_one_writer():
    catalog = Catalog.model_validate(
        {"meters": [meter()], "customers": [{"id": f"c{n}"} for n in range(7)]}
    )
    events = [event(n, external_customer_id=f"c{n % 7}", properties={"x": 1}) for n in range(30)]
    measurement, [cells], _ = measured(catalog, events)
    pieces = dict(measurement.split(cells, 3))
    customers = {writer: set(piece.rows["customer"]) for writer, piece in pieces.items()}
    assert customers == {0: {0, 3, 6}, 1: {1, 4}, 2: {2, 5}}
    assert sum(piece.rows["events:0"].sum() for piece in pieces.values()) == 30
    [(writer, same)] = measurement.split(cells, 1)
    assert (writer, same) == (0, cells)


def test_an_odd_anchor_cuts_the_hours_that_its_periods_begin_in():
    catalog = subscribed({"start": "2026-01-31T10:17:33Z"})
    assert buckets(
        catalog,
        "2026-01-31T10:17:32.999999Z",
        "2026-01-31T10:17:33Z",
        "2026-02-28T10:17:32.999999Z",
        "2026-02-28T10:17:33Z",
        "2026-03-31T10:17:33Z",
        "2026-03-01T10:17:33Z",
    ) == [
        ("2026-01-31T10:00:00Z", "2026-01-31T11:00:00Z", "", 1),
        ("2026-01-31T10:17:33Z", "2026-01-31T11:00:00Z", "s0", 1),
        ("2026-02-28T10:00:00Z", "2026-02-28T10:17:33Z", "s0", 1),
        ("2026-02-28T10:17:33Z", "2026-02-28T11:00:00Z", "s0", 1),
        ("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "s0", 1),
        ("2026-03-31T10:17:33Z", "2026-03-31T11:00:00Z", "s0", 1),
    ]


def test_an_end_in_mid_hour_cuts_that_hour():
    end = "2026-01-31T10:30:00Z"
    catalog = subscribed({"start": "2026-01-01T00:00:00Z", "end": end})
    assert buckets(catalog, "2026-01-31T10:29:59.999999Z", end) == [
        ("2026-01-31T10:00:00Z", "2026-01-31T11:00:00Z", "", 1),
        ("2026-01-31T10:00:00Z", "2026-01-31T10:30:00Z", "s0", 1),
    ]


def test_hours_are_those_of_the_customers_clock():
    catalog = subscribed({"start": "2026-01-14T18:15:00Z"}, zone="Asia/Kathmandu")
    assert buckets(catalog, "2026-01-31T10:14:59Z", "2026-01-31T10:15:00Z") == [
        ("2026-01-31T09:15:00Z", "2026-01-31T10:15:00Z", "s0", 1),
        ("2026-01-31T10:15:00Z", "2026-01-31T11:15:00Z", "s0", 1),
    ]


def test_a_repeated_hour_is_two_buckets_and_a_half_hour_change_makes_a_short_one():
    catalog = subscribed(zone="Europe/Berlin")
    assert buckets(catalog, "2025-10-26T00:30:00Z", "2025-10-26T01:30:00Z") == [
        ("2025-10-26T00:00:00Z", "2025-10-26T01:00:00Z", "", 1),
        ("2025-10-26T01:00:00Z", "2025-10-26T02:00:00Z", "", 1),
    ]
    catalog = subscribed(zone="Australia/Lord_Howe")
    assert buckets(catalog, "2025-10-04T15:29:59Z", "2025-10-04T15:30:00Z") == [
        ("2025-10-04T14:30:00Z", "2025-10-04T15:30:00Z", "", 1),
        ("2025-10-04T15:30:00Z", "2025-10-04T16:00:00Z", "", 1),
    ]


def test_of_several_subscriptions_the_earliest_that_charges_the_meter_has_the_event():
    catalog = subscribed(
        {"start": "2026-01-20T00:00:00Z"},
        {"start": "2026-01-10T00:00:00Z", "end": "2026-01-25T00:00:00Z"},
        {"start": "2026-01-01T00:00:00Z", "plan": "other"},
    )
    days = [f"2026-01-{day}T12:00:00Z" for day in ("05", "10", "24", "26")]
    assert [row[2] for row in buckets(catalog, *days)] == ["", "s0", "s1", "s1"]
    assert {row[0][8:10]: row[2] for row in buckets(catalog, *days)} == {
        "05": "",
        "10": "s1",
        "24": "s1",
        "26": "s0",
    }


@pytest.mark.parametrize(
    ("explicit", "owner"),
    [("s0", "s0"), ("s1", "s1"), ("d0", ""), ("nobody's", ""), (None, "s0")],
)
def test_an_explicit_subscription_counts_where_it_is_the_customers_own(explicit, owner):
    catalog = Catalog.model_validate(
        {
            "meters": [meter("count")],
            "customers": [{"id": "c"}, {"id": "d"}],
            "plans": [PLAN, {**PLAN, "id": "other", "charges": []}],
            "subscriptions": [
                {"id": "s0", "customer": "c", "plan": "p", "start": "2026-01-01T00:00:00Z"},
                {"id": "s1", "customer": "c", "plan": "other", "start": "2027-01-01T00:00:00Z"},
                {"id": "d0", "customer": "d", "plan": "p", "start": "2026-01-01T00:00:00Z"},
            ],
        }
    )
    [row] = buckets(catalog, "2026-01-31T10:17:33Z", external_subscription_id=explicit)
    assert row[2] == owner


@pytest.mark.parametrize("period", ["day", "month"])
def test_a_measurement_cuts_the_same_hours_of_any_shard_whatever_it_has_seen(period):
    catalog = subscribed({"start": "2026-01-31T10:17:33Z"}, period=period)
    times = [
        f"{year}-0{month}-28T10:{minute}:00Z"
        for year in (2026, 2029)
        for month in (2, 3, 5)
        for minute in (10, 40)
    ]
    events = [event(n, timestamp=at, ingested_at=at) for n, at in enumerate(times)]
    expected = plain_usage(catalog, events)
    measurement, whole, unique = measured(catalog, events)
    assert as_usage(*stored(measurement, whole)) == expected
    for order in (range(12), reversed(range(12)), [11, 0, 5, 1, 10, 4, 2, 3, 6, 7, 8, 9]):
        parts = [measurement.measure(unique.slice(n, 1)).cells[0] for n in order]
        assert as_usage(*stored(measurement, [measurement.merge(parts)])) == expected


# What is counted


def test_unknown_customers_are_counted_and_nothing_else_is_done_with_them():
    catalog = catalog_of(meter("sum"))
    events = [event(1, external_customer_id="x"), event(2, properties={"x": 1})]
    measurement = Measurement(catalog)
    found = measurement.measure(slim_of(catalog, events))
    assert (found.unattributed, found.meter_errors) == (1, 0)
    assert sum(cells.rows.height for cells in found.cells) == 1


def test_a_value_that_one_meter_refuses_counts_for_the_others():
    catalog = catalog_of(
        meter("sum"), meter("max", id="n", property="y"), meter("count", id="c", group_by=["g"])
    )
    events = [
        event(1, properties={"x": 1, "y": 1}),
        event(2, properties={"x": "no", "y": 2}),
        event(3, properties={"x": 3, "g": []}),
    ]
    measurement, cells, unique = measured(catalog, events)
    usage = {key[1]: state for key, (_, state) in as_usage(*stored(measurement, cells)).items()}
    assert usage["m"] == State(events=2, sum=4 * 10**12)
    assert usage["n"] == State(events=2, max=2 * 10**12)
    assert usage["c"].events == 2
    assert measurement.measure(unique).meter_errors == 3


def test_events_that_are_no_meters_give_no_cells():
    catalog = catalog_of(meter("sum"))
    measurement = Measurement(catalog)
    found = measurement.measure(slim_of(catalog, [event(1, event_name="other")]))
    assert (found.cells, found.meter_errors, found.unattributed) == ([], 0, 0)
    assert measurement.measure(slim_of(catalog, [])).cells == []
    empty = Measurement(Catalog())
    assert empty.measure(slim_of(Catalog(), [event(1)])).unattributed == 1


def test_meters_that_look_at_the_same_events_share_their_cells():
    catalog = catalog_of(
        *(meter(a, id=a, group_by=["g"]) for a in ("sum", "max", "min", "avg", "latest", "count")),
        meter("unique_count", id="u", group_by=["g"]),
        meter("sum", id="other", group_by=["h"]),
        meter("sum", id="filtered", group_by=["g"], filters={"f": [1]}),
    )
    measurement = Measurement(catalog)
    assert [family.members for family in measurement.families] == [[0, 1, 2, 3, 4, 5, 6], [7], [8]]


def test_it_is_the_same_after_pickling():
    catalog, events = seeded(5)
    measurement, cells, unique = measured(catalog, events)
    again = pickle.loads(pickle.dumps(measurement))
    rows, values = stored(again, again.measure(unique).cells)
    assert as_usage(rows, values) == as_usage(*stored(measurement, cells))


def test_merging_states_by_hand_gives_the_merged_cells():
    catalog = catalog_of(meter("latest"), meter("unique_count", id="u", property="y"))
    events = [
        event(n, event_id=name, properties={"x": n, "y": n % 2})
        for n, name in enumerate(["é", "z", "😀", "a"])
    ]
    measurement = Measurement(catalog)
    unique = deduplicate(slim_of(catalog, events)).events
    parts = [measurement.measure(unique.slice(n, 1)).cells[0] for n in range(4)]
    by_hand: dict[Any, tuple[int, State]] = {}
    for part in parts:
        for key, (end, state) in as_usage(*stored(measurement, [part])).items():
            by_hand[key] = end, merge(by_hand.get(key, (end, EMPTY))[1], state)
    merged = as_usage(*stored(measurement, [measurement.merge(parts)]))
    assert merged == by_hand
    assert {key[1]: state.latest for key, (_, state) in merged.items()}["m"] == (
        microseconds(parse_timestamp(events[0]["timestamp"])),
        "😀".encode(),
        2 * 10**12,
    )


# Anchors whose periods begin at a whole hour need no cut


@settings(max_examples=80)
@given(
    st.sampled_from(
        [
            "Africa/Monrovia",
            "America/Caracas",
            "America/St_Johns",
            "Antarctica/Troll",
            "Asia/Kathmandu",
            "Asia/Pyongyang",
            "Australia/Lord_Howe",
            "Pacific/Apia",
        ]
    ),
    st.integers(0, 24 * 366 * 50),
    st.sampled_from(["day", "week", "month", "year"]),
    st.integers(-(10**9), 10**9),
)
def test_no_bucket_straddles_a_boundary_in_zones_that_change_by_other_than_an_hour(
    zone, hours, period, seconds
):
    start = datetime(1971, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    catalog = subscribed({"start": format_instant(start)}, zone=zone, period=period)
    moment = start + timedelta(seconds=seconds)
    if datetime(1970, 1, 2, tzinfo=UTC) < moment < datetime(2100, 1, 1, tzinfo=UTC):
        near = [moment + timedelta(minutes=15 * n) for n in range(-4, 5)]
        assert buckets(catalog, *map(format_instant, near))
