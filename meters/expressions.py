"""Expressions: CEL over the properties of an event, in exact decimals.

    text --parse (cel-python)--> tree --compile once--> closures --evaluate--> value

The grammar is the one of cel-python; its evaluator is not used, because it computes
in 64-bit integers and binary floats. Here every number is exact:

- Numbers of an event are read by the rules of `meters.numbers`; literals are the
  decimals they write. A result is rounded once, half-even, to 12 places.
- `/` divides exactly, also whole numbers: `7 / 2` is 3.5, where CEL's integers give
  3. JSON does not tell 7 from 7.0, so a type cannot decide; `int(7 / 2)` is 3.
- There is one type of number: `1 == 1.0`, `2u` is 2, `double(x)` and `decimal(x)` read
  a number from text, `int(x)` cuts off decimals. Text is never a number by itself.
- JSON null counts as missing: `has(x)` is false for it, and only `==`, `!=` and `in`
  take it as a value.

A property is a variable by its own name (`tokens`), and `properties.tokens` or
`properties["a-name"]` by any name. Available are the operators of CEL, `has`, the
macros `exists`, `exists_one`, `all` and `filter`, and the functions of
`meters.expression_functions`. `map`, times, bytes and messages are not.

Limits, so that no catalog and no event can stall a worker: `MAX_LENGTH` characters,
`MAX_DEPTH` nested levels, `MAX_STEPS` elements visited by one macro. There are no
other loops; patterns of `matches` are literals and run in linear time (RE2).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from meters.errors import Rejected
from meters.expression_compiler import MAX_DEPTH, MAX_STEPS, compile_expression
from meters.expression_syntax import MAX_LENGTH
from meters.expression_values import Failure, missing, rounded, show
from meters.scalars import Scalar

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "MAX_STEPS", "Expression"]


class Expression:
    """A compiled expression; equal, hashable and picklable by its text.

    `properties` has the top-level properties that it may read. Raises ValueError,
    with line and column, where the text is no expression.
    """

    __slots__ = ("_run", "properties", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._run, self.properties = compile_expression(text)

    def evaluate(self, properties: Mapping[str, object]) -> Scalar:
        """The value for one event: text, a boolean, or a Decimal with 12 places.

        `properties` is parsed JSON with exact numbers (`meters.scalars.parse_json`).
        Raises `Rejected`: `missing_property` where a property that is needed is not
        there or null, `number_out_of_range` where a property or the result is too
        large, else `expression_failed`.
        """
        try:
            value = self._run(properties)
            if isinstance(value, Decimal | Fraction):
                return rounded(value)
            if isinstance(value, bool):
                return value
            if isinstance(value, str):
                value.encode()
                return value
            if value is None:
                raise missing(self.text)
            raise Failure("a single value", show(value))
        except Failure as failure:
            field = self.text if failure.field is None else failure.field
            rejected = Rejected(failure.reason, field, failure.value, failure.expected)
        except UnicodeEncodeError:
            found = "half a surrogate pair"
            rejected = Rejected("expression_failed", self.text, found, "valid Unicode")
        raise rejected

    def __reduce__(self) -> tuple[type[Expression], tuple[str]]:
        return Expression, (self.text,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash((Expression, self.text))

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"
