"""The functions of expressions, over the values of `meters.expression_values`.

`x.f(y)` is `f(x, y)`. Beside CEL's own there are `decimal`, `lowerAscii`,
`upperAscii`, `trim` and rounding: `ceil`, `floor`, `round` (half away from zero) and
`trunc` with an optional number of places, `abs`, `min` and `max`; CEL's math
extension calls them `math.ceil(x)`, `math.greatest(a, b)` and so on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor, trunc

import re2  # type: ignore[import-untyped]

from meters.errors import Rejected
from meters.expression_values import (
    Failure,
    Number,
    Value,
    divide,
    number_of,
    rounded,
    show,
    whole,
)
from meters.numbers import parse_number, plain

_MAX_ROUNDING = 30
_MANY = 100


def _text(value: Value, name: str) -> str:
    if not isinstance(value, str):
        raise Failure(f"given text for {name}", show(value))
    return value


def _size(value: Value) -> Value:
    if isinstance(value, str | list | tuple | dict):
        return Decimal(len(value))
    raise Failure("given text, a list or an object for size", show(value))


class Pattern:
    """A regular expression of RE2, which takes time in proportion to the text.

    Raises ValueError where RE2 does not take the pattern.
    """

    def __init__(self, pattern: str) -> None:
        options = re2.Options()
        options.log_errors = False
        try:
            self._search = re2.compile(pattern, options).search
        except re2.error as error:
            cause = error.args[0]
            text = cause.decode(errors="replace") if isinstance(cause, bytes) else str(cause)
            raise ValueError(text) from None

    def matches(self, value: Value) -> bool:
        """CEL's `matches`: whether the pattern is found anywhere in the text."""
        try:
            return self._search(_text(value, "matches")) is not None
        except UnicodeEncodeError:
            raise Failure("given valid Unicode for matches", show(value)) from None


def _double(value: Value) -> Value:
    if not isinstance(value, str):
        return number_of(value, "double")
    try:
        return parse_number(value)
    except Rejected as error:
        raise Failure(f"given {error.expected} for double", show(value)) from None


def _int(value: Value) -> Decimal:
    if isinstance(value, str):
        return Decimal(whole(_double(value), "int"))
    return Decimal(trunc(number_of(value, "int")))


def _uint(value: Value) -> Value:
    number = _int(value)
    if number < 0:
        raise Failure("given a number that is not negative for uint", show(value))
    return number


def _string(value: Value) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return plain(rounded(number_of(value, "string")))


def _bool(value: Value) -> Value:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise Failure('given "true" or "false" for bool', show(value))


def _half_away(number: Fraction) -> int:
    return floor(number + Fraction(1, 2)) if number >= 0 else ceil(number - Fraction(1, 2))


def _rounding(name: str, to_integer: Callable[[Fraction], int]) -> Callable[..., Value]:
    def apply(value: Value, places: Value = Decimal(0)) -> Value:
        number, digits = number_of(value, name), whole(places, name)
        if abs(digits) > _MAX_ROUNDING:
            raise Failure(f"given at most {_MAX_ROUNDING} places for {name}", show(places))
        shift = Fraction(10) ** digits
        result = to_integer(Fraction(number) * shift) / shift
        return divide(Decimal(result.numerator), Decimal(result.denominator))

    return apply


def _abs(value: Value) -> Value:
    number = number_of(value, "abs")
    return number.copy_abs() if isinstance(number, Decimal) else abs(number)


def _extreme(name: str, choose: Callable[..., Number]) -> Callable[..., Value]:
    return lambda *values: choose(number_of(value, name) for value in values)


_ROUNDINGS: dict[str, Callable[..., Value]] = {
    "ceil": _rounding("ceil", ceil),
    "floor": _rounding("floor", floor),
    "round": _rounding("round", _half_away),
    "trunc": _rounding("trunc", trunc),
}


def _on_texts(name: str, apply: Callable[[str, str], bool]) -> Callable[..., Value]:
    return lambda text, part: apply(_text(text, name), _text(part, name))


def _on_text(name: str, apply: Callable[[str], str]) -> Callable[..., Value]:
    return lambda text: apply(_text(text, name))


# ASCII alone, as in CEL: other letters stay what they are.
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_UPPER = {code + 32: code for code in _LOWER}

FUNCTIONS: dict[str, tuple[int, int, Callable[..., Value]]] = {
    "size": (1, 1, _size),
    "contains": (2, 2, _on_texts("contains", operator.contains)),
    "startsWith": (2, 2, _on_texts("startsWith", str.startswith)),
    "endsWith": (2, 2, _on_texts("endsWith", str.endswith)),
    "matches": (2, 2, lambda text, pattern: Pattern(_text(pattern, "matches")).matches(text)),
    "lowerAscii": (1, 1, _on_text("lowerAscii", lambda text: text.translate(_LOWER))),
    "upperAscii": (1, 1, _on_text("upperAscii", lambda text: text.translate(_UPPER))),
    "trim": (1, 1, _on_text("trim", str.strip)),
    "double": (1, 1, _double),
    "decimal": (1, 1, _double),
    "int": (1, 1, _int),
    "uint": (1, 1, _uint),
    "string": (1, 1, _string),
    "bool": (1, 1, _bool),
    "abs": (1, 1, _abs),
    "min": (1, _MANY, _extreme("min", min)),
    "max": (1, _MANY, _extreme("max", max)),
    **{name: (1, 2, function) for name, function in _ROUNDINGS.items()},
}
"""Functions by name, with the fewest and the most arguments."""

MATH = {
    "ceil": "ceil",
    "floor": "floor",
    "round": "round",
    "trunc": "trunc",
    "abs": "abs",
    "greatest": "max",
    "least": "min",
}
"""The names of CEL's math extension, `math.greatest(a, b)`, in `FUNCTIONS`."""
