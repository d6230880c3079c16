"""JSON scalars in one canonical text, so that equal values compare equal as bytes.

`1`, `1.0` and `1e0` are one number, written out unless it is far from 1 (`1e400`);
`"1"` is text; `true` is not `1`. Strings are written with the fewest escapes, in
UTF-8. The canonical text is what group values, filters and distinct values are
compared by.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from json.encoder import encode_basestring

from meters.numbers import plain

Scalar = str | int | Decimal | bool | None

_MOST_DIGITS = 60
_text_of: Callable[[str], str] = encode_basestring


def canonical_text(value: str) -> str:
    """The canonical JSON text of a string."""
    return _text_of(value)


def canonical_scalar(value: Scalar) -> str:
    """The canonical JSON text of a scalar."""
    if isinstance(value, str):
        return _text_of(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(Decimal(value))


def _number(number: Decimal) -> str:
    """Plain notation, but `25e99` where the exponent alone would make a long text."""
    if not number:
        return "0"
    if abs(number.adjusted()) <= _MOST_DIGITS:
        return plain(number)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits))
    shortest = text.rstrip("0")
    return f"{'-' * sign}{shortest}e{exponent + len(text) - len(shortest)}"


def parse_json(text: str | bytes) -> object:
    """JSON with exact numbers: integers as int, others as Decimal.

    Raises ValueError (also for NaN and Infinity, which are not JSON, and for numbers
    whose exponent Decimal cannot hold).
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return _DECODER.decode(text)
    except InvalidOperation:
        raise ValueError("a number has an exponent of 19 digits or more") from None


def is_json(text: str) -> bool:
    """Whether `text` is one JSON document."""
    try:
        parse_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_constant)


def canonical_json(value: object) -> str:
    """Canonical text of any JSON value: sorted keys, canonical scalars, no spaces."""
    if isinstance(value, dict):
        items = (f"{_text_of(key)}:{canonical_json(item)}" for key, item in sorted(value.items()))
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical_json(item) for item in value) + "]"
    if value is None or isinstance(value, str | int | Decimal | bool):
        return canonical_scalar(value)
    raise TypeError(f"not a JSON value: {type(value).__name__}")
