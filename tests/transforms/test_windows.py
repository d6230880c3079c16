"""Local hours and billing periods as Beam windows: by themselves, as protos, in pipelines."""

from datetime import UTC, datetime, timedelta

import apache_beam as beam
import pytest
from apache_beam.coders.coders import IntervalWindowCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.core import Windowing
from apache_beam.transforms.trigger import AccumulationMode, AfterWatermark
from apache_beam.transforms.window import (
    GlobalWindow,
    IntervalWindow,
    TimestampedValue,
    WindowFn,
)
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.buckets import bucket_of, day_of, hour_of
from meters.periods import Periods, calendar_months
from meters.zones import from_microseconds, microseconds
from transforms.windows import BillingPeriods, ByKey, CalendarMonths, LocalDays, LocalHours

START = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
END = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
JANUARY = Periods(START, "Europe/Berlin", "month", END)

WINDOWS = [
    LocalHours("Europe/Berlin"),
    LocalHours("Australia/Lord_Howe", cut_at=[JANUARY]),
    LocalDays("Asia/Kathmandu"),
    BillingPeriods(START, "month", "Europe/Berlin"),
    BillingPeriods(START, "quarter", "America/New_York", end=END),
    CalendarMonths("Pacific/Apia"),
    ByKey({"acme": LocalHours("Europe/Berlin")}, default=LocalHours("UTC")),
    ByKey({"acme": BillingPeriods(START, "day", "UTC")}, default=CalendarMonths("UTC")),
]
by_name = pytest.mark.parametrize("windows", WINDOWS, ids=repr)
instants = st.datetimes(datetime(1970, 1, 1), datetime(2100, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def stamp(instant: datetime) -> Timestamp:
    return Timestamp(micros=microseconds(instant))


def assigned(windows: WindowFn, instant: datetime, element: object = None) -> tuple:
    """The one window of an element, as two instants."""
    [window] = windows.assign(WindowFn.AssignContext(stamp(instant), element))
    return window.start.to_utc_datetime(has_tz=True), window.end.to_utc_datetime(has_tz=True)


def whole_milliseconds(instant: datetime) -> datetime:
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


# ---------------------------------------------------------------------------
# Assignment is the pure rule
# ---------------------------------------------------------------------------


@settings(deadline=None)
@given(st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]), instants)
def test_an_element_is_in_the_hour_the_day_and_the_month_of_the_pure_rules(zone, instant):
    hour, day = hour_of(instant, zone), day_of(instant, zone)
    month = calendar_months(zone).containing(instant)
    assert assigned(LocalHours(zone), instant) == (hour.start, hour.end)
    assert assigned(LocalDays(zone), instant) == (day.start, day.end)
    assert assigned(CalendarMonths(zone), instant) == (month.start, month.end)


@settings(deadline=None)
@given(instants.map(whole_milliseconds), st.timedeltas(timedelta(0), timedelta(days=90)))
def test_hours_that_are_cut_at_periods_are_buckets(anchor, away):
    periods = Periods(anchor, "Europe/Berlin", "week", anchor + timedelta(days=50))
    instant = anchor + away
    boundaries = periods.bounds(instant - timedelta(hours=2), instant + timedelta(hours=2))
    bucket = bucket_of(instant, "Europe/Berlin", boundaries)
    windows = LocalHours("Europe/Berlin", cut_at=[periods])
    assert assigned(windows, instant) == (bucket.start, bucket.end)


@pytest.mark.parametrize(
    ("instant", "start", "end"),
    [
        ("2026-01-31T09:30Z", "2026-01-31T09:30Z", "2026-02-28T09:30Z"),
        ("2026-02-28T09:29:59.999999Z", "2026-01-31T09:30Z", "2026-02-28T09:30Z"),
        ("2026-02-28T09:30Z", "2026-02-28T09:30Z", "2026-03-10T12:00Z"),
    ],
)
def test_an_element_on_a_boundary_is_in_the_period_that_starts(instant, start, end):
    windows = BillingPeriods(START, "month", "Europe/Berlin", END)
    assert assigned(windows, at(instant)) == (at(start), at(end))


def test_no_element_is_dropped_before_the_start_or_after_the_end():
    windows = BillingPeriods(START, "month", "Europe/Berlin", END)
    [before] = windows.assign(WindowFn.AssignContext(stamp(START - timedelta(microseconds=1))))
    [first] = windows.assign(WindowFn.AssignContext(stamp(START)))
    [after] = windows.assign(WindowFn.AssignContext(stamp(END)))
    assert before == IntervalWindow(MIN_TIMESTAMP, stamp(START))
    assert after == IntervalWindow(stamp(END), GlobalWindow().end)
    assert [windows.is_period(window) for window in (before, first, after)] == [False, True, False]


def test_months_before_the_first_share_a_window():
    [window] = CalendarMonths("UTC").assign(WindowFn.AssignContext(stamp(at("1950-01-01T00:00Z"))))
    assert window == IntervalWindow(MIN_TIMESTAMP, stamp(at("1969-12-01T00:00Z")))


def test_a_key_has_the_windows_of_its_zone_and_others_the_default():
    windows = ByKey({"acme": LocalHours("Asia/Kathmandu")}, default=LocalHours("UTC"))
    instant = at("2026-05-05T05:30Z")
    assert assigned(windows, instant, ("acme", 1)) == (
        at("2026-05-05T05:15Z"),
        at("2026-05-05T06:15Z"),
    )
    assert assigned(windows, instant, ("zeta", 1)) == (
        at("2026-05-05T05:00Z"),
        at("2026-05-05T06:00Z"),
    )


def test_an_element_without_a_time_is_refused():
    with pytest.raises(ValueError, match="timestamp of an element must be set"):
        LocalHours("UTC").assign(WindowFn.AssignContext(MIN_TIMESTAMP))


def test_what_beam_cannot_carry_or_nobody_knows_is_refused():
    odd = START + timedelta(microseconds=1)
    with pytest.raises(ValueError, match=r"start must be a whole millisecond.*000001"):
        BillingPeriods(odd, "month", "UTC")
    with pytest.raises(ValueError, match="end must be a whole millisecond"):
        BillingPeriods(START, "month", "UTC", odd)
    with pytest.raises(ValueError, match="start must be a whole millisecond"):
        LocalHours("UTC", cut_at=[Periods(odd, "UTC", "day")])
    for windows in (LocalHours, LocalDays, CalendarMonths):
        with pytest.raises(ValueError, match="time zone must be an IANA name"):
            windows("Mars/Olympus")


# ---------------------------------------------------------------------------
# A value that travels
# ---------------------------------------------------------------------------


@by_name
def test_windows_do_not_merge_and_have_a_coder_that_every_runner_knows(windows):
    assert not windows.is_merging()
    assert windows.get_window_coder() == IntervalWindowCoder()


@by_name
def test_a_window_survives_its_coder(windows):
    coder = windows.get_window_coder()
    for instant in (START - timedelta(days=9), START + timedelta(days=9), END + timedelta(days=9)):
        [window] = windows.assign(WindowFn.AssignContext(stamp(instant), ("acme", 1)))
        assert coder.decode(coder.encode(window)) == window


@by_name
def test_windows_survive_the_runner_api(windows):
    # Used once, so that whatever it remembers travels too.
    assigned(windows, START + timedelta(days=1), ("acme", 1))
    context = PipelineContext()
    proto = windows.to_runner_api(context)
    back = WindowFn.from_runner_api(proto, context)
    assert proto.urn == python_urns.PICKLED_WINDOWFN
    assert back == windows
    assert hash(back) == hash(windows)
    assert repr(back) == repr(windows)
    instant = START + timedelta(days=20)
    assert assigned(back, instant, ("acme", 1)) == assigned(windows, instant, ("acme", 1))


@by_name
def test_a_windowing_strategy_survives_the_runner_api(windows):
    strategy = Windowing(windows, AfterWatermark(), AccumulationMode.DISCARDING)
    context = PipelineContext()
    proto = strategy.to_runner_api(context)
    assert Windowing.from_runner_api(proto, context) == strategy


def test_equal_windows_are_equal_and_others_are_not():
    assert len(set(WINDOWS)) == len(WINDOWS)
    assert LocalHours("UTC", cut_at=[JANUARY]) == LocalHours("UTC", cut_at=(JANUARY,))
    assert LocalHours("UTC") != LocalDays("UTC")
    assert ByKey({}, LocalHours("UTC")) != LocalHours("UTC")


# ---------------------------------------------------------------------------
# Pipelines
# ---------------------------------------------------------------------------


class WithWindow(beam.DoFn):
    def process(self, element, window=beam.DoFn.WindowParam):
        start, end = (t.to_utc_datetime(has_tz=True) for t in (window.start, window.end))
        yield element, start, end


def anything(element) -> bool:
    return True


def summed(pipeline, windows: WindowFn, events: list[tuple], keep=anything) -> beam.PCollection:
    """The plain form of metering: (key, value, instant) into sums by key and window."""
    return (
        pipeline
        | beam.Create(events, reshuffle=False)
        | beam.Map(lambda event: TimestampedValue((event[0], event[1]), stamp(event[2])))
        | beam.WindowInto(windows)
        | beam.CombinePerKey(sum)
        | beam.Filter(keep)
        | beam.ParDo(WithWindow())
    )


def direct() -> beam.Pipeline:
    return beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([]))


def test_combine_per_key_sums_local_hours_and_the_repeated_hour_apart():
    events = [
        ("acme", 1, at("2026-10-25T00:00Z")),  # 02:00 +02:00
        ("acme", 2, at("2026-10-25T00:59:59.999999Z")),
        ("acme", 4, at("2026-10-25T01:00Z")),  # 02:00 +01:00
        ("acme", 8, at("2026-10-25T02:00Z")),
        ("zeta", 16, at("2026-10-25T01:30Z")),
    ]
    expected = [
        (("acme", 3), at("2026-10-25T00:00Z"), at("2026-10-25T01:00Z")),
        (("acme", 4), at("2026-10-25T01:00Z"), at("2026-10-25T02:00Z")),
        (("acme", 8), at("2026-10-25T02:00Z"), at("2026-10-25T03:00Z")),
        (("zeta", 16), at("2026-10-25T01:00Z"), at("2026-10-25T02:00Z")),
    ]
    with direct() as pipeline:
        assert_that(summed(pipeline, LocalHours("Europe/Berlin"), events), equal_to(expected))


def test_combine_per_key_sums_billing_periods_from_start_to_end():
    windows = BillingPeriods(START, "month", "Europe/Berlin", END)
    events = [
        ("acme", 1, START - timedelta(microseconds=1)),
        ("acme", 2, START),
        ("acme", 4, at("2026-02-28T09:29:59.999999Z")),
        ("acme", 8, at("2026-02-28T09:30Z")),
        ("acme", 16, END - timedelta(microseconds=1)),
    ]
    expected = [
        (("acme", 6), START, at("2026-02-28T09:30Z")),
        (("acme", 24), at("2026-02-28T09:30Z"), END),
    ]

    def in_a_period(element, window=beam.DoFn.WindowParam):
        return windows.is_period(window)

    with direct() as pipeline:
        sums = summed(pipeline, windows, events, keep=in_a_period)
        assert_that(sums, equal_to(expected))


def test_grouping_by_key_keeps_the_windows_of_each_key():
    windows = ByKey({"acme": LocalDays("Asia/Kathmandu")}, default=LocalDays("UTC"))
    events = [
        (key, 1, from_microseconds(microseconds(at("2026-05-05T00:00Z")) + hour * 3_600_000_000))
        for key in ("acme", "zeta")
        for hour in range(48)
    ]
    expected: dict[tuple, int] = {}
    for key, value, instant in events:
        day = day_of(instant, "Asia/Kathmandu" if key == "acme" else "UTC")
        expected[key, day.start, day.end] = expected.get((key, day.start, day.end), 0) + value
    with direct() as pipeline:
        assert_that(
            summed(pipeline, windows, events),
            equal_to([((key, n), start, end) for (key, start, end), n in expected.items()]),
        )
