"""Hours, days and buckets: golden tables, laws, and the columnar form against the scalar.

The instants of the golden tables come from the rules in the tz database's own text:
Berlin and New York by the EU and US rules for 2026, Lord Howe half an hour, Sao Paulo
without a midnight, Apia without 30 December 2011, Monrovia at -00:44:30 until 1972.
"""

import struct
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from zoneinfo import available_timezones

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.buckets import (
    HOUR,
    bucket_of,
    bucket_starts_ends,
    day_of,
    days_columnar,
    hour_of,
    hours_columnar,
)
from meters.periods import Span
from meters.zones import (
    LEAST_US,
    MICROSECOND,
    SCAN_STEP,
    from_microseconds,
    local_date,
    microseconds,
    midnight,
    offset_at,
    to_instant,
    wall_clock,
    zone_info,
    zone_table,
)

ZONES = [
    "UTC", "Europe/Berlin", "Europe/London", "Europe/Dublin", "Europe/Moscow", "Europe/Lisbon",
    "America/New_York", "America/St_Johns", "America/Sao_Paulo", "America/Caracas",
    "America/Scoresbysund", "America/Recife", "America/Toronto", "America/Havana",
    "Africa/Cairo", "Africa/Casablanca", "Africa/Monrovia", "Africa/Juba",
    "Asia/Kathmandu", "Asia/Beirut", "Asia/Gaza", "Asia/Pyongyang", "Asia/Tehran",
    "Asia/Kolkata", "Asia/Singapore", "Antarctica/Troll", "Antarctica/Casey",
    "Australia/Lord_Howe", "Australia/Eucla", "Pacific/Apia", "Pacific/Kwajalein",
    "Pacific/Kiritimati", "Pacific/Chatham", "Pacific/Marquesas",
]  # fmt: skip
LAST = microseconds(datetime(2101, 1, 1, tzinfo=UTC)) - 1


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def span(start: str, end: str) -> Span:
    return Span(at(start), at(end))


@st.composite
def instants(draw: st.DrawFn, zone: str) -> int:
    """Any microsecond of 1970..2100, often close to a change of offset or a midnight."""
    table = zone_table(zone, 0, LAST)
    kind = draw(st.sampled_from(["any", "any", "change", "midnight"]))
    marks = table.changes[1:-1] if kind == "change" else table.midnights
    marks = marks[(marks > 0) & (marks < LAST)]
    if kind == "any" or not marks.size:
        return draw(st.integers(0, LAST))
    near = int(marks[draw(st.integers(0, marks.size - 1))])
    away = draw(st.sampled_from([0, 1, 10**6, 1800 * 10**6, 3600 * 10**6, 7200 * 10**6]))
    return min(max(near + draw(st.sampled_from([-1, 0, 1])) * away, 0), LAST)


zone_and_instants = st.sampled_from(ZONES).flatmap(
    lambda zone: st.tuples(st.just(zone), st.lists(instants(zone), min_size=1, max_size=12))
)
zone_and_instant = st.sampled_from(ZONES).flatmap(
    lambda zone: st.tuples(st.just(zone), instants(zone).map(from_microseconds))
)


# ---------------------------------------------------------------------------
# Golden tables
# ---------------------------------------------------------------------------

HOURS = [
    # an event exactly on the hour is in the hour that starts
    ("UTC", "2026-05-05T05:00Z", "2026-05-05T05:00Z", "2026-05-05T06:00Z"),
    ("UTC", "2026-05-05T05:59:59.999999Z", "2026-05-05T05:00Z", "2026-05-05T06:00Z"),
    ("UTC", "2026-12-31T23:59:59.999999Z", "2026-12-31T23:00Z", "2027-01-01T00:00Z"),
    # +05:45
    ("Asia/Kathmandu", "2026-05-05T05:14:59Z", "2026-05-05T04:15Z", "2026-05-05T05:15Z"),
    ("Asia/Kathmandu", "2026-05-05T05:15Z", "2026-05-05T05:15Z", "2026-05-05T06:15Z"),
    # Berlin: 02:00 becomes 03:00, in autumn the hour from 02:00 comes twice
    ("Europe/Berlin", "2026-03-29T00:59:59.999999Z", "2026-03-29T00:00Z", "2026-03-29T01:00Z"),
    ("Europe/Berlin", "2026-03-29T01:00Z", "2026-03-29T01:00Z", "2026-03-29T02:00Z"),
    ("Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z"),
    ("Europe/Berlin", "2026-10-25T01:30Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),
    # New York
    ("America/New_York", "2026-03-08T06:59:59Z", "2026-03-08T06:00Z", "2026-03-08T07:00Z"),
    ("America/New_York", "2026-03-08T07:00Z", "2026-03-08T07:00Z", "2026-03-08T08:00Z"),
    ("America/New_York", "2026-11-01T05:30Z", "2026-11-01T05:00Z", "2026-11-01T06:00Z"),
    ("America/New_York", "2026-11-01T06:30Z", "2026-11-01T06:00Z", "2026-11-01T07:00Z"),
    # Lord Howe in autumn: 02:00 (+11) becomes 01:30 (+10:30)
    ("Australia/Lord_Howe", "2026-04-04T14:59Z", "2026-04-04T14:00Z", "2026-04-04T15:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00Z", "2026-04-04T15:00Z", "2026-04-04T15:30Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:30Z", "2026-04-04T15:30Z", "2026-04-04T16:30Z"),
    # Lord Howe in spring: 02:00 (+10:30) becomes 02:30 (+11)
    ("Australia/Lord_Howe", "2026-10-03T15:29Z", "2026-10-03T14:30Z", "2026-10-03T15:30Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30Z", "2026-10-03T15:30Z", "2026-10-03T16:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T16:00Z", "2026-10-03T16:00Z", "2026-10-03T17:00Z"),
    # Pyongyang: 00:00 (+09) becomes 23:30 (+08:30)
    ("Asia/Pyongyang", "2015-08-14T15:10Z", "2015-08-14T15:00Z", "2015-08-14T15:30Z"),
    # seconds in the offset
    ("Africa/Monrovia", "1970-01-01T00:00Z", "1969-12-31T23:44:30Z", "1970-01-01T00:44:30Z"),
    ("Africa/Monrovia", "1972-01-07T00:44:29Z", "1972-01-06T23:44:30Z", "1972-01-07T00:44:30Z"),
    ("Africa/Monrovia", "1972-01-07T00:44:30Z", "1972-01-07T00:44:30Z", "1972-01-07T01:00Z"),
]


@pytest.mark.parametrize(("zone", "instant", "start", "end"), HOURS)
def test_an_hour_is_whole_on_the_local_clock_and_cut_where_the_offset_changes(
    zone, instant, start, end
):
    assert hour_of(at(instant), zone) == span(start, end)


DAYS = [
    ("Europe/Berlin", "2026-02-28T22:59:59.999999Z", "2026-02-27T23:00Z", "2026-02-28T23:00Z"),
    ("Europe/Berlin", "2026-02-28T23:00Z", "2026-02-28T23:00Z", "2026-03-01T23:00Z"),
    # 23 and 25 hours
    ("Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
    ("Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
    ("America/New_York", "2026-03-08T12:00Z", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
    ("America/New_York", "2026-11-01T12:00Z", "2026-11-01T04:00Z", "2026-11-02T05:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:15Z", "2026-04-04T13:00Z", "2026-04-05T13:30Z"),
    ("Asia/Kathmandu", "2024-02-28T18:15Z", "2024-02-28T18:15Z", "2024-02-29T18:15Z"),
    # midnight does not exist: the day begins at the change, at 01:00
    ("America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T03:00Z", "2018-11-04T03:00Z"),
    ("America/Sao_Paulo", "2018-11-04T03:00Z", "2018-11-04T03:00Z", "2018-11-05T02:00Z"),
    ("Asia/Beirut", "2026-03-28T22:00Z", "2026-03-28T22:00Z", "2026-03-29T21:00Z"),
    ("Africa/Cairo", "2026-04-23T22:00Z", "2026-04-23T22:00Z", "2026-04-24T21:00Z"),
    # midnight occurs twice (00:01 becomes 23:01): the first one begins the day
    ("America/St_Johns", "2010-11-07T02:29:59Z", "2010-11-06T02:30Z", "2010-11-07T02:30Z"),
    ("America/St_Johns", "2010-11-07T02:45Z", "2010-11-07T02:30Z", "2010-11-08T03:30Z"),
    # 30 December 2011 does not exist
    ("Pacific/Apia", "2011-12-30T09:59:59Z", "2011-12-29T10:00Z", "2011-12-30T10:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
]


@pytest.mark.parametrize(("zone", "instant", "start", "end"), DAYS)
def test_a_day_runs_from_local_midnight_to_the_next(zone, instant, start, end):
    assert day_of(at(instant), zone) == span(start, end)


@pytest.mark.parametrize(
    ("zone", "instant", "day"),
    [
        ("America/St_Johns", "2010-11-07T02:45Z", date(2010, 11, 7)),
        ("Pacific/Apia", "2011-12-30T10:00Z", date(2011, 12, 31)),
        ("America/Sao_Paulo", "2018-11-04T02:59:59Z", date(2018, 11, 3)),
    ],
)
def test_the_local_date_is_that_of_the_day_that_has_begun(zone, instant, day):
    assert local_date(at(instant), zone) == day


def test_a_bucket_is_cut_at_the_boundaries_and_an_instant_on_one_starts_it():
    boundaries = [at("2026-05-05T05:40Z"), at("2026-05-05T05:10:00.5Z"), at("2020-01-01T00:00Z")]
    first, second, third = (
        span("2026-05-05T05:00Z", "2026-05-05T05:10:00.5Z"),
        span("2026-05-05T05:10:00.5Z", "2026-05-05T05:40Z"),
        span("2026-05-05T05:40Z", "2026-05-05T06:00Z"),
    )
    for instant, bucket in [
        ("2026-05-05T05:10:00.499999Z", first),
        ("2026-05-05T05:10:00.5Z", second),
        ("2026-05-05T05:39:59.999999Z", second),
        ("2026-05-05T05:40Z", third),
    ]:
        assert bucket_of(at(instant), "UTC", boundaries) == bucket


def test_a_boundary_on_the_hour_cuts_nothing():
    boundaries = [at("2026-05-05T05:00Z"), at("2026-05-05T06:00Z")]
    assert bucket_of(at("2026-05-05T05:00Z"), "UTC", boundaries) == span(
        "2026-05-05T05:00Z", "2026-05-05T06:00Z"
    )


def test_an_instant_of_another_offset_is_the_same_instant():
    instant = at("2026-03-29T03:30+02:00")
    assert hour_of(instant, "Europe/Berlin") == span("2026-03-29T01:00Z", "2026-03-29T02:00Z")
    assert hour_of(instant.astimezone(zone_info("Europe/Berlin")), "UTC").start.tzinfo is UTC


def test_an_instant_without_an_offset_is_refused():
    with pytest.raises(ValueError, match=r"must have an offset \(got 2026-05-05T05:00:00\)"):
        hour_of(datetime(2026, 5, 5, 5), "UTC")  # noqa: DTZ001


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "Europe", "../etc/passwd", "/etc/localtime"])
def test_an_unknown_zone_is_refused(name):
    with pytest.raises(ValueError, match="time zone must be an IANA name"):
        zone_info(name)


# ---------------------------------------------------------------------------
# Laws
# ---------------------------------------------------------------------------


@settings(deadline=None)
@given(zone_and_instant)
def test_an_hour_has_one_offset_and_ends_where_the_next_begins(case):
    zone, instant = case
    hour = hour_of(instant, zone)
    last = hour.end - MICROSECOND
    assert instant in hour
    assert hour.end - hour.start <= HOUR
    assert offset_at(hour.start, zone) == offset_at(instant, zone) == offset_at(last, zone)
    assert wall_clock(hour.start, zone).hour == wall_clock(last, zone).hour
    assert hour_of(hour.start, zone) == hour_of(last, zone) == hour
    assert hour_of(hour.end, zone).start == hour.end
    if hour.end - hour.start < HOUR:
        edges = (hour.start, hour.end)
        assert any(offset_at(e - MICROSECOND, zone) != offset_at(e, zone) for e in edges)


@settings(deadline=None)
@given(zone_and_instant)
def test_a_day_is_a_merge_of_hours(case):
    zone, instant = case
    day = day_of(instant, zone)
    hour = hour_of(instant, zone)
    assert instant in day
    assert day.start <= hour.start < hour.end <= day.end
    assert hour_of(day.start, zone).start == day.start
    assert day_of(day.end, zone).start == day.end
    assert midnight(local_date(instant, zone), zone) == day.start


@settings(deadline=None)
@given(zone_and_instant, st.lists(st.integers(-7200, 7200), max_size=4))
def test_a_bucket_lies_within_its_hour_and_straddles_no_boundary(case, seconds):
    zone, instant = case
    boundaries = [instant + timedelta(seconds=s) for s in seconds]
    hour, bucket = hour_of(instant, zone), bucket_of(instant, zone, boundaries)
    assert instant in bucket
    assert hour.start <= bucket.start < bucket.end <= hour.end
    assert not any(bucket.start < boundary < bucket.end for boundary in boundaries)
    assert {bucket.start, bucket.end} <= {hour.start, hour.end, *boundaries}


# ---------------------------------------------------------------------------
# Columnar form
# ---------------------------------------------------------------------------


def spans(columns: tuple[np.ndarray, np.ndarray]) -> list[Span]:
    starts, ends = columns
    assert starts.dtype == ends.dtype == np.int64
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return [Span(from_microseconds(start), from_microseconds(end)) for start, end in pairs]


@settings(max_examples=300, deadline=None)
@given(zone_and_instants, st.lists(st.integers(-9000, 9000), max_size=5), st.data())
def test_the_columnar_form_equals_the_scalar_one(case, seconds, data):
    zone, us = case
    column = np.array(us, dtype=np.int64)
    boundaries = np.array(
        [data.draw(st.sampled_from(us)) + s * 500_000 for s in seconds], dtype=np.int64
    )
    moments = [from_microseconds(u) for u in us]
    cuts = [from_microseconds(int(b)) for b in boundaries]
    assert spans(hours_columnar(column, zone)) == [hour_of(m, zone) for m in moments]
    assert spans(days_columnar(column, zone)) == [day_of(m, zone) for m in moments]
    assert spans(bucket_starts_ends(column, zone, boundaries)) == [
        bucket_of(m, zone, cuts) for m in moments
    ]
    assert column.tolist() == us, "the input must stay as it is"


def test_a_column_may_reach_beyond_the_usual_years():
    moments = [datetime(1901, 5, 5, 5, 5, tzinfo=UTC), datetime(2350, 7, 7, 7, 7, tzinfo=UTC)]
    column = np.array([microseconds(moment) for moment in moments], dtype=np.int64)
    assert spans(hours_columnar(column, "Europe/Berlin")) == [
        hour_of(moment, "Europe/Berlin") for moment in moments
    ]


def test_an_instant_beyond_all_years_is_refused():
    with pytest.raises(ValueError, match="must lie in the years 1900 to 9998"):
        hours_columnar(np.array([LEAST_US], dtype=np.int64), "UTC")


def test_an_empty_column_stays_empty():
    empty = np.array([], dtype=np.int64)
    for starts, ends in (
        hours_columnar(empty, "UTC"),
        days_columnar(empty, "UTC"),
        bucket_starts_ends(empty, "UTC", np.array([1], dtype=np.int64)),
    ):
        assert starts.size == ends.size == 0


# ---------------------------------------------------------------------------
# The table of a zone against the files of the tz database
# ---------------------------------------------------------------------------


def listed_changes(zone: str) -> list[tuple[int, int]]:
    """(second, new offset) of the 64-bit block of a TZif file (RFC 9636), offsets that change."""
    data = resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).read_bytes()

    def counts(start: int) -> tuple[int, ...]:
        return struct.unpack(">6l", data[start + 20 : start + 44])

    utc, std, leap, times, types, chars = counts(0)
    start = 44 + times * 5 + types * 6 + chars + leap * 8 + std + utc
    times, types = counts(start)[3:5]
    start += 44
    seconds = struct.unpack(f">{times}q", data[start : start + 8 * times])
    kinds = data[start + 8 * times : start + 9 * times]
    start += 9 * times
    parts = [data[start + 6 * i : start + 6 * i + 4] for i in range(types)]
    offsets = [struct.unpack(">l", part)[0] for part in parts]
    found, offset = [], offsets[0]
    for second, kind in zip(seconds, kinds, strict=True):
        if offsets[kind] != offset:
            offset = offsets[kind]
            found.append((second, offset))
    return found


def test_no_two_changes_of_any_zone_are_closer_than_the_scan_sees():
    packaged = resources.files("tzdata").joinpath("zoneinfo")
    for zone in sorted(available_timezones()):
        if packaged.joinpath(*zone.split("/")).is_file():
            seconds = [second for second, _ in listed_changes(zone)]
            assert min(np.diff(seconds), default=10**9) > SCAN_STEP.total_seconds(), zone


@pytest.mark.parametrize("zone", ZONES)
def test_the_table_of_a_zone_has_every_change_that_the_tz_database_lists(zone):
    table = zone_table(zone, 0, LAST)
    listed = [change for change in listed_changes(zone) if change[0] >= 0]
    scanned = zip(table.changes[1:-1].tolist(), table.offsets[1:].tolist(), strict=True)
    scanned = [(us // 10**6, offset // 10**6) for us, offset in scanned if us >= 0]
    assert scanned[: len(listed)] == listed


@settings(deadline=None)
@given(st.sampled_from(ZONES), st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))  # noqa: DTZ001
def test_a_wall_time_that_exists_is_shown_at_its_instant(zone, wall):
    instant = to_instant(wall, zone)
    shown = wall_clock(instant, zone)
    assert shown >= wall
    if shown != wall:
        # It was skipped: the clock shows it later, by what was skipped.
        before = offset_at(instant - (shown - wall), zone)
        assert shown - wall == offset_at(instant, zone) - before
