"""The values of expressions: exact arithmetic, comparison and elements.

A number is a `Decimal`, or a `Fraction` where a decimal cannot hold it exactly
(10 / 3). Nothing is rounded on the way; `rounded` does it once, at the end. Text,
booleans and null are themselves. Lists and objects of an event stay the raw JSON
values, and their elements are read when they are needed; a list that an
expression builds is a tuple.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation
from fractions import Fraction
from math import trunc

from meters.errors import Rejected
from meters.numbers import LIMIT, PLACES, SCALE, from_scaled, parse_number, plain

Number = Decimal | Fraction
Value = object
"""A number, text, boolean or None; a raw list or mapping; or a tuple of values."""

_EXACT = Context(prec=80, traps=[Inexact, InvalidOperation])
_WIDE = Context(prec=120, rounding=ROUND_HALF_EVEN, traps=[])
_QUANTUM = Decimal(1).scaleb(-PLACES)
_NOTHING = from_scaled(0)
_IN_RANGE = f"a number with a magnitude below {LIMIT:.0e}".replace("e+", "e")


class Failure(Exception):
    """Why an expression has no value; `field` is None where it is the whole expression."""

    def __init__(
        self,
        expected: str,
        value: Value,
        reason: str = "expression_failed",
        field: str | None = None,
    ) -> None:
        super().__init__(expected)
        self.expected = expected
        self.value = value
        self.reason = reason
        self.field = field


def missing(field: str) -> Failure:
    """The failure of a property that is not there, or null where a value is due."""
    return Failure("present", None, "missing_property", field)


class Table(dict[str, Value]):
    """An object that an expression builds: its values are values, not raw JSON."""


def truth(value: Value, name: str) -> bool:
    """The value as the condition of `name`."""
    if isinstance(value, bool):
        return value
    raise Failure(f"given true or false for {name}", show(value))


def is_number(value: Value) -> bool:
    """Whether the value is a number (a boolean is none)."""
    return type(value) is Decimal or type(value) is Fraction


def read(raw: object, field: str) -> Value:
    """A JSON value of an event as a value; numbers by the rules of `meters.numbers`."""
    kind = type(raw)
    if kind is int:
        if -LIMIT < raw < LIMIT:  # type: ignore[operator]
            return Decimal(raw)  # type: ignore[arg-type]
        raise Failure(_IN_RANGE, raw, "number_out_of_range", field)
    if kind is Decimal:
        return _read_decimal(raw, field)  # type: ignore[arg-type]
    if kind is float:
        raise TypeError(f"properties must hold exact numbers (got the float {raw!r} in {field})")
    return raw


def _read_decimal(raw: Decimal, field: str) -> Decimal:
    if -PLACES <= raw.adjusted() < 15:
        # A carry to 10**15 is caught by the same check as everything out of range.
        number = raw.quantize(_QUANTUM, context=_WIDE)
        if number.copy_abs() < LIMIT:
            return number
    try:
        return parse_number(str(raw), field)
    except Rejected as error:
        raise Failure(error.expected, str(raw), error.reason, field) from None


def rounded(value: Number) -> Decimal:
    """The number at 12 places, rounded half-even; the only rounding of an expression."""
    if isinstance(value, Decimal) and value.adjusted() < 15:
        number = value.quantize(_QUANTUM, context=_WIDE)
    elif -LIMIT < value < LIMIT:
        number = from_scaled(round(Fraction(value) * SCALE))
    else:
        raise Failure(_IN_RANGE, "a larger number", "number_out_of_range")
    if number.copy_abs() >= LIMIT:
        raise Failure(_IN_RANGE, "a larger number", "number_out_of_range")
    return number if number else _NOTHING


def show(value: Value) -> str:
    """The value as an error message names it, shortened."""
    if isinstance(value, Decimal | Fraction):
        return plain(rounded(value)) if -LIMIT < value < LIMIT - 1 else "a larger number"
    if isinstance(value, str):
        return value[:100]
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    return "an object" if isinstance(value, Mapping) else "a list"


Operator = Callable[[Value, Value], Value]


def _arithmetic(
    symbol: str,
    exact: Callable[[Decimal, Decimal], Decimal],
    wide: Callable[[Fraction, Fraction], Fraction],
) -> Operator:
    """An operator on decimals that turns to fractions where a decimal is not exact."""

    def apply(left: Value, right: Value) -> Value:
        if type(left) is Decimal and type(right) is Decimal:
            try:
                return exact(left, right)
            except (Inexact, InvalidOperation):
                return wide(Fraction(left), Fraction(right))
        if isinstance(left, Decimal | Fraction) and isinstance(right, Decimal | Fraction):
            return wide(Fraction(left), Fraction(right))
        wrong = right if is_number(left) else left
        raise Failure(f"given numbers for {symbol}{_hint(wrong)}", show(wrong))

    return apply


def _hint(wrong: Value) -> str:
    return " (double(...) reads a number from text)" if isinstance(wrong, str) else ""


_add_numbers = _arithmetic("+", _EXACT.add, operator.add)
_divide_numbers = _arithmetic("/", _EXACT.divide, operator.truediv)


def _remainder(left: Fraction, right: Fraction) -> Fraction:
    return left - right * trunc(left / right)


_remainder_numbers = _arithmetic("%", _EXACT.remainder, _remainder)


def _add(left: Value, right: Value) -> Value:
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return elements(left) + elements(right)
    return _add_numbers(left, right)


def _not_by_zero(divide: Operator) -> Operator:
    def apply(left: Value, right: Value) -> Value:
        if right == 0 and is_number(right):
            raise Failure("free of a division by 0", "0")
        return divide(left, right)

    return apply


def elements(container: Value, name: str = "in") -> tuple[Value, ...]:
    """The elements of a list, or the keys of an object, as values."""
    if isinstance(container, tuple):
        return container
    if isinstance(container, list):
        return tuple([read(item, "an element") for item in container])
    if isinstance(container, Mapping):
        return tuple(container)
    raise Failure(f"given a list or an object for {name}", show(container))


def equal(left: Value, right: Value) -> bool:
    """CEL's `==` for scalars: numbers by value, other types never equal each other."""
    if type(left) is type(right) and not isinstance(left, list | tuple | dict):
        return left == right
    if is_number(left) and is_number(right):
        return left == right
    composite = (list, tuple, dict)
    if isinstance(left, composite) and isinstance(right, composite):
        raise Failure("a comparison of single values", show(left))
    return False


def _ordered(symbol: str, compare: Callable[..., bool]) -> Operator:
    def apply(left: Value, right: Value) -> bool:
        if type(left) is type(right) and isinstance(left, Decimal | str | bool):
            return compare(left, right)
        if is_number(left) and is_number(right):
            return compare(left, right)
        wrong = right if is_number(left) else left
        raise Failure(f"given two numbers or two texts for {symbol}{_hint(wrong)}", show(wrong))

    return apply


def contains(item: Value, container: Value) -> bool:
    """CEL's `in`: an element of a list, or a key of an object."""
    return any(
        not isinstance(found, list | tuple | dict) and equal(found, item)
        for found in elements(container)
    )


divide = _not_by_zero(_divide_numbers)
"""CEL's `/`, exact."""

OPERATORS: dict[str, Operator] = {
    "addition_add": _add,
    "addition_sub": _arithmetic("-", _EXACT.subtract, operator.sub),
    "multiplication_mul": _arithmetic("*", _EXACT.multiply, operator.mul),
    "multiplication_div": divide,
    "multiplication_mod": _not_by_zero(_remainder_numbers),
    "relation_lt": _ordered("<", operator.lt),
    "relation_le": _ordered("<=", operator.le),
    "relation_gt": _ordered(">", operator.gt),
    "relation_ge": _ordered(">=", operator.ge),
    "relation_eq": equal,
    "relation_ne": lambda left, right: not equal(left, right),
    "relation_in": contains,
}
"""The binary operators by the names of the library's grammar."""


def negate(value: Value) -> Value:
    """CEL's unary minus."""
    if type(value) is Decimal:
        return value.copy_negate()
    if type(value) is Fraction:
        return -value
    raise Failure(f"given a number for -{_hint(value)}", show(value))


def item_of(container: Value, key: Value, name: str) -> Value:
    """CEL's `container[key]`; `name` is what an error calls it."""
    if isinstance(container, Mapping) and isinstance(key, str):
        if key not in container:
            raise missing(name)
        return container[key] if isinstance(container, Table) else read(container[key], name)
    if isinstance(container, list | tuple) and is_number(key):
        index = whole(key, "[]")
        if not 0 <= index < len(container):
            raise Failure(f"given an index below {len(container)}", show(key))
        found = container[index]
        return found if isinstance(container, tuple) else read(found, name)
    raise Failure("given a list and an index, or an object and a name, for []", show(container))


def number_of(value: Value, name: str) -> Number:
    """The value as a number that `name` needs."""
    if isinstance(value, Decimal | Fraction):
        return value
    raise Failure(f"given a number for {name}{_hint(value)}", show(value))


def whole(value: Value, name: str) -> int:
    """The value as a whole number that `name` needs."""
    number = number_of(value, name)
    if number != trunc(number):
        raise Failure(f"given a whole number for {name}", show(value))
    return trunc(number)
