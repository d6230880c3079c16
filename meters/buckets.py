"""Buckets: the smallest spans of time that usage is kept for.

    instant -> local hour, cut where the zone's offset changes -> cut at boundaries

A bucket is the customer's local hour as UTC instants, half-open, cut as well at the
boundaries of billing periods. A change of the zone's offset starts a new bucket, so
a repeated hour is two buckets and one beside a half-hour change may last 30 minutes.
Days run from local midnight to local midnight. Source of the rules: "Buckets and
time" of the design, told in docs/semantics.md.

Each rule stands here twice: for one instant (aware datetimes, in UTC) and for a
column of instants of one zone (int64 microseconds since 1970). Tests hold the two
equal. The columnar forms never walk over rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from meters.periods import Periods, Span
from meters.zones import (
    DAY,
    LEAST_US,
    MICROSECOND,
    MOST_US,
    Int64s,
    as_utc,
    from_microseconds,
    local_date,
    microseconds,
    midnight,
    offset_at,
    offset_change,
    wall_clock,
    zone_table,
)

HOUR = timedelta(hours=1)
HOUR_US = HOUR // MICROSECOND
NO_PERIOD = LEAST_US
"""Start and end of an instant that is in no period; numpy and polars read it as no time."""


def hour_of(instant: datetime, zone: str) -> Span:
    """The local hour that holds `instant`, cut only where the zone's offset changes."""
    instant = as_utc(instant)
    wall = wall_clock(instant, zone)
    start = instant - (wall - wall.replace(minute=0, second=0, microsecond=0))
    end = start + HOUR
    offset = offset_at(instant, zone)
    if offset_at(start, zone) != offset:
        start = offset_change(start, instant, zone)
    if offset_at(end - MICROSECOND, zone) != offset:
        end = offset_change(instant, end - MICROSECOND, zone)
    return Span(start, end)


def day_of(instant: datetime, zone: str) -> Span:
    """The local day that holds `instant`, from one local midnight to the next.

    A midnight that does not exist uses the offset before the change; one that occurs
    twice is the first. A day that the zone skipped has no instants.
    """
    instant = as_utc(instant)
    day = local_date(instant, zone)
    return Span(midnight(day, zone), midnight(day + DAY, zone))


def bucket_of(instant: datetime, zone: str, boundaries: Sequence[datetime]) -> Span:
    """The bucket that holds `instant`: its local hour, cut at `boundaries`.

    An instant on a boundary is in the bucket that starts there. Boundaries may come
    in any order and outside the hour.
    """
    instant = as_utc(instant)
    hour = hour_of(instant, zone)
    return Span(
        max([hour.start, *(at for at in boundaries if at <= instant)]),
        min([hour.end, *(at for at in boundaries if at > instant)]),
    )


def hours_columnar(us: Int64s, zone: str) -> tuple[Int64s, Int64s]:
    """`hour_of` for a column: starts and ends."""
    return bucket_starts_ends(us, zone, np.empty(0, dtype=np.int64))


def days_columnar(us: Int64s, zone: str) -> tuple[Int64s, Int64s]:
    """`day_of` for a column: starts and ends."""
    if us.size == 0:
        return us.copy(), us.copy()
    low, high = int(us.min()), int(us.max())
    midnights = zone_table(zone, low, high).midnights
    first, last = np.searchsorted(midnights, [low, high], side="right") - 1
    inner = midnights[first : last + 2]
    index = np.searchsorted(inner[1:-1], us, side="right")
    return inner[index], inner[1:][index]


def bucket_starts_ends(us: Int64s, zone: str, boundaries_us: Int64s) -> tuple[Int64s, Int64s]:
    """`bucket_of` for a column: starts and ends."""
    if us.size == 0:
        return us.copy(), us.copy()
    low, high = int(us.min()), int(us.max())
    table = zone_table(zone, low, high)
    # Nothing that is more than an hour away cuts an hour.
    cuts = np.union1d(table.changes, boundaries_us)
    cuts = cuts[(cuts > low - HOUR_US) & (cuts < high + HOUR_US)]
    edges = np.concatenate(([LEAST_US], cuts, [MOST_US]))
    at = np.searchsorted(cuts, us, side="right")
    since = np.concatenate(([low], cuts))
    offset = table.offsets[np.searchsorted(table.changes, since, side="right") - 1].take(at)
    starts = us + offset
    starts //= HOUR_US
    starts *= HOUR_US
    starts -= offset
    ends = starts + HOUR_US
    np.maximum(starts, edges.take(at), out=starts)
    np.minimum(ends, edges[1:].take(at), out=ends)
    return starts, ends


def periods_columnar(us: Int64s, periods: Periods) -> tuple[Int64s, Int64s]:
    """`Periods.containing` for a column: starts and ends, `NO_PERIOD` where there is none."""
    if us.size == 0:
        return us.copy(), us.copy()
    low, high = from_microseconds(int(us.min())), from_microseconds(int(us.max()))
    spans = periods.between(low, high + MICROSECOND)
    starts = [microseconds(span.start) for span in spans]
    ends = [microseconds(span.end) for span in spans]
    # Periods follow each other without a gap: row 0 is before the first, the last after it.
    index = np.searchsorted(np.array(starts + ends[-1:], dtype=np.int64), us, side="right")
    return (
        np.array([NO_PERIOD, *starts, NO_PERIOD], dtype=np.int64)[index],
        np.array([NO_PERIOD, *ends, NO_PERIOD], dtype=np.int64)[index],
    )


def bounds_columnar(periods: Periods, low_us: int, high_us: int) -> Int64s:
    """`Periods.bounds` in microseconds: what `bucket_starts_ends` takes as boundaries."""
    bounds = periods.bounds(from_microseconds(low_us), from_microseconds(high_us))
    return np.array([microseconds(at) for at in bounds], dtype=np.int64)
