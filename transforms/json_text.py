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

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meters.numbers import plain

_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DURATION_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def quoted(text: str) -> str:
    """A JSON string with the fewest escapes."""
    return json.dumps(text, ensure_ascii=False)


def object_texts(columns: Mapping[str, pa.Array], size: int) -> pa.Array:
    """The object of each row, from the texts of its values; keys sorted, nulls left out."""
    names = sorted(columns)
    keys = [f"{quoted(name)}:" for name in names]
    texts = [columns[name] for name in names]
    if not names:
        return pa.repeat(pa.scalar("{}"), size)
    if not any(text.null_count for text in texts):
        marks = ["{" + keys[0], *[f",{key}" for key in keys[1:]]]
        pairs = [part for pair in zip(marks, texts, strict=True) for part in pair]
        return pc.binary_join_element_wise(*pairs, "}", "")
    parts = [
        pc.binary_join_element_wise(key, text, ",", "")
        for key, text in zip(keys, texts, strict=True)
    ]
    # `null_handling="skip"` would drop a row in which every value is null.
    joined = pc.binary_join_element_wise(
        "{", *parts, "", null_handling="replace", null_replacement=""
    )
    return pc.binary_join_element_wise(pc.ascii_rtrim(joined, ","), "}", "")


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
    if not _may_need_escape(array):
        return texts
    special = pc.match_substring_regex(array, _NEEDS_ESCAPE)
    escaped = [quoted(text) for text in array.filter(special).to_pylist()]
    return pc.replace_with_mask(texts, pc.fill_null(special, False), pa.array(escaped, pa.string()))


def _may_need_escape(array: pa.Array) -> bool:
    """Whether any byte of the strings is a quote, a backslash or a control character."""
    if array.null_count == len(array):
        return False
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    text = np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]] if data else np.empty(0)
    return bool(((text < 32) | (text == 34) | (text == 92)).any())


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
    lengths = np.diff(np.asarray(compact.offsets))
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


def merged_objects(texts: pa.Array, extra: Mapping[str, pa.Array]) -> pa.Array:
    """JSON objects with more values, which take precedence over those they have.

    A missing text is an empty object; one that is no object stays as it is, for
    decoding to refuse.
    """
    columns = [column.cast(pa.binary()).to_pylist() for column in extra.values()]
    merged = []
    for text, *values in zip(texts.cast(pa.binary()).to_pylist(), *columns, strict=True):
        found = zip(extra, values, strict=True)
        more = {name: msgspec.Raw(value) for name, value in found if value is not None}
        merged.append(merged_object(b"{}" if text is None else text, more))
    return pa.array(merged, pa.binary()).cast(pa.string())


def merged_object(text: bytes, extra: Mapping[str, msgspec.Raw]) -> bytes:
    """The object `text` with more values; see `merged_objects`."""
    try:
        found = _OBJECT.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    found.update(extra)
    return msgspec.json.encode(found, order="sorted")
