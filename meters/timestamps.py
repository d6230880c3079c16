"""Timestamps of events: RFC 3339 with an offset, as UTC microseconds.

Digits after the sixth are cut off, never rounded up into the next bucket. A time
without an offset is no instant and is refused. The scalar form defines the rule;
the columnar form is the same rule over an Arrow column.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import polars as pl

from meters.errors import Rejected
from meters.zones import microseconds

FIRST_INSTANT = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(2300, 1, 1, tzinfo=UTC)
"""Instants stay below this: ClickHouse's DateTime64 ends with the year 2299."""

MICROSECONDS_PER_DAY = 86_400_000_000
MAX_AHEAD = MICROSECONDS_PER_DAY
"""How far an event may be ahead of the time it was ingested."""

_LEAST = microseconds(datetime.min.replace(tzinfo=UTC))
_MOST = microseconds(datetime.max.replace(tzinfo=UTC))

EXPECTED = "an RFC 3339 time with an offset, such as 2026-11-01T00:00:00Z"

_PATTERN = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9])"
    r"(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_SCALAR = re.compile(_PATTERN.replace("^", "").replace("$", ""))


def parse_timestamp(text: str, field: str = "timestamp") -> datetime:
    """The instant that `text` writes. Raises `Rejected` with `invalid_timestamp`."""
    match = _SCALAR.fullmatch(text)
    if match is None:
        raise Rejected("invalid_timestamp", field, text, EXPECTED)
    date, time, fraction, offset = match.groups()
    try:
        local = datetime.fromisoformat(f"{date}T{time}")
        zone = UTC if offset in "Zz" else timezone(_offset(offset))
        instant = local.replace(tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Rejected("invalid_timestamp", field, text, EXPECTED) from None
    return instant + timedelta(microseconds=int((fraction or "")[:6].ljust(6, "0")))


def _offset(text: str) -> timedelta:
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 23 or minutes > 59:
        raise ValueError(text)
    size = timedelta(hours=hours, minutes=minutes)
    return -size if text[0] == "-" else size


def format_instant(instant: datetime) -> str:
    """RFC 3339 in UTC, with a fraction only where there is one."""
    text = instant.astimezone(UTC).isoformat()
    return text.replace("+00:00", "Z")


def parse_timestamps(column: pl.Series) -> pl.Series:
    """The columnar form over texts: Int64 microseconds, null where refused or null."""
    if column.is_empty():
        return column.cast(pl.Int64)
    text = pl.col("text")
    parts = pl.DataFrame({"text": column}).select(
        text.str.extract(_PATTERN, 1).alias("date"),
        text.str.extract(_PATTERN, 2).alias("time"),
        text.str.extract(_PATTERN, 3).alias("fraction"),
        text.str.extract(_PATTERN, 4).alias("offset"),
    )
    offset = pl.col("offset")
    hours = offset.str.slice(1, 2).cast(pl.Int64, strict=False)
    minutes = offset.str.slice(4, 2).cast(pl.Int64, strict=False)
    size = (
        pl.when(offset.is_in(["Z", "z"]))
        .then(pl.lit(0, pl.Int64))
        .when((hours <= 23) & (minutes <= 59))
        .then(
            (hours * 60 + minutes)
            * 60_000_000
            * pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
        )
    )
    local = (
        pl.concat_str([pl.col("date"), pl.lit(" "), pl.col("time")])
        .str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
        .cast(pl.Int64)
    )
    fraction = pl.col("fraction").fill_null("").str.slice(0, 6).str.pad_end(6, "0").cast(pl.Int64)
    instant = local + fraction - size
    # polars knows a year 0 and years after 9999, datetime does not.
    valid = (pl.col("date") >= "0001") & instant.is_between(_LEAST, _MOST)
    return parts.select(pl.when(valid).then(instant).alias("timestamp")).to_series()
