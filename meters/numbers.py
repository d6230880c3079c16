"""Numbers: exact decimals with 12 places, and how they are written.

A number of an event becomes a decimal with `PLACES` places, rounded half-even
once, at decoding; its magnitude stays below `LIMIT`. Inside the aggregators a
number is its integer multiple of 10**-12 ("scaled"), so that sums are integer
sums: exact in any order.

The grammar is that of JSON numbers (RFC 8259, section 6), for numbers and for
decimal strings alike.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, Overflow
from fractions import Fraction

from meters.errors import Rejected

PLACES = 12
SCALE = 10**PLACES
LIMIT = 10**15
"""Magnitudes from here on are refused."""

NUMBER_PATTERN = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_NUMBER = re.compile(NUMBER_PATTERN)
EXACT = Context(prec=200, traps=[Inexact])
"""Arithmetic in which nothing is lost: what does not fit is an error."""

_QUANTUM = Decimal(1).scaleb(-PLACES)
_WIDE = Context(prec=100, rounding=ROUND_HALF_EVEN, traps=[])
_SCALING = Context(prec=120, traps=[Inexact, Overflow])
_EXPECTED = f"a number with a magnitude below {LIMIT:.0e}".replace("e+", "e")


def parse_number(text: str, field: str = "value") -> Decimal:
    """The decimal that `text` writes, at 12 places, half-even.

    Raises `Rejected` with reason `invalid_number` where `text` is no JSON number
    and `number_out_of_range` where its magnitude is too large.
    """
    if _NUMBER.fullmatch(text) is None:
        raise Rejected("invalid_number", field, text, "a decimal number")
    number = read_decimal(text)
    if number is None or (number and number.adjusted() >= 15):
        raise Rejected("number_out_of_range", field, text, _EXPECTED)
    rounded = _round(number)
    if abs(rounded) >= LIMIT:
        raise Rejected("number_out_of_range", field, text, _EXPECTED)
    return rounded


def read_decimal(text: str) -> Decimal | None:
    """The decimal that `text` writes; None where its exponent is beyond Decimal itself."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def fits(number: Decimal, places: int) -> bool:
    """Whether the magnitude is below `LIMIT` and at most so many decimals are written."""
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -places and number.adjusted() < 15


def rounds(text: str) -> bool:
    """Whether decoding the number `text` loses digits (counted by the pipelines)."""
    number = Decimal(text)
    return number != _round(number)


def _round(number: Decimal) -> Decimal:
    if number.adjusted() < -PLACES - 5:
        return Decimal(0).scaleb(-PLACES)
    return number.quantize(_QUANTUM, context=_WIDE)


def to_scaled(number: Decimal) -> int:
    """The integer multiple of 10**-12; `number` has at most 12 places."""
    return int(number.scaleb(PLACES, context=_SCALING))


def from_scaled(scaled: int) -> Decimal:
    """The decimal for an integer multiple of 10**-12."""
    return Decimal(scaled).scaleb(-PLACES, context=_SCALING)


def divide_half_even(numerator: int, denominator: int) -> int:
    """Integer division rounded half-even, as averages are read."""
    return round(Fraction(numerator, denominator))


def plain(number: Decimal | int) -> str:
    """Plain notation without exponent and without trailing zeros: `1.5`, `0`, `100`."""
    text = str(number)
    if "E" in text:
        text = format(number, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
