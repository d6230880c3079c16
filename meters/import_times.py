"""Times as archives write them: in a format of their own, or without an offset.

    texts -> parts (regular expression) -> local microseconds -> UTC microseconds

- `unix`, `unix_ms`, `unix_us`: a number since the epoch, with or without a fraction.
- a `strptime` format: the directives Y y m d j H I p M S f z b B a A. Names of
  months and days are English whatever the locale is; f takes any number of digits.
- no format but a zone: RFC 3339 whose offset may be missing; a date alone is its
  midnight.

A time without an offset is local time of the zone. One that occurs twice is the
first; one that does not exist uses the offset before the change. Digits after the
sixth are cut off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Context, Decimal, InvalidOperation
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from meters import timestamps
from meters.errors import ConfigurationError
from meters.event import INSTANT
from meters.zones import microseconds, zone_info

Micros = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
UNIX_DIGITS = {"unix": 6, "unix_ms": 3, "unix_us": 0}
"""The formats that count from the epoch, and the digits from their unit to microseconds."""

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    "sep(?:tember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
_DAY = "mon(?:day)?|tue(?:sday)?|wed(?:nesday)?|thu(?:rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?"
_DIRECTIVES = {
    "Y": "[0-9]{4}",
    "y": "[0-9]{2}",
    "m": "[0-9]{1,2}",
    "d": "[0-9]{1,2}",
    "j": "[0-9]{1,3}",
    "H": "[0-9]{1,2}",
    "I": "[0-9]{1,2}",
    "p": "am|pm",
    "M": "[0-9]{1,2}",
    "S": "[0-9]{1,2}",
    "f": "[0-9]+",
    "z": "z|[+-][0-9]{2}:?[0-9]{2}",
    "b": _MONTH,
    "B": _MONTH,
    "a": _DAY,
    "A": _DAY,
}
_LOCAL = (
    r"^(?P<Y>[0-9]{4})-(?P<m>[0-9]{2})-(?P<d>[0-9]{2})"
    r"(?:[Tt ](?P<H>[0-9]{2}):(?P<M>[0-9]{2}):(?P<S>[0-9]{2})(?:\.(?P<f>[0-9]+))?)?$"
)
_UNIX = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_FLOOR = Context(prec=60, rounding=ROUND_FLOOR, traps=[InvalidOperation])
_LEAST = microseconds(datetime(1, 1, 1, tzinfo=UTC))
_MOST = microseconds(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
_PER_UNIT = {"s": SECOND, "ms": 1000, "us": 1}


@dataclass(frozen=True)
class TimeReader:
    """Reads the texts of one column of times; see `of`."""

    format: str | None
    zone: str | None
    pattern: str | None

    @classmethod
    def of(cls, time_format: str | None, time_zone: str | None) -> TimeReader:
        """The reader for a `--time-format` and a `--time-zone`; both may be missing.

        Raises `ConfigurationError` for an unknown zone or directive, and for a
        format without an offset where no zone is given.
        """
        if time_zone is not None:
            check_zone(time_zone)
        if time_format is None or time_format in UNIX_DIGITS:
            return cls(time_format, time_zone, None)
        pattern = compile_format(time_format)
        if time_zone is None and "(?P<z>" not in pattern:
            raise ConfigurationError(
                f"--time-format without %z must come with --time-zone (got {time_format!r})"
            )
        return cls(time_format, time_zone, pattern)

    @property
    def is_verbatim(self) -> bool:
        """Whether texts stay as they are: RFC 3339, for decoding to judge."""
        return self.format is None and self.zone is None

    @property
    def is_unix(self) -> bool:
        """Whether times are numbers since the epoch."""
        return self.format in UNIX_DIGITS

    @property
    def expected(self) -> str:
        """What a time must be, for messages."""
        if self.format is None:
            return f"an RFC 3339 time, in {self.zone} where it has no offset"
        if self.is_unix:
            return f"a number as the time format {self.format} has it"
        return f"a time as the format {self.format!r} has it"

    def read(self, texts: pa.Array) -> pa.Array:
        """Instants (`timestamp[us, UTC]`) for an array of strings; null where refused."""
        if self.is_unix:
            return self._unix_times(texts).cast(INSTANT)
        if self.format is None:
            return self._rfc3339(texts)
        return _instants(*_micros(_match(texts, self.pattern or ""), len(texts), self.zone))

    def localise(self, local: pa.Array) -> pa.Array:
        """Instants for local times (`timestamp[us]` without a zone) of the reader's zone."""
        if self.zone is None:
            raise ValueError("local times need a zone")
        valid = _flags(pc.is_valid(local))
        values = np.asarray(pc.fill_null(local.cast(pa.int64()), 0), dtype=np.int64)
        return _instants(to_utc(values, self.zone), valid)

    def _rfc3339(self, texts: pa.Array) -> pa.Array:
        parts = _match(texts, _LOCAL)
        if self.zone is None:
            raise ValueError("times without an offset need a zone")
        micros, valid = _micros(parts, len(texts), self.zone)
        rest = _flags(pc.is_valid(texts)) & ~valid
        if not rest.any():
            return _instants(micros, valid)
        column = pl.Series("text", pl.from_arrow(texts.filter(pa.array(rest))))
        with_offset = timestamps.parse_timestamps(column)
        micros[rest] = with_offset.fill_null(0).to_numpy()
        valid[rest] = with_offset.is_not_null().to_numpy()
        return _instants(micros, valid)

    def _unix_times(self, texts: pa.Array) -> pa.Array:
        whole = pc.match_substring_regex(texts, "^-?[0-9]{1,18}$")
        if pc.all(whole).as_py() is False:
            return pa.array([self._unix(text) for text in texts.to_pylist()], pa.int64())
        return _scaled(texts.cast(pa.int64()), 10 ** UNIX_DIGITS[self.format or ""])

    def _unix(self, text: str | None) -> int | None:
        if text is None or _UNIX.fullmatch(text) is None:
            return None
        digits = UNIX_DIGITS[self.format or ""]
        try:
            scaled = Decimal(text).scaleb(digits, context=_FLOOR)
            micros = int(scaled.to_integral_value(context=_FLOOR))
        except InvalidOperation:
            return None
        return micros if _LEAST <= micros <= _MOST else None


def compile_format(time_format: str) -> str:
    """The regular expression of a `strptime` format, a named group for each directive.

    Raises `ConfigurationError` for an unknown directive, one that occurs twice, and
    a format that names no day.
    """
    parts: list[str] = []
    seen: set[str] = set()
    for text in re.findall(r"%.?|\s+|[^%\s]+", time_format, re.DOTALL):
        if text.isspace():
            parts.append(r"\s+")
        elif not text.startswith("%"):
            parts.append(re.escape(text))
        elif text == "%%":
            parts.append("%")
        else:
            directive = text[1:]
            if directive not in _DIRECTIVES:
                known = " ".join(f"%{name}" for name in _DIRECTIVES)
                raise ConfigurationError(
                    f"--time-format must be unix, unix_ms, unix_us or made of {known} "
                    f"(got {text!r} in {time_format!r})"
                )
            if directive in seen:
                raise ConfigurationError(
                    f"--time-format must use a directive once (got {text!r} twice)"
                )
            seen.add(directive)
            parts.append(f"(?P<{directive}>{_DIRECTIVES[directive]})")
    has_year = bool(seen & {"Y", "y"})
    has_day = "j" in seen or ("d" in seen and bool(seen & {"m", "b", "B"}))
    if not (has_year and has_day):
        raise ConfigurationError(
            f"--time-format must name a year, a month and a day (got {time_format!r})"
        )
    return "(?i)^" + "".join(parts) + "$"


def check_zone(name: str) -> None:
    """Raises `ConfigurationError` where `name` is no IANA time zone."""
    try:
        zone_info(name)
    except ValueError:
        raise ConfigurationError(
            f"--time-zone must be an IANA time zone such as Europe/Berlin (got {name!r})"
        ) from None


def typed_micros(array: pa.Array) -> pa.Array:
    """Microseconds of a column of timestamps or dates, as int64.

    What is finer is cut off; null where the year is not within 1 to 9999.
    """
    kind = array.type
    if pa.types.is_date32(kind):
        numbers, factor = array.cast(pa.int32()).cast(pa.int64()), 24 * HOUR
    elif pa.types.is_date64(kind):
        numbers, factor = array.cast(pa.int64()), 1000
    elif kind.unit == "ns":
        return pc.divide(array.cast(pa.int64()), 1000)
    else:
        numbers, factor = array.cast(pa.int64()), _PER_UNIT[kind.unit]
    return _scaled(numbers, factor)


def _scaled(numbers: pa.Array, factor: int) -> pa.Array:
    """`numbers` times `factor`, null where that is not within the years 1 to 9999."""
    within = pc.and_(
        pc.greater_equal(numbers, -(-_LEAST // factor)), pc.less_equal(numbers, _MOST // factor)
    )
    return pc.multiply(pc.if_else(within, numbers, None), factor)


def to_utc(local: Micros, zone: str) -> Micros:
    """UTC microseconds for local wall times, given as microseconds of a naive epoch.

    The offset is looked up once for each hour that occurs; times in an hour in
    which the offset changes are looked up one by one.
    """
    hours, inverse = np.unique(local // HOUR, return_inverse=True)
    first = np.array([_offset(int(hour) * HOUR, zone) for hour in hours], dtype=np.int64)
    after = np.array([_offset((int(hour) + 1) * HOUR, zone) for hour in hours], dtype=np.int64)
    utc = local - first[inverse]
    for index in np.flatnonzero((first != after)[inverse]):
        utc[index] = local[index] - _offset(int(local[index]), zone)
    return utc


def _offset(local: int, zone: str) -> int:
    """The offset from UTC at a wall time; `fold=0` is the first, and the one before a gap."""
    try:
        wall = datetime(1970, 1, 1) + timedelta(microseconds=local)  # noqa: DTZ001
    except OverflowError:
        return 0
    offset = wall.replace(tzinfo=zone_info(zone)).utcoffset()
    return (offset or timedelta()) // timedelta(microseconds=1)


def _match(texts: pa.Array, pattern: str) -> dict[str, pa.Array]:
    matched = pc.extract_regex(texts, pattern)
    names = [matched.type.field(index).name for index in range(matched.type.num_fields)]
    return dict(zip(names, matched.flatten(), strict=True))


def _flags(array: pa.Array) -> Flags:
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _instants(micros: Micros, valid: Flags) -> pa.Array:
    valid = valid & (micros >= _LEAST) & (micros <= _MOST)
    return pa.array(micros, pa.int64(), mask=~valid).cast(INSTANT)


def _number(texts: pa.Array, default: int) -> Micros:
    """Digits as integers; `default` where the part is missing."""
    empty = pc.equal(texts, "")
    present = pc.if_else(pc.fill_null(empty, True), str(default), texts)
    return np.array(present.cast(pa.int64()), dtype=np.int64)


def _micros(parts: dict[str, pa.Array], size: int, zone: str | None) -> tuple[Micros, Flags]:
    """Microseconds of the matched parts, and where they are a time at all."""
    any_part = next(iter(parts.values()))
    valid = _flags(pc.is_valid(any_part))

    def number(name: str, default: int) -> Micros:
        if name not in parts:
            return np.full(size, default, dtype=np.int64)
        return _number(parts[name], default)

    if "Y" in parts:
        year = number("Y", 1970)
    else:
        year = number("y", 70)
        year = np.where(year < 69, year + 2000, year + 1900)
    valid &= year >= 1
    days, real = _days(parts, number, year)
    valid &= real
    hour, in_range = _hour(parts, number)
    minute, second = number("M", 0), number("S", 0)
    valid &= in_range & (minute < 60) & (second < 60)
    micros = ((days * 24 + hour) * 60 + minute) * MINUTE + second * SECOND
    if "f" in parts:
        digits = pc.utf8_rpad(pc.utf8_slice_codeunits(parts["f"], 0, 6), 6, "0")
        micros = micros + _number(digits, 0)
    micros = np.where(valid, micros, 0)
    if "z" in parts:
        offset, in_range = _offsets(parts["z"])
        return micros - offset, valid & in_range
    if zone is None:
        raise ValueError("times without an offset need a zone")
    return to_utc(micros, zone), valid


def _days(parts: dict[str, pa.Array], number: Any, year: Micros) -> tuple[Micros, Flags]:
    """Days since the epoch, and where the date exists."""
    start = (year - 1970).astype("datetime64[Y]")
    if "j" in parts:
        day = number("j", 1)
        first = start.astype("datetime64[D]").astype(np.int64)
        next_first = (start + 1).astype("datetime64[D]").astype(np.int64)
    else:
        name = next((name for name in ("b", "B") if name in parts), None)
        if name is None:
            month = number("m", 1)
        else:
            short = pc.utf8_lower(pc.utf8_slice_codeunits(parts[name], 0, 3))
            index = pc.fill_null(pc.index_in(short, pa.array(_MONTHS)), 0)
            month = np.array(index, dtype=np.int64) + 1
        day = number("d", 1)
        in_year = (month >= 1) & (month <= 12)
        months = start.astype("datetime64[M]") + np.where(in_year, month - 1, 0)
        first = months.astype("datetime64[D]").astype(np.int64)
        next_first = (months + 1).astype("datetime64[D]").astype(np.int64)
        exists = in_year & (day >= 1) & (first + day - 1 < next_first)
        return first + day - 1, exists
    return first + day - 1, (day >= 1) & (first + day - 1 < next_first)


def _hour(parts: dict[str, pa.Array], number: Any) -> tuple[Micros, Flags]:
    if "I" not in parts:
        hour = number("H", 0)
        return hour, hour < 24
    hour = number("I", 12)
    in_range = (hour >= 1) & (hour <= 12)
    if "p" not in parts:
        return hour % 12, in_range
    afternoon = _flags(pc.fill_null(pc.equal(pc.utf8_lower(parts["p"]), "pm"), False))
    return hour % 12 + np.where(afternoon, 12, 0), in_range


def _offsets(texts: pa.Array) -> tuple[Micros, Flags]:
    """Offsets such as +0530, -03:30 and Z, in microseconds."""
    digits = pc.replace_substring_regex(texts, r"[^0-9]", "")
    number = _number(digits, 0)
    hours, minutes = number // 100, number % 100
    size = (hours * 60 + minutes) * MINUTE
    negative = _flags(pc.fill_null(pc.starts_with(texts, "-"), False))
    return np.where(negative, -size, size), (hours < 24) & (minutes < 60)
