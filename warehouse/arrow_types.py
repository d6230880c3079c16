"""ClickHouse types of the schema as Arrow types."""

from __future__ import annotations

import re

import pyarrow as pa

_WRAPPED = re.compile(r"(Nullable|LowCardinality)\((.*)\)")
_DECIMAL = re.compile(r"Decimal\((\d+), (\d+)\)")
_FIXED = re.compile(r"FixedString\((\d+)\)")
_ARRAY_OF_TUPLES = re.compile(r"Array\(Tuple\((.*)\)\)", re.DOTALL)
_MEMBER = re.compile(r"\s*(\w+) (\w+(?:\([^()]*\))?)\s*(?:,|$)")
_SIMPLE = {
    "String": pa.string(),
    "DateTime64(6, 'UTC')": pa.timestamp("us", "UTC"),
    "DateTime('UTC')": pa.timestamp("s", "UTC"),
    "Date32": pa.date32(),
    "UInt8": pa.uint8(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
    "Int64": pa.int64(),
}


def arrow_field(name: str, clickhouse_type: str) -> pa.Field:
    """The Arrow field of a column; nullable where the column is.

    Raises ValueError for a type that the schema does not use.
    """
    inner, nullable = clickhouse_type, False
    while (wrapped := _WRAPPED.fullmatch(inner)) is not None:
        nullable = nullable or wrapped[1] == "Nullable"
        inner = wrapped[2]
    return pa.field(name, _arrow_type(inner), nullable=nullable)


def _arrow_type(name: str) -> pa.DataType:
    if name in _SIMPLE:
        return _SIMPLE[name]
    if (decimal := _DECIMAL.fullmatch(name)) is not None:
        precision, scale = int(decimal[1]), int(decimal[2])
        return (
            pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)
        )
    if (fixed := _FIXED.fullmatch(name)) is not None:
        return pa.binary(int(fixed[1]))
    if (items := _ARRAY_OF_TUPLES.fullmatch(name)) is not None:
        members = [arrow_field(member, kind) for member, kind in _MEMBER.findall(items[1])]
        return pa.list_(pa.struct(members))
    raise ValueError(f"type must be one of the schema's (got {name!r})")
