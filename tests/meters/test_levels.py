"""Values over spans: levels, operations, percentiles and recurring meters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.aggregators import EMPTY, Kind, Reading, State, add, extract, merge
from meters.catalog import Meter
from meters.levels import Over, about, area, mean, settled, value_over
from meters.numbers import SCALE, from_scaled
from tests.meters.chain import meter

LEVEL = meter("weighted_sum")
READ = meter("weighted_sum", level="readings")
ACTIVE = meter("unique_count", operation_property="o")

small = st.integers(-(10**15), 10**15)
numbers = st.one_of(small, st.sampled_from([10**27 - 1, 1 - 10**27, 0]))
times = st.integers(0, 1000)


@st.composite
def readings(draw: st.DrawFn) -> list[Reading]:
    names = draw(st.lists(st.sampled_from("abcdefgé😀"), unique=True, max_size=8))
    return [Reading(draw(times), name, draw(numbers), bytes(16)) for name in names]


def state_of(kind: Kind, found: Sequence[Reading]) -> State:
    state = EMPTY
    for reading in found:
        state = add(kind, state, reading)
    return state


def walked(found: Sequence[Reading], start: int, end: int, *, read: bool) -> int:
    """The area below a level, tick by tick of what changes it."""
    level, total = 0, 0
    ordered = sorted(found, key=lambda each: (each.at, each.event_id.encode()))
    marks = sorted({start, end, *(each.at for each in ordered if start < each.at < end)})
    for low, high in pairwise(marks):
        level = 0
        for each in ordered:
            if each.at <= low:
                level = (each.scaled or 0) if read else level + (each.scaled or 0)
        total += level * (high - low)
    return total


def over(found: Sequence[Reading], kind: Kind, start: int, end: int) -> tuple[State, Over]:
    """What is in a span, and what is carried into it."""
    before = settled(state_of(kind, [each for each in found if each.at < start]))
    within = state_of(kind, [each for each in found if start <= each.at < end])
    return within, Over(start, end, end - start, before)


@pytest.mark.parametrize("given_meter", [LEVEL, READ])
@given(found=readings(), bounds=st.lists(times, min_size=2, max_size=5, unique=True))
def test_a_level_is_integrated_over_each_span_and_parts_sum_to_the_whole(
    given_meter: Meter, found: list[Reading], bounds: list[int]
) -> None:
    bounds = sorted(bounds)
    kind, read = given_meter.kind, given_meter is READ
    areas = []
    for start, end in pairwise(bounds):
        found_area = area(given_meter, *over(found, kind, start, end))
        assert found_area == walked(found, start, end, read=read)
        areas.append(found_area)
    whole = area(given_meter, *over(found, kind, bounds[0], bounds[-1]))
    assert sum(areas) == whole
    length = bounds[-1] - bounds[0]
    value = value_over(given_meter, *over(found, kind, bounds[0], bounds[-1]))
    assert value == from_scaled(round(Fraction(whole, length)))


def test_a_level_that_lasts_the_whole_span_is_its_mean_and_half_of_it_the_half() -> None:
    whole, half = Over(0, 100, 100), Over(50, 100, 100)
    changed = state_of("weighted_sum", [Reading(50, "a", 8 * SCALE)])
    assert value_over(LEVEL, changed, whole) == 4
    assert value_over(LEVEL, EMPTY, replace(whole, before=changed)) == 8
    assert value_over(LEVEL, EMPTY, replace(half, before=changed)) == 4


def test_levels_that_are_read_by_group_add_up_and_do_not_replace_each_other() -> None:
    one = about(state_of("weighted_readings", [Reading(0, "a", 3 * SCALE)]), "eu")
    other = about(state_of("weighted_readings", [Reading(10, "b", 5 * SCALE)]), "us")
    assert value_over(READ, merge(one, other), Over(0, 20, 20)) == Decimal("5.5")
    same = about(other, "eu")
    assert value_over(READ, merge(one, same), Over(0, 20, 20)) == 4


def test_of_two_readings_at_one_instant_the_greater_id_counts() -> None:
    found = [Reading(0, "z", 1 * SCALE), Reading(0, "😀", 2 * SCALE), Reading(0, "a", 3 * SCALE)]
    assert value_over(READ, state_of("weighted_readings", found), Over(0, 10, 10)) == 2


def operation(at: int, name: str, value: bytes, *, added: bool) -> Reading:
    return Reading(at, name, SCALE if added else 0, value * 16)


def test_active_values_are_those_whose_last_operation_added_them() -> None:
    found = [
        operation(0, "1", b"x", added=True),
        operation(1, "2", b"y", added=True),
        operation(2, "3", b"x", added=False),
        operation(2, "2", b"x", added=True),  # the greater id is the later one
        operation(3, "4", b"z", added=False),
    ]
    state = state_of("active_count", found)
    assert value_over(ACTIVE, state, Over(0, 10, 10)) == 1
    later = state_of("active_count", [operation(20, "5", b"x", added=True)])
    carried = Over(10, 30, 20, settled(state))
    assert value_over(ACTIVE, later, carried) == 2


def test_a_recurring_sum_and_count_have_what_was_before() -> None:
    total = meter("sum", recurring=True)
    before = state_of("sum", [Reading(0, "a", 5 * SCALE)])
    within = state_of("sum", [Reading(10, "b", 2 * SCALE)])
    assert value_over(total, within, Over(10, 20, 10, before)) == 7
    count = meter("unique_count", recurring=True)
    seen = state_of("unique_count", [Reading(0, "a", None, b"x" * 16)])
    more = state_of(
        "unique_count", [Reading(10, "b", None, b"x" * 16), Reading(10, "c", None, b"y" * 16)]
    )
    assert value_over(count, more, Over(10, 20, 10, seen)) == 2


@given(st.lists(st.tuples(readings(), st.booleans()), max_size=4))
def test_a_whole_of_several_beginnings_is_the_sum_of_its_parts(
    parts: list[tuple[list[Reading], bool]],
) -> None:
    made = [(state_of("weighted_sum", found), Over(0, 1000, 7000)) for found, _ in parts]
    total = sum((Fraction(area(LEVEL, *part), 7000) for part in made), Fraction(0))
    assert mean(LEVEL, made) == from_scaled(round(total))


# Percentiles


@given(
    st.lists(numbers, min_size=1, max_size=30),
    st.sampled_from(
        [Fraction(1, 10), Fraction(50), Fraction(95), Fraction(999, 10), Fraction(100)]
    ),
)
def test_a_percentile_is_off_by_half_a_percent_at_most(found: list[int], percent: Fraction) -> None:
    state = state_of("percentile", [Reading(0, str(n), each) for n, each in enumerate(found)])
    value = extract("percentile", state, percent=percent)
    assert value is not None
    rank = -(-percent * len(found) // 100)
    exact = Fraction(sorted(found)[int(rank) - 1], SCALE)
    assert abs(Fraction(value) - exact) <= abs(exact) / 200


@given(st.lists(st.integers(0, 999), min_size=1, max_size=40))
def test_a_percentile_of_whole_numbers_below_1000_is_exact(found: list[int]) -> None:
    state = state_of(
        "percentile", [Reading(0, str(n), each * SCALE) for n, each in enumerate(found)]
    )
    for percent in (1, 25, 50, 90, 100):
        rank = -(-percent * len(found) // 100)
        assert extract("percentile", state, percent=Fraction(percent)) == sorted(found)[rank - 1]


def test_a_percentile_keeps_few_numbers_however_many_there_are() -> None:
    found = [Reading(0, str(n), SCALE * (1000 + n)) for n in range(1000)]
    assert len(state_of("percentile", found).points) <= 101


def test_nothing_has_no_percentile_and_a_percentile_needs_its_percent() -> None:
    assert extract("percentile", EMPTY, percent=Fraction(50)) is None
    with pytest.raises(ValueError, match="must be read with its percent"):
        extract("percentile", EMPTY)
    with pytest.raises(ValueError, match=r"must be read over a span"):
        extract("weighted_sum", EMPTY)
