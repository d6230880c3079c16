"""The public transforms: a CombineFn for each aggregation, and events as readings."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.aggregators import EMPTY, OVER_SPANS, Reading, State, add, extract
from meters.catalog import Catalog, Kind
from meters.periods import Periods
from meters.scalars import parse_json
from meters.timestamps import format_instant, parse_timestamp
from meters.zones import from_microseconds, microseconds
from runners import launch
from tests.generators import Row, to_json, world
from tests.meters.chain import (
    as_usage,
    catalog_of,
    event,
    first_copies,
    measured,
    meter,
    since,
    stored,
)
from tests.transforms.combining import assert_combines
from transforms.combiners import REJECTED, ToReadings, UsageFn
from transforms.windows import LocalHours

KINDS: tuple[Kind, ...] = get_args(Kind)
METERS = {
    **{kind: {"aggregation": kind} for kind in KINDS},
    "percentile": {"aggregation": "percentile", "percentile": 50},
    "weighted_readings": {"aggregation": "weighted_sum", "level": "readings"},
    "active_count": {"aggregation": "unique_count", "operation_property": "o"},
}

readings = st.lists(
    st.builds(
        Reading,
        at=st.integers(0, 3),
        event_id=st.sampled_from(["a", "é", "\uffff", "😀"]) | st.text(max_size=2),
        scaled=st.integers(1 - 10**27, 10**27 - 1),
        value_hash=st.integers(0, 3).map(lambda n: bytes([n]) * 16),
    ),
    max_size=8,
    unique_by=lambda reading: reading.event_id,
)


@pytest.mark.parametrize("aggregation", KINDS)
@settings(max_examples=25)
@given(found=readings)
def test_a_usage_fn_gives_the_same_merged_compacted_and_sequential(aggregation, found):
    state = EMPTY
    for reading in found:
        state = add(aggregation, state, reading)
    percent = Fraction(50) if aggregation == "percentile" else None
    over = aggregation in OVER_SPANS
    expected = state if over else extract(aggregation, state, percent=percent)
    assert_combines(lambda: UsageFn(aggregation, percent), found, expected)


def parsed(events: Sequence[Row]) -> list[Row]:
    """Events as `ToReadings` takes them."""
    return [{**each, "properties": parse_json(to_json(each["properties"]))} for each in events]


class InBucket(beam.DoFn):
    """Adds the meter and the window's bounds to a combined value."""

    def __init__(self, meter: str) -> None:
        self._meter = meter

    def process(self, element: Any, window: Any = beam.DoFn.WindowParam) -> Any:
        (customer, group), value = element
        start, end = (bound.micros for bound in (window.start, window.end))
        yield customer, self._meter, group, start, end, value


def plain_form(
    catalog: Catalog, events: Sequence[Row], windows: LocalHours, pipeline: beam.Pipeline
) -> list[beam.PCollection]:
    """The README's form of usage, for each meter."""
    source = pipeline | beam.Create(parsed(events))
    return [
        (source | f"Read {each.id}" >> ToReadings(each)).readings
        | f"Window {each.id}" >> beam.WindowInto(windows)
        | f"Combine {each.id}" >> beam.CombinePerKey(UsageFn(each.kind, each.percent))
        | f"Bucket {each.id}" >> beam.ParDo(InBucket(each.id))
        for each in catalog.meters
    ]


def columnar_form(catalog: Catalog, events: Sequence[Row]) -> list[Any]:
    measurement, cells, _ = measured(catalog, events)
    meters = {each.id: each for each in catalog.meters}

    def value(name: str, start: int, state: State) -> object:
        kind = meters[name].kind
        if kind in OVER_SPANS:
            return since(-start, state) if kind == "weighted_sum" else state
        return extract(kind, state, percent=meters[name].percent)

    return [
        (customer, name, group, start, end, value(name, start, state))
        for (customer, name, _, group, start), (end, state) in as_usage(
            *stored(measurement, cells)
        ).items()
    ]


@pytest.mark.parametrize("seed", [3, 14])
def test_windows_and_combiners_over_single_events_equal_the_columnar_chain(seed):
    document, events = world(seed)
    document["subscriptions"] = []
    catalog = Catalog.model_validate(document)
    known = [
        each
        for each in first_copies(events)
        if each["external_customer_id"] in catalog.customers_by_id
    ]
    expected = columnar_form(catalog, known)
    assert len(expected) > 20
    windows = LocalHours(catalog.customers[0].time_zone)
    with beam.Pipeline(options=launch.options("direct")) as pipeline:
        found = plain_form(catalog, known, windows, pipeline) | beam.Flatten()
        assert_that(found, equal_to(expected))


def test_hours_cut_at_the_periods_of_a_subscription_equal_the_columnar_chain():
    start = "2026-01-31T10:17:33Z"
    catalog = catalog_of(
        *(meter(id=kind, group_by=["g"], **given) for kind, given in METERS.items()),
        zone="Asia/Kathmandu",
        plans=[
            {
                "id": "p",
                "currency": "EUR",
                "charges": [
                    {"id": a, "meter": a, "price": {"model": "unit", "unit_amount": "1"}}
                    for a in METERS
                ],
            }
        ],
        subscriptions=[{"id": "s", "customer": "c", "plan": "p", "start": start}],
    )
    base = microseconds(parse_timestamp(start))
    events = [
        event(n, timestamp=format_instant(from_microseconds(base + offset)), properties=properties)
        for n, offset in enumerate(
            [0, 1, 1_999_999, 60_000_000, 2_419_199_999_999, 2_419_200_000_000]
        )
        for properties in [{"x": n, "g": "é" if n % 2 else None}]
    ]
    for each in events:
        each["ingested_at"] = "2026-12-31T00:00:00Z"
    anchor = parse_timestamp(start)
    windows = LocalHours("Asia/Kathmandu", cut_at=[Periods(anchor, "Asia/Kathmandu", "month")])
    expected = columnar_form(catalog, events)
    assert {row[4] - row[3] for row in expected} != {
        timedelta(hours=1) // timedelta(microseconds=1)
    }
    with beam.Pipeline(options=launch.options("direct")) as pipeline:
        found = plain_form(catalog, events, windows, pipeline) | beam.Flatten()
        assert_that(found, equal_to(expected))


def test_a_refused_event_comes_out_with_its_reason_and_others_meters_events_not_at_all():
    events = parsed(
        [
            event(1, properties={"x": 1}),
            event(2, properties={"x": "no"}),
            event(3, timestamp="soon", properties={"x": 1}),
            event(4, event_name="other"),
        ]
    )
    with beam.Pipeline(options=launch.options("direct")) as pipeline:
        outputs = pipeline | beam.Create(events) | ToReadings(meter("sum"))
        at = microseconds(parse_timestamp(events[0]["timestamp"]))
        expected = (("c", "{}"), Reading(at, "event 1", 10**12))
        assert_that(outputs.readings, equal_to([expected]), "readings")
        refused = outputs[REJECTED] | beam.MapTuple(lambda each, why: (each["event_id"], why))
        reasons = [
            ("event 2", "x must be a decimal number (got 'no')"),
            (
                "event 3",
                "timestamp must be an RFC 3339 time with an offset, such as "
                "2026-11-01T00:00:00Z (got 'soon')",
            ),
        ]
        assert_that(refused, equal_to(reasons), "refused")


def test_an_empty_extreme_has_no_value_and_an_empty_sum_is_zero():
    assert_combines(lambda: UsageFn("max"), [], None)
    assert_combines(lambda: UsageFn("sum"), [], Decimal(0))
