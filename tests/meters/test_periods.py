"""Billing periods: golden tables, laws, proration, and the columnar form against the scalar."""

import itertools
import pickle
from calendar import monthrange
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.buckets import NO_PERIOD, bounds_columnar, day_of, periods_columnar
from meters.periods import Periods, Span, calendar_months, numbered, proration_factor
from meters.zones import MICROSECOND, local_date, microseconds, offset_at, wall_clock

UNITS = ["day", "week", "month", "quarter", "year"]
ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Sao_Paulo",
    "America/Scoresbysund", "Africa/Cairo", "Africa/Monrovia", "Asia/Kathmandu",
    "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kwajalein",
]  # fmt: skip

instants = st.datetimes(datetime(1970, 1, 1), datetime(2100, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def some_periods(draw: st.DrawFn) -> Periods:
    anchor = draw(instants)
    if draw(st.booleans()):
        last = monthrange(anchor.year, anchor.month)[1]
        anchor = anchor.replace(day=draw(st.integers(min(28, last), last)))
    length = draw(st.none() | st.timedeltas(MICROSECOND, timedelta(days=900)))
    end = None if length is None else anchor + length
    return Periods(anchor, draw(st.sampled_from(ZONES)), draw(st.sampled_from(UNITS)), end)


@st.composite
def periods_and_instants(draw: st.DrawFn) -> tuple[Periods, list[datetime]]:
    """Periods and instants about their start, many of them on a boundary or beside it."""
    periods = draw(some_periods())
    stop = periods.anchor + timedelta(days=draw(st.sampled_from([3, 60, 1000])))
    edges = periods.bounds(periods.anchor, stop)
    near = st.sampled_from(edges).flatmap(
        lambda edge: st.sampled_from([edge - MICROSECOND, edge, edge + MICROSECOND])
    )
    far = st.timedeltas(timedelta(days=-40), timedelta(days=1000)).map(lambda d: stop + d)
    return periods, draw(st.lists(near | far, min_size=1, max_size=10))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def span(start: str, end: str) -> Span:
    return Span(at(start), at(end))


# ---------------------------------------------------------------------------
# Golden tables: the starts of the first periods
# ---------------------------------------------------------------------------

STARTS = [
    # the 31st is the last day of shorter months, and the 31st again
    (
        "UTC", "month",
        ["2026-01-31T10:30Z", "2026-02-28T10:30Z", "2026-03-31T10:30Z", "2026-04-30T10:30Z"],
    ),
    ("UTC", "month", ["2024-01-30T00:00Z", "2024-02-29T00:00Z", "2024-03-30T00:00Z"]),
    ("UTC", "quarter", ["2025-11-30T00:00Z", "2026-02-28T00:00Z", "2026-05-30T00:00Z"]),
    # year from a leap day
    (
        "UTC", "year",
        ["2024-02-29T00:00Z", "2025-02-28T00:00Z", "2026-02-28T00:00Z", "2027-02-28T00:00Z",
         "2028-02-29T00:00Z"],
    ),
    # over the year's end
    ("UTC", "month", ["2026-11-15T00:00Z", "2026-12-15T00:00Z", "2027-01-15T00:00Z"]),
    ("UTC", "week", ["2026-12-24T08:00Z", "2026-12-31T08:00Z", "2027-01-07T08:00Z"]),
    # local midnight of the 1st stays local midnight in summer
    (
        "Europe/Berlin", "month",
        ["2026-02-28T23:00Z", "2026-03-31T22:00Z", "2026-04-30T22:00Z"],
    ),
    ("Asia/Kathmandu", "month", ["2026-01-30T18:15Z", "2026-02-27T18:15Z", "2026-03-30T18:15Z"]),
    # 02:30 does not exist on 29 March: the offset before, so 01:30Z, then 02:30 again
    ("Europe/Berlin", "day", ["2026-03-28T01:30Z", "2026-03-29T01:30Z", "2026-03-30T00:30Z"]),
    ("America/New_York", "day", ["2026-03-07T07:30Z", "2026-03-08T07:30Z", "2026-03-09T06:30Z"]),
    # 02:30 occurs twice on 25 October: the first
    ("Europe/Berlin", "day", ["2026-10-24T00:30Z", "2026-10-25T00:30Z", "2026-10-26T01:30Z"]),
    ("America/New_York", "day", ["2026-10-31T05:30Z", "2026-11-01T05:30Z", "2026-11-02T06:30Z"]),
    # but the first period starts exactly at the start, though that is the second 02:30
    ("Europe/Berlin", "day", ["2026-10-25T01:30Z", "2026-10-26T01:30Z"]),
    ("Australia/Lord_Howe", "day", ["2026-10-02T15:45Z", "2026-10-03T15:45Z", "2026-10-04T15:15Z"]),
    # midnight does not exist on 4 November
    ("America/Sao_Paulo", "day", ["2018-11-03T03:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z"]),
    # 30 December 2011 does not exist: the day from 29 to 30 December is followed by the 31st
    ("Pacific/Apia", "day", ["2011-12-29T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"]),
    ("Pacific/Apia", "month", ["2011-11-30T10:00Z", "2011-12-30T10:00Z", "2012-01-29T10:00Z"]),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "unit", "starts"), STARTS)
def test_period_n_starts_when_the_clocks_show_the_anchor_n_periods_later(zone, unit, starts):
    edges = [at(start) for start in starts]
    periods = Periods(edges[0], zone, unit)
    expected = list(itertools.starmap(Span, itertools.pairwise(edges)))
    assert list(itertools.islice(periods.starting_from(edges[0]), len(expected))) == expected
    numbers = (numbered(edges[0], zone, unit, number) for number in range(len(expected) + 3))
    found = [period for period in numbers if period is not None and period.start < period.end]
    assert found[: len(expected)] == expected
    assert [periods.containing(edge) for edge in edges[:-1]] == expected
    assert [periods.containing(edge - MICROSECOND) for edge in edges] == [None, *expected]


def test_an_end_cuts_the_last_period_and_the_whole_one_is_still_known():
    periods = Periods(at("2026-01-31T00:00Z"), "UTC", "month", at("2026-03-10T12:00Z"))
    last = span("2026-02-28T00:00Z", "2026-03-10T12:00Z")
    assert periods.containing(at("2026-03-10T11:59:59.999999Z")) == last
    assert periods.whole(last.start) == span("2026-02-28T00:00Z", "2026-03-31T00:00Z")
    assert list(periods.starting_from(at("2026-02-01T00:00Z"))) == [last]
    assert periods.containing(periods.end) is None
    assert periods.whole(periods.end) is None


def test_an_end_on_a_boundary_leaves_no_empty_period():
    periods = Periods(at("2026-01-01T00:00Z"), "UTC", "month", at("2026-03-01T00:00Z"))
    assert [p.start.month for p in periods.starting_from(periods.anchor)] == [1, 2]


def test_instants_outside_a_subscription_are_in_no_period():
    periods = Periods(at("2026-01-01T00:00Z"), "UTC", "month", at("2026-03-01T00:00Z"))
    assert periods.containing(at("2025-12-31T23:59:59.999999Z")) is None
    assert periods.containing(at("2030-01-01T00:00Z")) is None
    assert periods.between(at("2020-01-01T00:00Z"), at("2026-01-01T00:00Z")) == []
    assert periods.between(at("2026-03-01T00:00Z"), at("2027-01-01T00:00Z")) == []


def test_bounds_hold_starts_and_the_end_of_the_subscription():
    periods = Periods(at("2026-01-31T00:00Z"), "UTC", "month", at("2026-03-10T12:00Z"))
    edges = ["2026-01-31T00:00Z", "2026-02-28T00:00Z", "2026-03-10T12:00Z"]
    assert periods.bounds(at("2020-01-01T00:00Z"), at("2030-01-01T00:00Z")) == [
        at(edge) for edge in edges
    ]
    assert periods.bounds(at(edges[1]), at(edges[2])) == [at(edges[1]), at(edges[2])]
    assert periods.bounds(at(edges[2]) + MICROSECOND, at("2030-01-01T00:00Z")) == []
    assert bounds_columnar(periods, 0, microseconds(at(edges[1]))).tolist() == [
        microseconds(at(edge)) for edge in edges[:2]
    ]


def test_the_calendar_months_of_a_zone_begin_at_its_midnights():
    months = calendar_months("America/New_York")
    assert months.containing(at("1970-01-01T00:00Z")) == span(
        "1969-12-01T05:00Z", "1970-01-01T05:00Z"
    )
    assert months.containing(at("2026-04-01T03:59:59Z")) == span(
        "2026-03-01T05:00Z", "2026-04-01T04:00Z"
    )
    december = calendar_months("Pacific/Apia").containing(at("2011-12-30T10:00Z"))
    assert december == span("2011-12-01T10:00Z", "2011-12-31T10:00Z")


def test_periods_end_with_the_calendar_of_datetime_rather_than_fail():
    periods = Periods(at("9000-01-31T00:00Z"), "America/New_York", "year")
    *_, last = periods.starting_from(at("9990-01-01T00:00Z"))
    assert last.end == datetime.max.replace(tzinfo=UTC)
    assert numbered(periods.anchor, periods.zone, periods.unit, 999) == last
    assert numbered(periods.anchor, periods.zone, periods.unit, 1000) is None
    assert periods.containing(datetime.max.replace(tzinfo=UTC)) is not None
    endless = Periods(at("2026-01-01T00:00Z"), "UTC", "year", at("9999-12-31T23:59:59Z"))
    assert endless.containing(at("2026-06-01T00:00Z")) == span(
        "2026-01-01T00:00Z", "2027-01-01T00:00Z"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((datetime(2026, 1, 1), "UTC", "month"), r"start must have an offset"),  # noqa: DTZ001
        ((at("1899-12-31T00:00Z"), "UTC", "month"), r"start must be in 1900 or later \(got 1899"),
        ((at("2026-01-01T00:00Z"), "Mars", "month"), r"time zone must be .* \(got 'Mars'\)"),
        ((at("2026-01-01T00:00Z"), "UTC", "hour"), r"unit must be one of day, .* \(got 'hour'\)"),
        (
            (at("2026-01-01T00:00Z"), "UTC", "day", at("2026-01-01T00:00Z")),
            r"end must be after start 2026-01-01T00:00:00\+00:00 \(got 2026-01-01",
        ),
    ],
)
def test_wrong_periods_are_refused_with_what_was_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        Periods(*arguments)


def test_periods_of_the_same_instants_are_equal_and_survive_pickling():
    periods = Periods(at("2026-01-31T01:00+01:00"), "Europe/Berlin", "month")
    same = Periods(at("2026-01-31T00:00Z"), "Europe/Berlin", "month")
    assert periods.containing(at("2026-05-05T00:00Z")) is not None
    assert periods == same == pickle.loads(pickle.dumps(periods))
    assert hash(periods) == hash(same)


# ---------------------------------------------------------------------------
# Laws
# ---------------------------------------------------------------------------


@settings(deadline=None)
@given(periods_and_instants())
def test_periods_follow_each_other_without_gap_and_hold_what_is_in_them(case):
    periods, moments = case
    for moment in moments:
        period = periods.containing(moment)
        inside = periods.anchor <= moment and (periods.end is None or moment < periods.end)
        assert (period is not None) == inside
        if period is None:
            continue
        assert moment in period
        assert periods.containing(period.start) == period
        assert periods.containing(period.end - MICROSECOND) == period
        assert next(periods.starting_from(period.start)) == period
        following = periods.containing(period.end)
        assert following is None if period.end == periods.end else following.start == period.end
        whole = periods.whole(moment)
        assert whole.start == period.start
        assert whole.end == period.end or period.end == periods.end < whole.end


@settings(deadline=None)
@given(periods_and_instants())
def test_a_later_period_starts_at_the_anchors_day_and_time_of_day(case):
    periods, moments = case
    anchor = wall_clock(periods.anchor, periods.zone)
    for moment in moments:
        period = periods.containing(moment)
        if period is None or period.start == periods.anchor:
            continue
        day_before = offset_at(period.start - timedelta(days=1), periods.zone)
        if offset_at(period.start, periods.zone) == day_before:
            wall = wall_clock(period.start, periods.zone)
            assert wall.time() == anchor.time()
            if periods.unit in ("month", "quarter", "year"):
                assert wall.day == min(anchor.day, monthrange(wall.year, wall.month)[1])


@settings(deadline=None)
@given(periods_and_instants())
def test_between_and_bounds_tell_the_same_as_containing(case):
    periods, moments = case
    low, high = min(moments), max(moments)
    found = periods.between(low, high + MICROSECOND)
    assert {periods.containing(moment) for moment in moments} - {None} <= set(found)
    assert all(period.start <= high and period.end > low for period in found)
    assert [a.end for a in found[:-1]] == [b.start for b in found[1:]]
    edges = {edge for period in found for edge in (period.start, period.end)}
    bounds = periods.bounds(low, high)
    assert bounds == sorted(set(bounds))
    assert {edge for edge in edges if low <= edge <= high} <= set(bounds)
    assert all(low <= bound <= high for bound in bounds)


@settings(deadline=None)
@given(st.sampled_from(ZONES), instants)
def test_a_calendar_month_is_a_merge_of_days(zone, instant):
    month = calendar_months(zone).containing(instant)
    day = day_of(instant, zone)
    assert month.start <= day.start < day.end <= month.end
    assert local_date(month.start, zone).day == 1


@settings(deadline=None, max_examples=300)
@given(periods_and_instants())
def test_the_columnar_form_equals_the_scalar_one(case):
    periods, moments = case
    starts, ends = periods_columnar(
        np.array([microseconds(moment) for moment in moments], dtype=np.int64), periods
    )
    expected = [periods.containing(moment) for moment in moments]
    assert starts.tolist() == [NO_PERIOD if p is None else microseconds(p.start) for p in expected]
    assert ends.tolist() == [NO_PERIOD if p is None else microseconds(p.end) for p in expected]


def test_no_instants_give_no_periods():
    starts, ends = periods_columnar(np.array([], dtype=np.int64), calendar_months("UTC"))
    assert starts.size == ends.size == 0


# ---------------------------------------------------------------------------
# Proration
# ---------------------------------------------------------------------------

NOVEMBER = span("2026-10-31T23:00Z", "2026-11-30T23:00Z")  # Berlin
MARCH = span("2026-02-28T23:00Z", "2026-03-31T22:00Z")  # Berlin, one hour short

FACTORS = [
    # a part that begins at midnight of the 16th
    (span("2026-11-15T23:00Z", "2026-11-30T23:00Z"), NOVEMBER, "day", Fraction(15, 30)),
    (span("2026-11-15T23:00Z", "2026-11-30T23:00Z"), NOVEMBER, "second", Fraction(1, 2)),
    (span("2026-11-15T23:00Z", "2026-11-30T23:00Z"), NOVEMBER, "none", Fraction(1)),
    # one that begins in mid-day has that day, one that ends in mid-day has not
    (span("2026-11-15T11:00Z", "2026-11-30T23:00Z"), NOVEMBER, "day", Fraction(16, 30)),
    (span("2026-10-31T23:00Z", "2026-11-15T11:00Z"), NOVEMBER, "day", Fraction(14, 30)),
    (span("2026-11-15T08:00Z", "2026-11-15T20:00Z"), NOVEMBER, "day", Fraction(0)),
    (span("2026-11-15T08:00Z", "2026-11-15T20:00Z"), NOVEMBER, "second", Fraction(1, 60)),
    # days do not mind that March has an hour less; seconds do
    (span("2026-02-28T23:00Z", "2026-03-15T23:00Z"), MARCH, "day", Fraction(15, 31)),
    (span("2026-02-28T23:00Z", "2026-03-15T23:00Z"), MARCH, "second", Fraction(360, 743)),
    (span("2026-02-28T23:00Z", "2026-02-28T23:00:00.000001Z"), MARCH, "second",
     Fraction(1, 743 * 3600 * 10**6)),
    # nothing of it, all of it
    (span("2026-11-15T11:00Z", "2026-11-15T11:00Z"), NOVEMBER, "day", Fraction(0)),
    (NOVEMBER, NOVEMBER, "day", Fraction(1)),
]  # fmt: skip


@pytest.mark.parametrize(("part", "whole", "mode", "factor"), FACTORS)
def test_a_part_of_a_period_is_charged_for_its_share(part, whole, mode, factor):
    assert proration_factor(part, whole, "Europe/Berlin", mode) == factor


def test_the_days_are_local_ones():
    part = span("2026-11-15T23:30Z", "2026-12-01T00:00Z")
    whole = span("2026-11-01T00:00Z", "2026-12-01T00:00Z")
    assert proration_factor(part, whole, "UTC", "day") == Fraction(16, 30)
    assert proration_factor(part, whole, "Europe/Berlin", "day") == Fraction(15, 30)


def test_a_period_without_a_local_date_is_prorated_by_time():
    # 23:30 on 28 March 2026 does not exist in Scoresbysund: that period starts at 00:30 on the 29th
    periods = Periods(at("2026-03-27T01:30Z"), "America/Scoresbysund", "day")
    whole = periods.containing(at("2026-03-29T12:00Z"))
    assert whole == span("2026-03-29T01:30Z", "2026-03-30T00:30Z")
    part = Span(whole.start, at("2026-03-29T13:00Z"))
    assert proration_factor(part, whole, periods.zone, "day") == Fraction(1, 2)
    assert proration_factor(whole, whole, periods.zone, "day") == 1


def test_a_part_outside_the_period_is_refused():
    with pytest.raises(ValueError, match=r"part must lie within 2026-10-31T23:00:00\+00:00 to"):
        proration_factor(MARCH, NOVEMBER, "Europe/Berlin", "day")


@settings(deadline=None)
@given(periods_and_instants(), st.sampled_from(["day", "second"]))
def test_parts_that_follow_each_other_add_up_to_the_whole(case, mode):
    periods, moments = case
    whole = periods.whole(periods.anchor)
    cuts = [moment for moment in moments if moment in whole]
    edges = [whole.start, *sorted(cuts), whole.end]
    factors = [
        proration_factor(Span(a, b), whole, periods.zone, mode)
        for a, b in itertools.pairwise(edges)
        if a < b
    ]
    assert sum(factors) == 1
    assert all(0 <= factor <= 1 for factor in factors)
