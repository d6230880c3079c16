"""Local hours, days and billing periods of the oracle, one instant at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo


@cache
def zone_of(name: str) -> ZoneInfo:
    """The zone by the tzdata package, not by whatever the machine has."""
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)
TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


def instant(text: str) -> datetime:
    """RFC 3339 with an offset, digits after the sixth cut off; else ValueError."""
    match = TIME.fullmatch(text)
    if match is None:
        raise ValueError(text)
    *date, fraction, sign, hours, minutes = match.groups()
    moment = datetime(*map(int, date), int((fraction or "0")[:6].ljust(6, "0")), tzinfo=UTC)
    if sign is None:
        return moment
    if int(hours) > 23 or int(minutes) > 59:
        raise ValueError(text)
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return moment - offset if sign == "+" else moment + offset


def rfc3339(moment: datetime) -> str:
    """The instant in UTC with Z, and a fraction only where there is one."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def wall(zone: ZoneInfo, year: int, month: int, day: int, clock: timedelta) -> datetime:
    """The instant of a wall time: in a gap by the offset before, if repeated the first."""
    local = datetime(year, month, day) + clock  # noqa: DTZ001
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def offset_at(moment: datetime, zone: ZoneInfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def change_between(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The instant in (low, high] where the offset becomes that of `high`."""
    while high - low > TICK:
        middle = low + (high - low) / 2
        if offset_at(middle, zone) == offset_at(high, zone):
            high = middle
        else:
            low = middle
    return high


def hour_of(moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The local hour; a change of the offset starts a new one."""
    offset = offset_at(moment, zone)
    local = (moment + offset).replace(minute=0, second=0, microsecond=0)
    start, end = local - offset, local - offset + timedelta(hours=1)
    if offset_at(start, zone) != offset:
        start = change_between(start, moment, zone)
    if offset_at(end - TICK, zone) != offset:
        end = change_between(moment, end - TICK, zone)
    return start, end


def day_of(moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """From local midnight to the next."""
    date = moment.astimezone(zone).date()
    midnights = [date + timedelta(days=days) for days in range(-1, 3)]
    starts = [wall(zone, d.year, d.month, d.day, timedelta()) for d in midnights]
    return next((a, b) for a, b in itertools.pairwise(starts) if a <= moment < b)


def month_of(moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The calendar month of the zone."""
    local = moment.astimezone(zone)
    after = (local.year + local.month // 12, local.month % 12 + 1)
    return (
        wall(zone, local.year, local.month, 1, timedelta()),
        wall(zone, *after, 1, timedelta()),
    )


def periods(start: datetime, zone: ZoneInfo, unit: str) -> Iterator[tuple[datetime, datetime]]:
    """Whole billing periods, without regard to the subscription's end."""
    anchor = start.astimezone(zone)
    clock = timedelta(
        hours=anchor.hour,
        minutes=anchor.minute,
        seconds=anchor.second,
        microseconds=anchor.microsecond,
    )
    months = {"month": 1, "quarter": 3, "year": 12}.get(unit)

    def begin(number: int) -> datetime:
        if number == 0:
            return start
        if months is None:
            date = anchor.date() + timedelta(days=number * {"day": 1, "week": 7}[unit])
            return wall(zone, date.year, date.month, date.day, clock)
        index = anchor.year * 12 + anchor.month - 1 + number * months
        year, month = index // 12, index % 12 + 1
        last = (datetime(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day  # noqa: DTZ001
        return wall(zone, year, month, min(anchor.day, last), clock)

    number = 0
    while True:
        span = begin(number), begin(number + 1)
        if span[0] < span[1]:  # a day that a zone left out is no period
            yield span
        number += 1
