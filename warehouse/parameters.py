"""Values of `{name:Type}` placeholders, as the text that ClickHouse parses.

Statements never contain values. A value is a str, int, bool, Decimal, aware
datetime (sent as UTC with microseconds, for `DateTime64(6, 'UTC')`), None, or a
list or tuple of these. Bytes go as hexadecimal text and `unhex` in the statement.

Long lists go as one text, `json_list`, which the statement reads with `JSONExtract`:
an `Array` parameter becomes a syntax tree with a node for each item, which takes ten
times as long.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeAlias, TypeVar

Value: TypeAlias = "str | int | bool | Decimal | datetime | Sequence[Value] | None"
Parameters: TypeAlias = Mapping[str, Value]

Plain: TypeAlias = "str | int | list[Plain] | tuple[Plain, ...] | None"

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_ESCAPES = str.maketrans(
    {"\\": "\\\\", "'": "\\'", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0", "\b": "\\b"}
)


def plain_value(value: Value) -> Plain:
    """`value` from texts, integers, lists and tuples alone.

    Raises TypeError for values of other types and for datetimes without an offset.
    """
    match value:
        case None | str():
            return value
        case bool() | int():
            return int(value)
        case Decimal():
            return format(value, "f")
        case datetime():
            if value.tzinfo is None:
                raise TypeError(f"a datetime parameter must have an offset (got {value!r})")
            return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
        case list():
            return [plain_value(item) for item in value]
        case tuple():
            return tuple(plain_value(item) for item in value)
    raise TypeError(f"a parameter must be text, a number or a list (got {type(value).__name__})")


def parameter_text(value: Plain) -> str:
    """The text of one parameter, escaped as ClickHouse's TabSeparated format is."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    return _nested(value)


def _nested(value: Plain) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.translate(_ESCAPES) + "'"
    if isinstance(value, list):
        return "[" + ",".join(map(_nested, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ",".join(map(_nested, value)) + ")"
    return str(value)


def json_list(items: Sequence[Value]) -> str:
    """A JSON array for `JSONExtract`; instants become microseconds since the epoch."""
    return json.dumps(items, ensure_ascii=False, default=_microseconds, separators=(",", ":"))


def _microseconds(value: object) -> int:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return (value - _EPOCH) // timedelta(microseconds=1)
    raise TypeError(f"an item must be text, an integer or an instant (got {value!r})")


def chunks(items: Sequence[T], most_bytes: int) -> Iterator[Sequence[T]]:
    """`items` in pieces whose `json_list` stays below about `most_bytes`.

    An item that is longer alone is a piece of its own.
    """
    start = size = 0
    for position, item in enumerate(items):
        length = len(str(item).encode(errors="replace")) + 8
        if position > start and size + length > most_bytes:
            yield items[start:position]
            start, size = position, 0
        size += length
    if start < len(items):
        yield items[start:]
