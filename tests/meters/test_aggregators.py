"""One algebra: its laws, and its scalar, columnar and SQL forms beside exact fractions."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.aggregators import (
    EMPTY,
    FIELDS,
    MAX_EVENTS,
    NUMBER,
    OVER_SPANS,
    Reading,
    State,
    add,
    add_latest,
    add_points,
    check_sums,
    extract,
    merge,
    merge_all,
    merge_fields,
    merge_points,
    partial,
)
from meters.catalog import Kind
from meters.numbers import SCALE, from_scaled, to_scaled
from meters.points import Point
from meters.usage import USAGE, USAGE_VALUES
from meters.usage import state_of as stored_state
from tests.meters.chain import usage_row
from warehouse.client import Warehouse
from warehouse.merging import merged_usage, usage_over_spans
from warehouse.writes import insert_usage, insert_usage_values

KINDS: tuple[Kind, ...] = get_args(Kind)
OWN_TESTS = (*OVER_SPANS, "percentile")
"""Kinds whose values are those of test_levels.py."""
PLAIN = tuple(kind for kind in KINDS if kind not in OWN_TESTS)
HOUR = 3_600_000_000
MOST = 10**27 - 1
"""999999999999999.999999999999, the largest number of an event."""
T0 = datetime(2026, 3, 1, tzinfo=UTC)

each_aggregation = pytest.mark.parametrize("aggregation", KINDS)

scaled_numbers = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([MOST, -MOST, MOST - 1, SCALE, -1, 0]),
    st.integers(-MOST, MOST),
)
ids = st.one_of(
    st.sampled_from(["a", "b", "B", "10", "9", "é", "z", "日", "😀", "\uffff"]), st.text(max_size=3)
)
instants = st.one_of(st.integers(0, 3), st.integers(0, 4_102_444_799_999_999))


@st.composite
def readings(draw: st.DrawFn, most: int = 12) -> list[Reading]:
    """Readings of different events; a quarter has no value for the meter."""
    names = draw(st.lists(ids, unique=True, max_size=most))
    made = []
    for name in names:
        scaled = draw(scaled_numbers)
        hashed = bytes([draw(st.integers(0, 3))]) * 16
        made.append(Reading(draw(instants), name, scaled, hashed))
    return made


def state_of(aggregation: Kind, found: Sequence[Reading]) -> State:
    state = EMPTY
    for reading in found:
        state = add(aggregation, state, fitting(aggregation, reading))
    return state


def fitting(aggregation: Kind, reading: Reading) -> Reading:
    """The reading as a meter of this kind takes it: with whether a value is added."""
    if aggregation != "active_count":
        return reading
    return replace(reading, scaled=SCALE if (reading.scaled or 0) % 2 else 0)


def exact(aggregation: Kind, found: Sequence[Reading]) -> Fraction | None:
    """The value by its definition, over exact fractions."""
    numbers = [Fraction(reading.scaled or 0, SCALE) for reading in found]
    if aggregation == "count":
        return Fraction(len(found))
    if aggregation == "unique_count":
        return Fraction(len({reading.value_hash for reading in found}))
    if aggregation == "sum":
        return sum(numbers, Fraction(0))
    if not found:
        return None
    if aggregation == "avg":
        return Fraction(round(sum(numbers) / len(numbers) * SCALE), SCALE)
    if aggregation == "latest":
        last = max(found, key=lambda reading: (reading.at, reading.event_id.encode()))
        return Fraction(last.scaled or 0, SCALE)
    return min(numbers) if aggregation == "min" else max(numbers)


def fraction(value: Decimal | None) -> Fraction | None:
    return None if value is None else Fraction(value)


states = st.sampled_from(KINDS).flatmap(lambda a: readings(4).map(lambda found: state_of(a, found)))


# The laws


@given(states, states, states)
def test_merge_is_commutative_and_associative_with_empty_as_identity(a, b, c):
    assert merge(a, b) == merge(b, a)
    assert merge(a, merge(b, c)) == merge(merge(a, b), c)
    assert merge(a, EMPTY) == a == merge(EMPTY, a)


@each_aggregation
@given(found=readings(), data=st.data())
def test_any_split_and_order_gives_the_same_state(aggregation, found, data):
    shuffled = data.draw(st.permutations(found))
    parts = partition(data, shuffled)
    assert merge_all(state_of(aggregation, part) for part in parts) == state_of(aggregation, found)


@pytest.mark.parametrize("aggregation", PLAIN)
@given(found=readings())
def test_the_value_is_that_of_exact_fractions(aggregation, found):
    value = extract(aggregation, state_of(aggregation, found))
    assert fraction(value) == exact(aggregation, found)


def test_latest_ties_go_to_the_greatest_id_by_utf8_bytes():
    # As UTF-16 code units U+FFFF would be the greater one.
    found = [Reading(7, name, index) for index, name in enumerate(["\U0001f600", "\uffff", "z"])]
    assert extract("latest", state_of("latest", found)) == from_scaled(0)
    assert extract("latest", state_of("latest", found[1:])) == from_scaled(1)


def test_an_average_is_rounded_half_even_once():
    for scaled, value in (
        ((0, 1), "0"),
        ((1, 2), "2e-12"),
        ((-1, -2), "-2e-12"),
        ((1, 1, 2), "1e-12"),
    ):
        found = [Reading(0, str(index), number) for index, number in enumerate(scaled)]
        assert extract("avg", state_of("avg", found)) == Decimal(value)


@pytest.mark.parametrize("aggregation", [kind for kind in KINDS if kind != "count"])
def test_a_reading_without_its_value_is_a_mistake(aggregation):
    with pytest.raises(ValueError, match=f"a reading for {aggregation} must have a"):
        add(aggregation, EMPTY, Reading(0, "a"))


# The columnar form

CELL = ["cell", "bucket_start"]


def partition(data: st.DataObject, items: Sequence[Any]) -> list[list[Any]]:
    """The items in up to four parts, some of them maybe empty."""
    parts: list[list[Any]] = [[], [], [], []]
    for item in items:
        parts[data.draw(st.integers(0, 3))].append(item)
    return parts


def frame_of(aggregation: Kind, found: Sequence[tuple[int, Reading | None]]) -> pl.DataFrame:
    """Rows of (cell, reading); a row without a reading is an event that does not count."""
    distinct = aggregation in ("unique_count", "active_count")
    at = [reading.at if reading else 5 for _, reading in found]
    added = [fitting(aggregation, reading).scaled if reading else 0 for _, reading in found]
    values: list[object] = [
        None if r is None else r.value_hash if distinct else from_scaled(r.scaled or 0)
        for _, r in found
    ]
    return pl.DataFrame(
        {
            "cell": pl.Series([cell for cell, _ in found], dtype=pl.Int64),
            "value": pl.Series(values, dtype=pl.Binary if distinct else NUMBER),
            "timestamp": pl.Series(at, dtype=pl.Int64),
            "bucket_start": pl.Series([time - time % HOUR for time in at], dtype=pl.Int64),
            "o": pl.Series(['"add"' if one else '"remove"' for one in added], dtype=pl.String),
            "event_id": pl.Series([r.event_id if r else "~~" for _, r in found], dtype=pl.String),
        }
    )


def added(aggregation: Kind, rows: pl.DataFrame) -> pl.DataFrame:
    """The partial state of each cell."""
    column = None if aggregation == "count" else "value"
    states = rows.group_by(CELL).agg(partial(aggregation, column, "0"))
    if "points" in FIELDS[aggregation]:
        return add_points(aggregation, states, rows, CELL, "value", "0", "o")
    if aggregation != "latest":
        return states
    return add_latest(states, rows, ("timestamp", "event_id", "value"), "0")


def merged(aggregation: Kind, states: pl.DataFrame) -> pl.DataFrame:
    """The partial states of each cell, together."""
    found = states.group_by(CELL).agg(merge_fields(aggregation, "0"))
    if "points" in FIELDS[aggregation]:
        return merge_points(found, states, CELL, "0")
    if aggregation != "latest":
        return found
    columns = ("latest_at:0", "latest_id:0", "latest_value:0")
    return add_latest(found, states, columns, "0")


def columnar(
    aggregation: Kind, parts: Sequence[Sequence[tuple[int, Reading | None]]]
) -> dict[int, State]:
    """Partial states of each part, merged; distinct values are not among their fields."""
    made = [added(aggregation, frame_of(aggregation, part)) for part in parts]
    # Merging what is merged already must change nothing.
    halves = [pl.concat(made[:2]), pl.concat(made[2:])]
    final = merged(aggregation, pl.concat(merged(aggregation, half) for half in halves))
    cells: dict[int, State] = {}
    for row in final.iter_rows(named=True):
        cells[row["cell"]] = merge(cells.get(row["cell"], EMPTY), from_fields(row))
    return cells


def from_fields(row: dict[str, Any]) -> State:
    def scaled(name: str) -> int | None:
        value = row.get(f"{name}:0")
        return None if value is None else to_scaled(value)

    latest = None
    if row.get("latest_at:0") is not None:
        latest = (row["latest_at:0"], row["latest_id:0"].encode(), scaled("latest_value") or 0)
    total = scaled("sum") or 0
    moment = int(row.get("moment:0") or 0) * SCALE + int(row.get("moment_low:0") or 0)
    points = [
        (Point(at["at"], at["item"], at["id"], to_scaled(at["value"])), at["count"])
        for at in row.get("points:0", ())
    ]
    assert points == sorted(points)
    return State(
        row["events:0"],
        total,
        scaled("min"),
        scaled("max"),
        latest,
        moment=moment + total * row["bucket_start"] if "moment:0" in row else 0,
        points=tuple(points),
    )


@each_aggregation
@settings(max_examples=40)
@given(data=st.data())
def test_the_columnar_form_equals_the_scalar_one_over_any_split(aggregation, data):
    found = data.draw(readings())
    missing = aggregation != "count"
    rows = [
        (data.draw(st.integers(0, 2)), None if missing and data.draw(st.booleans()) else reading)
        for reading in found
    ]
    parts = partition(data, rows)
    expected = {}
    for cell in {cell for cell, _ in rows}:
        counted = [reading for number, reading in rows if number == cell and reading is not None]
        state = state_of(aggregation, counted)
        expected[cell] = replace(state, values=frozenset())
    assert columnar(aggregation, parts) == expected


@pytest.mark.parametrize("seed", range(5))
def test_columnar_ties_of_latest_go_to_the_greatest_id_within_and_across_parts(seed):
    names = ["a", "b", "Z", "10", "9", "é", "\uffff", "😀", "zz", ""]
    found = [Reading(at, name, index) for index, name in enumerate(names) for at in (3, 7, 7)]
    shuffled = random.Random(seed).sample(found, len(found))
    rows = [
        (cell, None if n % 5 == cell else each)
        for n, each in enumerate(shuffled)
        for cell in (0, 1)
    ]
    parts = [rows[:20], rows[20:25], rows[25:26], rows[26:]]
    for cell, state in columnar("latest", parts).items():
        counted = [each for number, each in rows if number == cell and each is not None]
        last = max((each for each in counted), key=lambda each: (each.at, each.event_id.encode()))
        assert state.latest == (7, last.event_id.encode(), last.scaled)
        assert state.events == len(counted)


@each_aggregation
def test_a_columnar_state_has_the_fields_of_its_aggregation_and_no_others(aggregation):
    made = added(aggregation, frame_of(aggregation, []))
    names = {f"{name}:0" for name in FIELDS[aggregation]}
    assert set(made.columns) - set(CELL) == names
    assert set(merged(aggregation, made).columns) - set(CELL) == names


def test_a_columnar_sum_of_many_largest_numbers_is_exact():
    rows = 200_000
    frame = pl.DataFrame({"value": pl.Series([from_scaled(MOST)], dtype=NUMBER)}).select(
        pl.col("value").repeat_by(rows).explode()
    )
    [total] = frame.select(partial("sum", "value", "0"))["sum:0"]
    assert to_scaled(total) == rows * MOST


def test_columnar_sums_up_to_the_most_events_fit_and_more_are_refused():
    half = pl.DataFrame(
        {
            "events:0": pl.Series([MAX_EVENTS // 2], dtype=pl.Int64),
            "sum:0": pl.Series([from_scaled(MAX_EVENTS // 2 * MOST)], dtype=NUMBER),
        }
    )
    both = pl.concat([half, half]).select(merge_fields("sum", "0"))
    assert to_scaled(both["sum:0"][0]) == MAX_EVENTS * MOST
    assert check_sums(both, "events:0") is both
    above = both.with_columns(pl.col("events:0") + 1)
    with pytest.raises(OverflowError, match=f"at most {MAX_EVENTS} events"):
        check_sums(above, "events:0")


# The SQL form


@settings(max_examples=12)
@given(data=st.data())
def test_the_sql_form_equals_the_scalar_one_over_rows_of_many_buckets(embedded, data):
    """Rows of four buckets and two groups, with older rows and orphaned values below them."""
    tenant = uuid.uuid4().hex
    rows: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    expected: dict[tuple[str, str], State] = {}
    for aggregation in PLAIN:
        for group in ("{}", '{"g":"é"}'):
            for hour, part in enumerate(partition(data, data.draw(readings(8)))):
                start = T0 + timedelta(hours=hour)
                key = {"group_key": group, "bucket_start": start, "bucket_end": start}
                state = state_of(aggregation, part)
                old = state_of(aggregation, data.draw(readings(2)))
                for revision, written in ((1, old), (2, state)):
                    row = usage_row(aggregation, written, revision=revision, **key)
                    rows.append(row)
                    values += values_of(row, written)
                values += values_of({**row, "revision": 3}, old)
                if state.events:
                    before = expected.get((aggregation, group), EMPTY)
                    expected[aggregation, group] = merge(before, state)
    insert(embedded, tenant, rows, values)
    found = merged_usage(embedded, tenant, [("c", None, T0, T0 + timedelta(hours=4))])
    assert {
        (row["meter"], row["group_key"]): sql_value(row["meter"], row) for row in found.to_pylist()
    } == {key: (extract(key[0], state), state.events) for key, state in expected.items()}
    together: dict[str, State] = {}
    for (aggregation, _), state in expected.items():
        together[aggregation] = merge(together.get(aggregation, EMPTY), state)
    found = merged_usage(
        embedded, tenant, [("c", None, T0, T0 + timedelta(hours=4))], by_group=False
    )
    assert {row["meter"]: sql_value(row["meter"], row) for row in found.to_pylist()} == {
        name: (extract(name, state), state.events) for name, state in together.items()
    }


@settings(max_examples=12)
@given(data=st.data())
def test_the_sql_form_of_levels_and_points_equals_the_scalar_one(embedded, data):
    tenant = uuid.uuid4().hex
    rows: list[dict[str, Any]] = []
    expected: dict[tuple[int, str, str], State] = {}
    for kind in OWN_TESTS:
        for group in ("{}", '{"g":"é"}'):
            for hour, part in enumerate(partition(data, data.draw(readings(8)))):
                start = T0 + timedelta(hours=hour)
                given = {"group_key": group, "bucket_start": start, "bucket_end": start}
                state = state_of(kind, part)
                old = state_of(kind, data.draw(readings(2)))
                for revision, written in ((1, old), (2, state)):
                    rows.append(usage_row(kind, written, revision=revision, **given))
                for span in (0, 1 + hour // 2) if state.events else ():
                    before = expected.get((span, kind, group), EMPTY)
                    expected[span, kind, group] = merge(before, state)
    insert(embedded, tenant, rows, [])
    halves = [(0, 4), (0, 2), (2, 4)]
    spans = [
        ("c", None, T0 + timedelta(hours=start), T0 + timedelta(hours=end)) for start, end in halves
    ]
    found = usage_over_spans(embedded, tenant, spans, OWN_TESTS).to_pylist()
    assert {
        (row["span"], row["meter"], row["group_key"]): stored_state(row) for row in found
    } == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_an_sql_sum_of_the_largest_sums_of_many_buckets_is_exact(embedded, tenant, sign):
    buckets = 1000
    state = State(MAX_EVENTS, sign * MAX_EVENTS * MOST)
    rows = [
        usage_row("sum", state, revision=1, bucket_start=start, bucket_end=start)
        for start in (T0 + timedelta(hours=hour) for hour in range(buckets))
    ]
    insert(embedded, tenant, rows, [])
    end = T0 + timedelta(hours=buckets)
    [row] = merged_usage(embedded, tenant, [("c", None, T0, end)]).to_pylist()
    assert row["events"] == buckets * MAX_EVENTS
    assert to_scaled(row["sum"]) == sign * buckets * MAX_EVENTS * MOST


def values_of(row: dict[str, Any], state: State) -> list[dict[str, Any]]:
    """The rows of `usage_values` beside a usage row."""
    key = {name: row[name] for name in (*USAGE_VALUES.names()[:-1], "revision")}
    return [{**key, "value_hash": value} for value in state.values]


def insert(
    warehouse: Warehouse,
    tenant: str,
    rows: Sequence[dict[str, Any]],
    values: Sequence[dict[str, Any]],
) -> None:
    usage = pl.DataFrame(rows, schema={**USAGE, "revision": pl.UInt32()})
    distinct = pl.DataFrame(values, schema={**USAGE_VALUES, "revision": pl.UInt32()})
    insert_usage_values(warehouse, tenant, distinct.to_arrow())
    insert_usage(warehouse, tenant, usage.to_arrow())


def sql_value(aggregation: Kind, row: dict[str, Any]) -> tuple[Decimal | None, int]:
    """What billing reads of a merged row: the value and the number of events."""
    if aggregation == "unique_count":
        return Decimal(row["distinct"] or 0), row["events"]
    latest = row["latest_value"]
    state = State(
        row["events"],
        to_scaled(row["sum"]),
        None if row["min"] is None else to_scaled(row["min"]),
        None if row["max"] is None else to_scaled(row["max"]),
        None if latest is None else (0, b"", to_scaled(latest)),
    )
    return extract(aggregation, state), row["events"]
