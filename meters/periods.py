"""Billing periods: anchored at a subscription's start, in the customer's zone.

    start 31 Jan 10:00 Berlin -> [31 Jan, 28 Feb) [28 Feb, 31 Mar) [31 Mar, 30 Apr) ...

The anchor is the local date and time of day of the start. Period n starts when the
zone's clocks show that time n periods later, counted from the anchor, so a short
month moves no later period. A wall time that does not exist uses the offset before
the change; one that occurs twice is the first. The first period starts exactly at
the start; an end cuts the last one. Source of the rules: "Periods" of the billing
contract, told in docs/semantics.md.

Spans are half-open, their bounds aware datetimes in UTC.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cached_property, lru_cache

from meters.catalog import PeriodUnit, Proration
from meters.zones import MICROSECOND, as_utc, local_date, to_instant, wall_clock, zone_info

_MONTHS: dict[PeriodUnit, int] = {"month": 1, "quarter": 3, "year": 12}
_DAYS: dict[PeriodUnit, int] = {"day": 1, "week": 7}
_FIRST_YEAR = 1900
# Periods that would reach beyond the calendar of datetime end here.
_FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, order=True)
class Span:
    """The instants from `start` to before `end`, in UTC."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end


@dataclass(frozen=True)
class Periods:
    """The billing periods of one subscription.

    `anchor` is its start, `end` where it ends (None: never), `zone` the customer's.
    Raises ValueError for an unknown zone or unit, an instant without an offset, a
    start before 1900 and an end that is not after the start.

    A period of a day that the zone skipped has no instant and is left out.
    """

    anchor: datetime
    zone: str
    unit: PeriodUnit
    end: datetime | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", as_utc(self.anchor, "start"))
        if self.anchor.year < _FIRST_YEAR:
            raise ValueError(
                f"start must be in {_FIRST_YEAR} or later (got {self.anchor.isoformat()})"
            )
        if self.end is not None:
            object.__setattr__(self, "end", as_utc(self.end, "end"))
            if self.end <= self.anchor:
                raise ValueError(
                    f"end must be after start {self.anchor.isoformat()} "
                    f"(got {self.end.isoformat()})"
                )
        if self.unit not in _MONTHS and self.unit not in _DAYS:
            units = ", ".join([*_DAYS, *_MONTHS])
            raise ValueError(f"unit must be one of {units} (got {self.unit!r})")
        zone_info(self.zone)

    def containing(self, instant: datetime) -> Span | None:
        """The period that `instant` is in; None before the start and from the end on."""
        whole = self.whole(instant)
        return None if whole is None else self._cut(whole)

    def whole(self, instant: datetime) -> Span | None:
        """The period that `instant` is in, as long as it would be without an end.

        It is what a part of a period is prorated by.
        """
        instant = as_utc(instant)
        if instant < self.anchor or (self.end is not None and instant >= self.end):
            return None
        index = self._index(instant)
        return Span(self.start_of(index), self.start_of(index + 1))

    def starting_from(self, instant: datetime) -> Iterator[Span]:
        """The periods that start at `instant` or later, in order; endless without an end."""
        instant = as_utc(instant)
        for period in self._from(instant):
            if period.start >= instant:
                yield period

    def between(self, start: datetime, end: datetime) -> list[Span]:
        """The periods that share an instant with [start, end), in order."""
        end = as_utc(end)
        found: list[Span] = []
        if as_utc(start) < end:
            for period in self._from(as_utc(start)):
                if period.start >= end:
                    break
                found.append(period)
        return found

    def bounds(self, start: datetime, end: datetime) -> list[datetime]:
        """Where periods start or end, from `start` to `end` (both included), ascending."""
        start, end = as_utc(start), as_utc(end)
        found: list[datetime] = []
        for period in self._from(start):
            if period.start > end:
                break
            found.extend(at for at in (period.start, period.end) if start <= at <= end)
        if self.end is not None and start <= self.end <= end:
            found.append(self.end)
        return sorted(set(found))

    @cached_property
    def _wall(self) -> datetime:
        return wall_clock(self.anchor, self.zone)

    def start_of(self, index: int) -> datetime:
        """When the period of this number starts; beyond the calendar of datetime: its end."""
        if index == 0:
            return self.anchor
        try:
            return to_instant(self._wall_of(index), self.zone)
        except (OverflowError, ValueError):
            return _FOREVER

    def _wall_of(self, index: int) -> datetime:
        wall = self._wall
        if self.unit in _DAYS:
            return wall + timedelta(days=index * _DAYS[self.unit])
        years, month = divmod(wall.month - 1 + index * _MONTHS[self.unit], 12)
        year, month = wall.year + years, month + 1
        return wall.replace(year=year, month=month, day=min(wall.day, monthrange(year, month)[1]))

    def _index(self, instant: datetime) -> int:
        """The last period that starts at or before `instant`, which is not before the anchor."""
        now = min(instant, _FOREVER - timedelta(days=2)).astimezone(zone_info(self.zone))
        if self.unit in _DAYS:
            index = (now.date() - self._wall.date()).days // _DAYS[self.unit]
        else:
            months = (now.year - self._wall.year) * 12 + now.month - self._wall.month
            index = months // _MONTHS[self.unit]
        index = max(index, 0)
        while index and self.start_of(index) > instant:
            index -= 1
        while (following := self.start_of(index + 1)) <= instant and following < _FOREVER:
            index += 1
        return index

    def _from(self, instant: datetime) -> Iterator[Span]:
        """The periods from the one that holds `instant`, or the first, on."""
        if self.end is not None and instant >= self.end:
            return
        index = self._index(max(instant, self.anchor))
        start = self.start_of(index)
        while start < (_FOREVER if self.end is None else self.end):
            index += 1
            following = self.start_of(index)
            if start < following:
                yield self._cut(Span(start, following))
            start = following

    def _cut(self, whole: Span) -> Span:
        if self.end is None or whole.end <= self.end:
            return whole
        return Span(whole.start, self.end)


@lru_cache(maxsize=4096)
def numbered(anchor: datetime, zone: str, unit: PeriodUnit, number: int) -> Span | None:
    """The period of this number (from 0) of all that start at an instant, as long as they go on.

    It has no instant where the zone skipped its day; None beyond the calendar of datetime.
    Most subscriptions share their anchor with others.
    """
    periods = Periods(anchor, zone, unit)
    start = periods.start_of(number)
    return None if start == _FOREVER else Span(start, periods.start_of(number + 1))


def calendar_months(zone: str) -> Periods:
    """The calendar months of a zone, for usage without a subscription.

    The first is December 1969: no event is older than 1970 UTC.
    """
    return Periods(to_instant(datetime(1969, 12, 1), zone), zone, "month")  # noqa: DTZ001


def proration_factor(part: Span, whole: Span, zone: str, mode: Proration) -> Fraction:
    """How much of a period a part of it is: exact, from 0 to 1.

    - `day`: local days of the part by those of the whole. A part has the days from
      the local date of its start (counted, though it may begin in mid-day) to that of
      its end (not counted). So parts that follow each other add up to 1, a day on
      which they meet belongs to the later one, and a part within one day is 0.
    - `second`: elapsed time of the part by that of the whole, to the microsecond.
    - `none`: 1.

    The whole period is 1 in every mode. A whole without any local date (a day's
    period that a change of offset shortens) is taken by `second`. Raises ValueError
    where the part does not lie within the whole.
    """
    if not whole.start <= part.start <= part.end <= whole.end:
        raise ValueError(
            f"part must lie within {whole.start.isoformat()} to {whole.end.isoformat()} "
            f"(got {part.start.isoformat()} to {part.end.isoformat()})"
        )
    if mode == "none" or part == whole:
        return Fraction(1)
    if mode == "day" and (days := _days(whole, zone)):
        return Fraction(_days(part, zone), days)
    return Fraction(_elapsed(part), _elapsed(whole))


def _days(span: Span, zone: str) -> int:
    return (local_date(span.end, zone) - local_date(span.start, zone)).days


def _elapsed(span: Span) -> int:
    return (span.end - span.start) // MICROSECOND
