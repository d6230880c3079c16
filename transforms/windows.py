"""Local hours, local days and billing periods as Beam windows.

    events | WindowInto(LocalHours("Europe/Berlin")) | CombinePerKey(...)

    events | WindowInto(
        BillingPeriods(datetime(2026, 1, 31, tzinfo=UTC), "month", "Europe/Berlin")
    ) | CombinePerKey(...)

The spans are those of `meters.buckets` and `meters.periods`; an element's time is its
Beam timestamp (`TimestampedValue`), which must lie in the years 1 to 9999. Windows are
`IntervalWindow`s, since that is the coder that every runner knows.

Limits: Beam carries windows and timestamps in whole milliseconds from one stage to
the next, so the starts and ends of billing periods must be whole milliseconds here.
The table of a zone comes from the `tzdata` package of each worker.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from apache_beam.coders.coders import IntervalWindowCoder
from apache_beam.transforms.window import GlobalWindow, IntervalWindow, NonMergingWindowFn
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp

from meters.buckets import bucket_of, day_of, hour_of
from meters.catalog import PeriodUnit
from meters.periods import Periods, Span, calendar_months
from meters.zones import from_microseconds, microseconds, zone_info


class SpanWindows(NonMergingWindowFn):  # type: ignore[misc]
    """A WindowFn that puts each element into the one span that holds its timestamp."""

    def span_of(self, instant: datetime) -> Span | None:
        """The span that holds an instant; None where it is in none."""
        raise NotImplementedError

    def outside(self, instant: datetime) -> IntervalWindow:
        """The window of an instant that is in no span."""
        raise NotImplementedError

    def assign(self, assign_context: NonMergingWindowFn.AssignContext) -> list[IntervalWindow]:
        """The one window of an element, by its timestamp."""
        try:
            instant = from_microseconds(assign_context.timestamp.micros)
        except OverflowError:
            raise ValueError(
                "the timestamp of an element must be set, in the years 1 to 9999 "
                f"(got {assign_context.timestamp})"
            ) from None
        span = self.span_of(instant)
        return [self.outside(instant) if span is None else _window(span)]

    def get_window_coder(self) -> IntervalWindowCoder:
        """The coder of the windows, which every runner knows."""
        return IntervalWindowCoder()


@dataclass(frozen=True)
class LocalHours(SpanWindows):
    """Windows of local hours: the buckets of usage.

    An hour is cut where the zone's offset changes, and where a period of `cut_at`
    (the subscriptions' periods) starts or ends. Raises ValueError for an unknown zone.
    """

    zone: str
    cut_at: Sequence[Periods] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "cut_at", tuple(self.cut_at))
        zone_info(self.zone)
        for periods in self.cut_at:
            _whole_milliseconds(periods)

    def span_of(self, instant: datetime) -> Span:
        """The bucket that holds an instant."""
        hour = hour_of(instant, self.zone)
        bounds = [at for periods in self.cut_at for at in periods.bounds(hour.start, hour.end)]
        return bucket_of(instant, self.zone, bounds) if bounds else hour


@dataclass(frozen=True)
class LocalDays(SpanWindows):
    """Windows from local midnight to local midnight.

    Raises ValueError for an unknown zone.
    """

    zone: str

    def __post_init__(self) -> None:
        zone_info(self.zone)

    def span_of(self, instant: datetime) -> Span:
        """The local day that holds an instant."""
        return day_of(instant, self.zone)


@dataclass(frozen=True)
class BillingPeriods(SpanWindows):
    """Windows of the billing periods of one subscription.

    `anchor` is its start and `end` where it ends, both with an offset. No element is
    dropped: those before the start share one window that ends there, those from the
    end on share one that starts there; `is_period` tells these windows from periods.
    Raises ValueError as `Periods` does, and where a bound is no whole millisecond.
    """

    anchor: datetime
    unit: PeriodUnit
    zone: str
    end: datetime | None = None

    def __post_init__(self) -> None:
        _whole_milliseconds(self.periods)

    @cached_property
    def periods(self) -> Periods:
        """The periods as plain spans."""
        return Periods(self.anchor, self.zone, self.unit, self.end)

    def span_of(self, instant: datetime) -> Span | None:
        """The period that holds an instant; None before the start and from the end on."""
        return self.periods.containing(instant)

    def outside(self, instant: datetime) -> IntervalWindow:
        """The window before the start or that from the end on."""
        periods = self.periods
        if instant < periods.anchor or periods.end is None:
            return IntervalWindow(MIN_TIMESTAMP, _timestamp(periods.anchor))
        return IntervalWindow(_timestamp(periods.end), GlobalWindow().end)

    def is_period(self, window: IntervalWindow) -> bool:
        """Whether a window is a billing period, not the time before or after all of them."""
        return bool(window.start > MIN_TIMESTAMP and window.end < GlobalWindow().end)


@dataclass(frozen=True)
class CalendarMonths(SpanWindows):
    """Windows of the calendar months of a zone, for usage without a subscription.

    Elements before December 1969 share one window. Raises ValueError for an unknown zone.
    """

    zone: str

    def __post_init__(self) -> None:
        zone_info(self.zone)

    @cached_property
    def periods(self) -> Periods:
        """The months as plain spans."""
        return calendar_months(self.zone)

    def span_of(self, instant: datetime) -> Span | None:
        """The month that holds an instant; None before December 1969."""
        return self.periods.containing(instant)

    def outside(self, instant: datetime) -> IntervalWindow:  # noqa: ARG002
        """The window before the first month."""
        return IntervalWindow(MIN_TIMESTAMP, _timestamp(self.periods.anchor))


class ByKey(NonMergingWindowFn):  # type: ignore[misc]
    """Windows that depend on the key of (key, value) elements.

    `windows` gives the windows of each key (a customer with a zone of its own), and
    `default` those of every other key. The whole mapping travels with the pipeline:
    it is meant for thousands of keys, not millions.
    """

    def __init__(self, windows: Mapping[Hashable, SpanWindows], default: SpanWindows) -> None:
        self.windows = dict(windows)
        self.default = default

    def assign(self, assign_context: NonMergingWindowFn.AssignContext) -> list[IntervalWindow]:
        """The one window of a (key, value) element, by its key and timestamp."""
        key, _ = assign_context.element
        return self.windows.get(key, self.default).assign(assign_context)

    def get_window_coder(self) -> IntervalWindowCoder:
        """The coder of the windows, which every runner knows."""
        return IntervalWindowCoder()

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ByKey)
            and self.windows == other.windows
            and self.default == other.default
        )

    def __hash__(self) -> int:
        return hash((frozenset(self.windows.items()), self.default))

    def __repr__(self) -> str:
        return f"ByKey({len(self.windows)} keys, default={self.default!r})"


def _timestamp(instant: datetime) -> Timestamp:
    return Timestamp(micros=microseconds(instant))


def _window(span: Span) -> IntervalWindow:
    return IntervalWindow(_timestamp(span.start), _timestamp(span.end))


def _whole_milliseconds(periods: Periods) -> None:
    for name, at in (("start", periods.anchor), ("end", periods.end)):
        if at is not None and at.microsecond % 1000:
            raise ValueError(
                f"{name} must be a whole millisecond, as Beam's windows are (got {at.isoformat()})"
            )
