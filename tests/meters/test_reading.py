"""Reading usage: hours, days and periods are what merging the events directly gives."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.aggregators import EMPTY, State, extract, merge
from meters.buckets import day_of, hour_of
from meters.catalog import Catalog
from meters.periods import Periods, Span, calendar_months
from meters.reading import Granularity, UsageCell, read_usage
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant
from meters.usage import USAGE, USAGE_VALUES
from meters.zones import from_microseconds
from tests.generators import world
from tests.meters.chain import Row, catalog_of, event, measured, meter, plain_usage, stored
from tests.oracle import Oracle

GRANULARITIES: tuple[Granularity, ...] = ("hour", "day", "period")


def read(
    catalog: Catalog,
    events: Sequence[Row],
    granularity: Granularity,
    group_by: Sequence[str] | None = None,
) -> list[UsageCell]:
    measurement, cells, _ = measured(catalog, events)
    return read_usage(catalog, *stored(measurement, cells), granularity, group_by)


def printed(cells: Sequence[UsageCell]) -> list[Any]:
    return [
        (
            cell.customer,
            cell.subscription,
            cell.meter,
            format_instant(cell.start),
            format_instant(cell.end),
            cell.group,
            Decimal(cell.value),
            cell.events,
        )
        for cell in cells
    ]


def by_oracle(rows: Sequence[Row]) -> list[Any]:
    def scalar(value: object) -> object:
        if isinstance(value, Fraction):
            return Decimal(value.numerator) / value.denominator
        return value

    return [
        (
            *(row[name] for name in ("customer", "subscription", "meter", "start", "end")),
            canonical_json({key: scalar(value) for key, value in row["group"].items()}),
            Decimal(row["value"]),
            row["events"],
        )
        for row in rows
    ]


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_usage_is_what_an_independent_oracle_says(seed):
    catalog, events = world(seed)
    oracle = Oracle(catalog, events)
    for granularity in GRANULARITIES:
        found = printed(read(Catalog.model_validate(catalog), events, granularity))
        assert sorted(found, key=str) == sorted(by_oracle(oracle.usage(granularity)), key=str)


def slot(catalog: Catalog, customer: str, owner: str, us: int, granularity: str) -> Span:
    """The hour, day or period that a bucket belongs to, by the scalar rules."""
    at = from_microseconds(us)
    zone = catalog.customers_by_id[customer].time_zone
    if granularity == "hour":
        return hour_of(at, zone)
    if granularity == "day":
        return day_of(at, zone)
    entry = catalog.subscriptions_by_id.get(owner)
    span = None
    if entry is not None:
        unit = catalog.plans_by_id[entry.plan].period
        span = Periods(entry.start, zone, unit, entry.end).containing(at)
    span = span or calendar_months(zone).containing(at)
    assert span is not None
    return span


def merged(
    catalog: Catalog, events: Sequence[Row], granularity: str, group_by: Sequence[str] | None
) -> list[Any]:
    """The same by merging the states of single events."""
    states: dict[tuple[Any, ...], State] = {}
    for (customer, name, owner, group, start), (_, state) in plain_usage(catalog, events).items():
        span = slot(catalog, customer, owner, start, granularity)
        if group_by is not None:
            whole = parse_json(group)
            assert isinstance(whole, dict)
            group = canonical_json({key: whole[key] for key in whole if key in group_by})
        key = customer, owner or None, name, span.start, span.end, group
        states[key] = merge(states.get(key, EMPTY), state)
    kinds = {each.id: each.kind for each in catalog.meters}
    return [
        (
            *key[:3],
            *map(format_instant, key[3:5]),
            key[5],
            extract(kinds[key[2]], state),
            state.events,
        )
        for key, state in states.items()
        if not catalog.meters_by_id[key[2]].over_spans
    ]


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.sampled_from(GRANULARITIES),
    st.sampled_from([None, (), ("g",), ("f",), ("f", "g"), ("unknown",)]),
)
def test_any_grouping_is_the_merge_of_the_single_events(seed, granularity, group_by):
    catalog, events = world(seed)
    model = Catalog.model_validate(catalog)
    found = printed(read(model, events, granularity, group_by))
    plain = [row for row in found if not model.meters_by_id[row[2]].over_spans]
    assert sorted(plain, key=str) == sorted(merged(model, events, granularity, group_by), key=str)
    expected = by_oracle(Oracle(catalog, events).usage(granularity, group_by))
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_cells_come_by_customer_subscription_meter_start_and_group():
    for seed in range(3):
        catalog, events = world(seed)
        cells = read(Catalog.model_validate(catalog), events, "day")
        assert cells == sorted(
            cells, key=lambda c: (c.customer, c.subscription or "", c.meter, c.start, c.group)
        )


PLAN: Row = {
    "id": "p",
    "currency": "EUR",
    "charges": [{"id": "u", "meter": "m", "price": {"model": "unit", "unit_amount": "1"}}],
}


def with_subscription(start: str, end: str | None = None) -> Catalog:
    return catalog_of(
        meter("count"),
        zone="Europe/Berlin",
        plans=[PLAN],
        subscriptions=[{"id": "s", "customer": "c", "plan": "p", "start": start, "end": end}],
    )


def spans(catalog: Catalog, granularity: Granularity, *times: str, **given: Any) -> list[Any]:
    events = [event(n, timestamp=at, ingested_at=at, **given) for n, at in enumerate(times)]
    found = printed(read(catalog, events, granularity))
    assert sorted(found, key=str) == sorted(merged(catalog, events, granularity, None), key=str)
    return [(row[1], row[3], row[4], row[7]) for row in found]


def test_parts_of_an_hour_that_a_boundary_cut_apart_come_together_again():
    catalog = with_subscription("2026-01-15T10:17:33Z")
    times = "2026-02-15T10:17:32Z", "2026-02-15T10:17:33Z"
    assert spans(catalog, "hour", *times) == [
        ("s", "2026-02-15T10:00:00Z", "2026-02-15T11:00:00Z", 2)
    ]
    assert spans(catalog, "day", *times) == [
        ("s", "2026-02-14T23:00:00Z", "2026-02-15T23:00:00Z", 2)
    ]
    assert spans(catalog, "period", *times) == [
        ("s", "2026-01-15T10:17:33Z", "2026-02-15T10:17:33Z", 1),
        ("s", "2026-02-15T10:17:33Z", "2026-03-15T10:17:33Z", 1),
    ]


def test_usage_without_a_subscription_has_calendar_months_of_the_customers_zone():
    catalog = with_subscription("2027-01-01T00:00:00Z")
    assert spans(catalog, "period", "2026-01-31T22:59:59Z", "2026-01-31T23:00:00Z") == [
        (None, "2025-12-31T23:00:00Z", "2026-01-31T23:00:00Z", 1),
        (None, "2026-01-31T23:00:00Z", "2026-02-28T23:00:00Z", 1),
    ]


def test_usage_of_a_subscription_outside_its_dates_is_apart_from_its_periods():
    # The period and the calendar month begin together, but are not the same span.
    catalog = with_subscription("2025-12-31T23:00:00Z", "2026-01-15T23:00:00Z")
    times = "2026-01-10T00:00:00Z", "2026-01-20T00:00:00Z"
    assert spans(catalog, "period", *times, external_subscription_id="s") == [
        ("s", "2025-12-31T23:00:00Z", "2026-01-15T23:00:00Z", 1),
        ("s", "2025-12-31T23:00:00Z", "2026-01-31T23:00:00Z", 1),
    ]


def test_an_average_of_a_day_is_the_days_and_not_one_of_hours():
    events = [
        event(n, timestamp=f"2026-01-31T{hour}:00:00Z", properties={"x": x})
        for n, (hour, x) in enumerate([("01", 1), ("02", 2), ("02", 3)])
    ]
    [cell] = read(catalog_of(meter("avg")), events, "day")
    assert (cell.value, cell.events) == (Decimal(2), 3)


def test_distinct_values_of_hours_are_not_added_up():
    events = [
        event(n, timestamp=f"2026-01-31T0{n}:00:00Z", properties={"x": x, "g": n})
        for n, x in enumerate(["a", "b", "a", 1, "1"])
    ]
    catalog = catalog_of(meter("unique_count", group_by=["g"]))
    assert len(read(catalog, events, "day")) == 5
    [cell] = read(catalog, events, "day", [])
    assert (cell.value, cell.events, cell.group) == (Decimal(4), 5, "{}")


def test_the_latest_of_merged_groups_ties_by_the_id():
    names = ["z", "é", "\uffff", "😀", "a"]
    events = [event(n, event_id=name, properties={"x": n, "g": n}) for n, name in enumerate(names)]
    catalog = catalog_of(meter("latest", group_by=["g"]))
    for some in (events, events[::-1]):
        [cell] = read(catalog, some, "hour", [])
        assert (cell.value, cell.events) == (Decimal(3), 5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_no_usage_is_no_cells_and_unknown_meters_and_customers_are_left_out(granularity):
    empty = USAGE.to_frame(), USAGE_VALUES.to_frame()
    catalog = catalog_of(meter("unique_count"))
    for each in (catalog, Catalog()):
        assert read_usage(each, *empty, granularity) == []
    measurement, cells, _ = measured(catalog, [event(1, properties={"x": 1})])
    rows, values = stored(measurement, cells)
    assert len(read_usage(catalog, rows, values, granularity)) == 1
    assert read_usage(Catalog(), rows, values, granularity) == []
    stranger = pl.lit("stranger").alias("external_customer_id")
    gone = rows.with_columns(stranger), values.with_columns(stranger)
    assert read_usage(catalog, *gone, granularity) == []
