"""The values of a catalog: amounts, instants, zones, currencies and filter values.

Each is a pydantic type whose errors read "must be X (got Y)". Money and numbers are
exact decimals; binary floats are refused, since their text is lost before anyone can
read it, and so are unquoted YAML decimals, which most tools rewrite as floats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, Self
from zoneinfo import available_timezones

from babel import Locale, UnknownLocaleError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
)

from meters.currencies import currency_exponent
from meters.errors import Rejected
from meters.expressions import Expression
from meters.numbers import LIMIT, NUMBER_PATTERN, PLACES, fits, read_decimal
from meters.scalars import Scalar
from meters.timestamps import END_OF_TIME, FIRST_INSTANT, format_instant, parse_timestamp
from meters.timestamps import EXPECTED as EXPECTED_TIME
from meters.zones import zone_info

MAX_AMOUNT_PLACES = 20
"""Prices may be finer than measured numbers: USD 0.023 a gibibyte is 2.1e-11 a byte."""

RESERVED_EVENTS = "beammeter."
"""Events of this prefix steer Beammeter (`beammeter.void`) and are not metered."""

_DECIMAL = re.compile(NUMBER_PATTERN)
_NOT_ZONES = {"Factory", "localtime", "posixrules"}


class Unquoted:
    """A decimal that stands unquoted in YAML, by its text: no amount, but a filter value."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Model(BaseModel):
    """Base of all catalog models: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, but without what was derived from the fields, which may change."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


Conflict = tuple[tuple[str | int, ...], str]
"""Where below a model, and what is wrong there."""


class Misfit(ValueError):
    """Values that are fine one by one but not together.

    Carries every conflict as (path below the model, message), so that the loader can
    point at the value that has to change.
    """

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        self.conflicts = tuple(conflicts)
        super().__init__("; ".join(message for _, message in conflicts))


def _decimal(value: object) -> Decimal:
    if isinstance(value, Unquoted | float):
        raise ValueError(f'must be in quotes, "{value!r}", to stay exact (got {value!r} without)')
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ValueError(f'must be a decimal such as "0.002" (got {_shown(value)})')
    text = str(value)
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f'must be a decimal such as "0.002" (got {_shown(value)})')
    number = read_decimal(text)
    if number is None or not fits(number, MAX_AMOUNT_PLACES):
        limits = f"below {LIMIT} and have at most {MAX_AMOUNT_PLACES} decimals"
        raise ValueError(f"must be {limits} (got {_shown(text)})")
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _not_negative(value: Decimal) -> Decimal:
    if value < 0:
        raise ValueError(f"must not be negative (got {value})")
    return value


def _positive(value: Decimal) -> Decimal:
    if value <= 0:
        raise ValueError(f"must be greater than 0 (got {value})")
    return value


def _percent(value: Decimal) -> Decimal:
    if value > 100:
        raise ValueError(f"must be at most 100 (got {value})")
    return value


def _instant(value: object) -> datetime:
    if isinstance(value, str):
        try:
            value = parse_timestamp(value)
        except Rejected:
            raise ValueError(f"must be {EXPECTED_TIME} (got {_shown(value)})") from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"must be {EXPECTED_TIME} (got {_shown(value)})")
    instant = value.astimezone(UTC)
    if instant < FIRST_INSTANT:
        raise ValueError(f"must not be before 1970 (got {format_instant(instant)})")
    if instant >= END_OF_TIME:
        raise ValueError(f"must be before the year 2300 (got {format_instant(instant)})")
    return instant


def _zone(value: str) -> str:
    try:
        zone_info(value)
    except ValueError:
        known = False
    else:
        # right/ counts leap seconds, and localtime is whatever the machine says.
        known = value not in _NOT_ZONES and not value.startswith(("posix/", "right/"))
    if not known:
        close = get_close_matches(value, available_timezones() - _NOT_ZONES, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"must be an IANA time zone such as Europe/Berlin (got {_shown(value)}{hint})"
        )
    return value


def _language(value: str) -> str:
    try:
        Locale.parse(value, sep="-")
    except (UnknownLocaleError, ValueError):
        raise ValueError(
            f"must be a language such as en, de or de-CH (got {_shown(value)})"
        ) from None
    return value


def _currency(value: str) -> str:
    currency_exponent(value)
    return value


def _expression(value: str) -> str:
    Expression(value)
    return value


def _event_name(value: str) -> str:
    if value.startswith(RESERVED_EVENTS):
        raise ValueError(
            f"must not begin with {RESERVED_EVENTS!r}, which is reserved (got {value!r})"
        )
    return value


def _filter_value(value: object) -> Scalar:
    if value is None or isinstance(value, str | bool):
        return value
    text = value.text if isinstance(value, Unquoted) else str(value)
    number: int | Decimal | None = None
    if isinstance(value, int | Decimal):
        number = value
    elif isinstance(value, Unquoted) and _DECIMAL.fullmatch(text):
        number = read_decimal(text)
    else:
        must = "must be text (in quotes), a plain number, true, false or null"
        raise ValueError(f"{must} (got {_shown(value)})")
    if number is None or not fits(Decimal(number), PLACES):
        # Another number would match no event, whose numbers have these limits.
        must = f"must be below {LIMIT} and have at most {PLACES} decimals"
        raise ValueError(f"{must} (got {_shown(value)})")
    return number


Amount = Annotated[Decimal, BeforeValidator(_decimal)]
NonNegative = Annotated[Amount, AfterValidator(_not_negative)]
Positive = Annotated[Amount, AfterValidator(_positive)]
Percent = Annotated[NonNegative, AfterValidator(_percent)]
PositivePercent = Annotated[Positive, AfterValidator(_percent)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
Zone = Annotated[str, AfterValidator(_zone)]
Language = Annotated[str, AfterValidator(_language)]
Currency = Annotated[str, AfterValidator(_currency)]
Id = Annotated[str, Field(min_length=1, max_length=256)]
EventName = Annotated[Id, AfterValidator(_event_name)]
CelText = Annotated[str, Field(min_length=1), AfterValidator(_expression)]
FilterValue = Annotated[str | int | Decimal | bool | None, PlainValidator(_filter_value)]
