"""Time zones: wall clocks to instants, and where a zone's UTC offset changes.

Scalar rules work on aware datetimes in UTC through `zoneinfo`; columnar rules on
int64 microseconds since 1970 through `ZoneTable`, which is found by scanning the
same zoneinfo offsets. Tests hold both equal.

A wall time that does not exist uses the offset before the change; one that occurs
twice is the first (PEP 495, `fold=0`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY = timedelta(days=1)
DAY_US = DAY // MICROSECOND
LEAST_US = int(np.iinfo(np.int64).min)
MOST_US = int(np.iinfo(np.int64).max)

SCAN_STEP = timedelta(days=3)
"""Two changes of offset within this could be missed; the closest in the tz database
are 167 hours apart (a test reads them all)."""
# The first years are what nearly every batch lies within; others pay for a longer scan.
_YEARS = ((1969, 2102), (1900, 2400), (1900, 9998))


def microseconds(instant: datetime) -> int:
    """Microseconds from 1970-01-01T00:00:00Z to an aware datetime."""
    return (instant - EPOCH) // MICROSECOND


def from_microseconds(us: int) -> datetime:
    """The instant, in UTC, that is `us` microseconds after 1970-01-01T00:00:00Z.

    Raises OverflowError outside the years 1 to 9999.
    """
    return EPOCH + us * MICROSECOND


def as_utc(instant: datetime, name: str = "instant") -> datetime:
    """The same instant in UTC; ValueError where it has no offset."""
    if instant.tzinfo is UTC:
        return instant
    if instant.utcoffset() is None:
        raise ValueError(f"{name} must have an offset (got {instant.isoformat()})")
    return instant.astimezone(UTC)


@cache
def zone_info(name: str) -> ZoneInfo:
    """The IANA zone of this name, from the `tzdata` package where it has it.

    The package comes before the system's files, so that machines with the same
    locked dependencies cut the same hours. Raises ValueError for another name.
    """
    try:
        system = ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"time zone must be an IANA name such as Europe/Berlin (got {name!r})"
        ) from None
    packaged = resources.files("tzdata").joinpath("zoneinfo", *name.split("/"))
    if not packaged.is_file():
        return system
    with packaged.open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def offset_at(instant: datetime, zone: str) -> timedelta:
    """The zone's offset from UTC at an instant."""
    offset = instant.astimezone(zone_info(zone)).utcoffset()
    assert offset is not None
    return offset


def offset_change(low: datetime, high: datetime, zone: str) -> datetime:
    """The first instant with the offset of `high`; at `low` it is another.

    They are at most `SCAN_STEP` apart, so that there is one change between them.
    """
    offset = offset_at(high, zone)
    while high - low > MICROSECOND:
        middle = low + (high - low) // 2
        if offset_at(middle, zone) == offset:
            high = middle
        else:
            low = middle
    return high


def to_instant(wall: datetime, zone: str) -> datetime:
    """The instant, in UTC, at which the zone's clocks show the naive `wall`."""
    return wall.replace(tzinfo=zone_info(zone), fold=0).astimezone(UTC)


def wall_clock(instant: datetime, zone: str) -> datetime:
    """What the zone's clocks show at an instant, as a naive datetime."""
    return instant.astimezone(zone_info(zone)).replace(tzinfo=None, fold=0)


def midnight(day: date, zone: str) -> datetime:
    """The instant at which a local date begins."""
    return to_instant(datetime.combine(day, time()), zone)


def local_date(instant: datetime, zone: str) -> date:
    """The local date whose day, from its midnight to the next one's, holds `instant`.

    It is the clock's date except where clocks go back past midnight: what they
    then show twice belongs to the new date, which has begun already.
    """
    day = wall_clock(instant, zone).date()
    while midnight(day, zone) > instant:
        day -= DAY
    while midnight(day + DAY, zone) <= instant:
        day += DAY
    return day


@dataclass(frozen=True, eq=False)
class ZoneTable:
    """The offsets of one zone over a span of years, in microseconds.

    `offsets[i]` holds from `changes[i]` to before `changes[i + 1]`. The first change
    stands for minus infinity, the last for infinity. `midnights` are the instants
    at which local days begin, ascending, days that do not exist left out.
    """

    changes: Int64s
    offsets: Int64s
    midnights: Int64s


def zone_table(zone: str, low_us: int, high_us: int) -> ZoneTable:
    """The table of a zone that covers the instants from `low_us` to `high_us`.

    Tables are kept. Raises ValueError for instants before 1900 or after 9998.
    """
    for first, last in _YEARS:
        if _year_us(first) <= low_us and high_us < _year_us(last + 1):
            return _scan(zone, first, last)
    raise ValueError(
        f"instants must lie in the years {first} to {last} "
        f"(got {low_us} to {high_us} microseconds since 1970)"
    )


def _year_us(year: int) -> int:
    return microseconds(datetime(year, 1, 1, tzinfo=UTC))


@cache
def _scan(zone: str, first_year: int, last_year: int) -> ZoneTable:
    # Some days more at both ends, since local days reach over the year's end.
    seen = datetime(first_year, 1, 1, tzinfo=UTC) - SCAN_STEP
    stop = datetime(last_year + 1, 1, 1, tzinfo=UTC) + SCAN_STEP
    offset = offset_at(seen, zone)
    changes, offsets = [LEAST_US], [offset // MICROSECOND]
    days = np.arange(microseconds(seen), microseconds(stop), DAY_US, dtype=np.int64)
    while seen < stop:
        following = seen + SCAN_STEP
        if (new := offset_at(following, zone)) != offset:
            changes.append(microseconds(offset_change(seen, following, zone)))
            offsets.append(new // MICROSECOND)
            offset = new
        seen = following
    changes.append(MOST_US)
    at, by = np.array(changes, dtype=np.int64), np.array(offsets, dtype=np.int64)
    # Clocks keep to the offset before a change until the later of what they show
    # just before it and what they show from it on.
    walls = at[1:-1] + np.maximum(by[:-1], by[1:])
    midnights = np.unique(days - by[np.searchsorted(walls, days, side="right")])
    for array in (at, by, midnights):
        array.flags.writeable = False
    return ZoneTable(at, by, midnights)
