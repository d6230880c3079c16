"""Typed Arrow columns as JSON text, a column at a time.

The text of a value is what `meters.scalars` reads: integers and decimals exactly,
floats as the shortest text that gives the same float, NaN and infinities as the
texts "NaN", "Infinity" and "-Infinity" (no number, and not null either, so that a
meter refuses them), times as ISO 8601, bytes as base64. A missing value has no
text: it is left out of objects and is null in lists. Keys of objects are sorted.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meters.numbers import plain

_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_DURATION_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def quoted(text: str) -> str:
    """A JSON string with the fewest escapes."""
    return json.dumps(text, ensure_ascii=False)


def object_texts(columns: Mapping[str, pa.Array], size: int) -> pa.Array:
    """The object of each row, from the texts of its values; keys sorted, nulls left out."""
    parts = [
        pc.binary_join_element_wise(f"{quoted(name)}:", columns[name], "")
        for name in sorted(columns)
    ]
    if not parts:
        return pa.repeat(pa.scalar("{}"), size)
    if len(parts) == 1:
        inner = pc.fill_null(parts[0], "")
    else:
        inner = pc.binary_join_element_wise(*parts, ",", null_handling="skip")
    return pc.binary_join_element_wise("{", inner, "}", "")


def value_texts(array: pa.Array) -> pa.Array:
    """The JSON text of each value, null where the value is null."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return _extension(array)
    if pa.types.is_dictionary(kind):
        return value_texts(array.dictionary_decode())
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return array.cast(pa.string())
    if pa.types.is_floating(kind):
        return _floats(array)
    if pa.types.is_decimal(kind):
        return array.cast(pa.string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return string_texts(array.cast(pa.string()))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return _times(array)
    if pa.types.is_struct(kind):
        return _structs(array)
    if pa.types.is_map(kind):
        return _maps(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(array)
    return pa.array([_scalar(value, kind) for value in array], pa.string())


def string_texts(array: pa.Array) -> pa.Array:
    """Strings as JSON strings; Python is used only for those that need an escape."""
    texts = pc.binary_join_element_wise('"', array, '"', "")
    special = pc.match_substring_regex(array, _NEEDS_ESCAPE)
    if not pc.any(special).as_py():
        return texts
    escaped = [quoted(text) for text in array.filter(special).to_pylist()]
    return pc.replace_with_mask(texts, pc.fill_null(special, False), pa.array(escaped, pa.string()))


def _floats(array: pa.Array) -> pa.Array:
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    texts = array.cast(pa.string())
    finite = pc.is_finite(array)
    if pc.all(finite).as_py() is not False:
        return texts
    infinite = pc.if_else(pc.greater(array, 0), '"Infinity"', '"-Infinity"')
    return pc.if_else(finite, texts, pc.if_else(pc.is_nan(array), '"NaN"', infinite))


def _times(array: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    texts = pc.replace_substring(array.cast(pa.string()), " ", "T", max_replacements=1)
    return pc.binary_join_element_wise('"', texts, '"', "")


def _structs(array: pa.Array) -> pa.Array:
    names = [array.type.field(index).name for index in range(array.type.num_fields)]
    columns = dict(zip(names, map(value_texts, array.flatten()), strict=True))
    return _where(array, object_texts(columns, len(array)))


def _lists(array: pa.Array) -> pa.Array:
    lengths = _lengths(array)
    items = pc.fill_null(value_texts(array.flatten()), "null")
    return _where(array, _joined(items, lengths, "[", "]"))


def _maps(array: pa.Array) -> pa.Array:
    compact = array.take(pa.array(np.arange(len(array))))
    lengths = _lengths(compact)
    keys = compact.keys.cast(pa.string())
    owner = np.repeat(np.arange(len(array)), lengths)
    entries = pa.table({"owner": owner, "key": keys, "text": value_texts(compact.items)})
    entries = entries.filter(pc.is_valid(entries["text"]))
    entries = entries.sort_by([("owner", "ascending"), ("key", "ascending")]).combine_chunks()
    names = string_texts(_single(entries["key"]))
    items = pc.binary_join_element_wise(names, _single(entries["text"]), ":")
    kept = np.bincount(entries["owner"].to_numpy(), minlength=len(array))
    return _where(array, _joined(items, kept, "{", "}"))


def _lengths(array: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.asarray(pc.fill_null(pc.list_value_length(array), 0), dtype=np.int64)


def _joined(
    items: pa.Array, lengths: np.ndarray[tuple[int], np.dtype[np.int64]], left: str, right: str
) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), items)
    return pc.binary_join_element_wise(left, pc.binary_join(lists, ","), right, "")


def _where(array: pa.Array, texts: pa.Array) -> pa.Array:
    return texts if not array.null_count else pc.if_else(pc.is_valid(array), texts, None)


def _single(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else column.combine_chunks()


def _extension(array: pa.ExtensionArray) -> pa.Array:
    if array.type.extension_name == "arrow.uuid":
        return string_texts(uuid_texts(array))
    return value_texts(array.storage)


def uuid_texts(array: pa.ExtensionArray) -> pa.Array:
    """UUIDs in their usual form: 8-4-4-4-12 lower-case hexadecimal digits."""
    return pa.array([None if v is None else str(v) for v in array.to_pylist()], pa.string())


def _scalar(value: pa.Scalar, kind: pa.DataType) -> str | None:
    if not value.is_valid:
        return None
    if pa.types.is_duration(kind):
        return plain(Decimal(value.value).scaleb(-_DURATION_DIGITS[kind.unit]))
    found = value.as_py()
    if isinstance(found, bytes):
        return quoted(base64.b64encode(found).decode("ascii"))
    if isinstance(found, Sequence) and not isinstance(found, str):
        return json.dumps(found, default=str, ensure_ascii=False)
    return quoted(str(found))
