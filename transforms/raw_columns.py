"""The columns of a file become the raw columns of events, as the mapping says.

    columns of the file -> valid UTF-8 -> fields by name, mapping and constant
                                       -> properties: one column, or all the rest

With a properties column, other columns that nothing names are left out, and said
so once for each file. Without one they all become properties. A column is checked
as a whole; rows are looked at one by one only where something is wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meters.event import INSTANT
from meters.mapping import FIELDS, IDS, PROPERTIES, REQUIRED, Mapping
from transforms import json_text
from transforms.raw import BadRow, RawBatch, payload_text

_LOG = logging.getLogger(__name__)

Payload = Callable[[int], str]
"""What row i of a batch said."""

_PROPERTIES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


@dataclass(frozen=True)
class Plan:
    """Where every field of a file comes from.

    `fields` and `properties` hold the path of a column (more than one name for a
    field of a struct); `missing` names required fields that the file lacks.
    """

    fields: dict[str, tuple[str, ...]]
    properties: dict[str, tuple[str, ...]]
    missing: tuple[str, ...]
    ignored: tuple[str, ...]
    absent: tuple[str, ...]

    def columns(self) -> list[str] | None:
        """The columns to read; None for all, as quarantine shows whole rows."""
        if self.missing:
            return None
        paths = (*self.fields.values(), *self.properties.values())
        return list(dict.fromkeys(path[0] for path in paths))

    def report(self, origin: str) -> None:
        """Say on the log what of the file is not used, or not there."""
        if self.ignored:
            _LOG.warning(
                "%s has a properties column, so these columns are left out: %s",
                origin,
                ", ".join(self.ignored),
            )
        if self.absent:
            _LOG.warning("%s lacks mapped columns: %s", origin, ", ".join(self.absent))


def plan(schema: pa.Schema, mapping: Mapping) -> Plan:
    """Resolve the mapping against the columns of one file."""
    fields: dict[str, tuple[str, ...]] = {}
    absent: list[str] = []
    for field in FIELDS:
        column = mapping.column(field)
        path = None if column is None else _resolve(schema, column)
        if path is not None:
            fields[field] = path
        elif column is not None and mapping.is_explicit(field):
            absent.append(column)
    properties: dict[str, tuple[str, ...]] = {}
    for name, column in mapping.property_columns.items():
        path = _resolve(schema, column)
        if path is None:
            absent.append(column)
        else:
            properties[name] = path
    used = {path[0] for path in (*fields.values(), *properties.values()) if len(path) == 1}
    rest = [name for name in schema.names if name not in used]
    if PROPERTIES not in fields:
        constants = mapping.property_constants
        properties = {
            **{name: (name,) for name in rest if name not in constants},
            **properties,
        }
        rest = []
    missing = [
        field for field in REQUIRED if field not in fields and mapping.constant(field) is None
    ]
    return Plan(fields, properties, tuple(missing), tuple(rest), tuple(absent))


def _resolve(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    if column in schema.names:
        return (column,)
    for index in range(len(column)):
        if column[index] != "." or column[:index] not in schema.names:
            continue
        kind = schema.field(column[:index]).type
        path = _within(kind, column[index + 1 :])
        if path is not None:
            return (column[:index], *path)
    return None


def _within(kind: pa.DataType, column: str) -> tuple[str, ...] | None:
    if not pa.types.is_struct(kind):
        return None
    names = [kind.field(index).name for index in range(kind.num_fields)]
    return _resolve(pa.schema([kind.field(name) for name in names]), column)


class Projection:
    """Turns batches of one file into raw columns."""

    def __init__(self, plan: Plan, mapping: Mapping, origin: str, mtime_us: int) -> None:
        self._plan = plan
        self._mapping = mapping
        self._origin = origin
        self._mtime = pa.scalar(mtime_us, pa.int64()).cast(INSTANT)
        self._times = mapping.times

    def batch(
        self, batch: pa.RecordBatch, rows: pa.Array, payload: Payload | None = None
    ) -> RawBatch:
        """The raw columns of `batch`, whose rows have the numbers `rows`.

        `payload` shows a row that is refused; without it, the row as JSON.
        """
        texts = {path[0] for path in self._plan.fields.values() if len(path) == 1}
        work = _Work(batch, rows, self._origin, payload)
        work.refuse_invalid_utf8(texts)
        if self._plan.missing:
            field = self._plan.missing[0]
            column = self._mapping.column(field)
            work.refuse_all("missing_field", field, f"{field} must be present (no column {column})")
        columns = {field: self._field(field, work) for field in FIELDS}
        return work.finish(columns)

    def _field(self, field: str, work: _Work) -> pa.Array:
        constant = self._mapping.constant(field)
        if constant is not None:
            return pa.repeat(pa.scalar(constant), work.size)
        if field == PROPERTIES:
            return self._properties(work)
        path = self._plan.fields.get(field)
        if path is None:
            if field == "ingested_at":
                return pa.repeat(self._mtime, work.size)
            return pa.nulls(work.size, pa.string())
        array = work.column(path)
        if field in IDS:
            return _texts(array, field, work, integers=self._mapping.is_explicit(field))
        times = self._instants(array, field, work)
        return fill_times(times, self._mtime) if field == "ingested_at" else times

    def _instants(self, array: pa.Array, field: str, work: _Work) -> pa.Array:
        reader = self._times
        kind = array.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            if pa.types.is_timestamp(kind) and kind.tz is not None:
                return array.cast(pa.timestamp(kind.unit, "UTC")).cast(INSTANT, safe=False)
            if reader.zone is not None:
                return reader.localise(array)
            return pc.replace_substring(array.cast(pa.string()), " ", "T", max_replacements=1)
        mapped = field == "timestamp" and not reader.is_verbatim
        if mapped and reader.is_unix and _is_number(kind):
            texts = _plain_numbers(array)
        elif any(is_kind(kind) for is_kind in _STRINGS) or pa.types.is_null(kind):
            texts = array.cast(pa.string())
        else:
            work.refuse_present(array, "invalid_timestamp", field, f"a time (got type {kind})")
            return pa.nulls(len(array), pa.string())
        if not mapped:
            return texts
        instants = reader.read(texts)
        bad = pc.and_(pc.is_null(instants), pc.is_valid(texts))
        work.refuse(bad, "invalid_timestamp", field, reader.expected, texts)
        return instants

    def _properties(self, work: _Work) -> pa.Array:
        extra = {
            name: json_text.value_texts(work.column(path))
            for name, path in self._plan.properties.items()
        }
        for name, text in self._mapping.property_constants.items():
            extra[name] = pa.repeat(pa.scalar(json_text.quoted(text)), work.size)
        path = self._plan.fields.get(PROPERTIES)
        if path is None:
            return json_text.object_texts(extra, work.size)
        array = work.column(path)
        kind = array.type
        if isinstance(array, pa.ExtensionArray):
            array, kind = array.storage, array.storage.type
        if pa.types.is_struct(kind) or pa.types.is_map(kind):
            texts = json_text.value_texts(array)
        elif any(is_kind(kind) for is_kind in _STRINGS) or pa.types.is_null(kind):
            texts = array.cast(pa.string())
        else:
            expected = f"JSON text, a struct or a map (got type {kind})"
            work.refuse_present(array, "invalid_field", PROPERTIES, expected)
            return pa.nulls(work.size, pa.string())
        return merge_properties(texts, extra) if extra else texts


class _Work:
    """One batch on its way: which of its rows are refused, and why."""

    def __init__(
        self, batch: pa.RecordBatch, rows: pa.Array, origin: str, payload: Payload | None
    ) -> None:
        self._batch = batch
        self._rows = rows
        self._origin = origin
        self._payload = payload
        self._bad: dict[int, tuple[str, str, str]] = {}
        self.size = batch.num_rows

    def column(self, path: tuple[str, ...]) -> pa.Array:
        """The column, or the field of a struct, that a path names."""
        array = self._batch.column(path[0])
        for name in path[1:]:
            array = pc.struct_field(array, name)
        return array

    def refuse(
        self, bad: pa.Array, reason: str, field: str, expected: str, shown: pa.Array | None
    ) -> None:
        """Refuse the rows where `bad` is true, unless something was wrong before."""
        for index in np.flatnonzero(np.asarray(bad)):
            got = "" if shown is None else f" (got {shown[int(index)].as_py()!r:.200})"
            self._bad.setdefault(int(index), (reason, field, f"{field} must be {expected}{got}"))

    def refuse_present(self, array: pa.Array, reason: str, field: str, expected: str) -> None:
        """Refuse every row that has a value in `array`."""
        self.refuse(pc.is_valid(array), reason, field, expected, None)

    def refuse_all(self, reason: str, field: str, detail: str) -> None:
        """Refuse every row."""
        for index in range(self.size):
            self._bad.setdefault(index, (reason, field, detail))

    def refuse_invalid_utf8(self, texts: set[str]) -> None:
        """Make the columns `texts` strings and take out the rows that are no UTF-8.

        Arrow takes the bytes of a file for UTF-8 without a look at them, so that
        later steps would fail on them.
        """
        names = self._batch.schema.names
        columns = [
            _plain_column(column, name in texts)
            for name, column in zip(names, self._batch.columns, strict=True)
        ]
        wrong: dict[int, str] = {}
        for name, column in zip(names, columns, strict=True):
            for index in _invalid(column):
                wrong.setdefault(index, name)
        if wrong:
            good = np.ones(self.size, dtype=np.bool_)
            good[list(wrong)] = False
            payloads = {index: self._shown(index) for index in wrong}
            self._refused = [
                self._bad_row(index, "invalid_utf8", name, f"{name} must be UTF-8", payloads[index])
                for index, name in sorted(wrong.items())
            ]
            kept = np.flatnonzero(good)
            columns = [column.filter(pa.array(good)) for column in columns]
            self._rows = self._rows.filter(pa.array(good))
            self.size = len(kept)
            payload = self._payload
            if payload is not None:
                self._payload = lambda index: payload(int(kept[index]))
        else:
            self._refused = []
        self._batch = pa.RecordBatch.from_arrays(columns, names=names)

    def finish(self, columns: dict[str, pa.Array]) -> RawBatch:
        """The rows that were not refused, and the others as `BadRow`s."""
        table = pa.table(columns)
        refused = list(self._refused)
        rows = self._rows
        if self._bad:
            payloads = self._payloads(sorted(self._bad))
            refused += [
                self._bad_row(index, *self._bad[index], payload)
                for index, payload in payloads.items()
            ]
            good = np.ones(self.size, dtype=np.bool_)
            good[list(self._bad)] = False
            table, rows = table.filter(pa.array(good)), rows.filter(pa.array(good))
        return RawBatch(self._origin, table, rows, refused)

    def _bad_row(self, index: int, reason: str, field: str, detail: str, payload: str) -> BadRow:
        row = self._rows[index].as_py()
        return BadRow(self._origin, row, reason, field, detail, payload_text(payload))

    def _payloads(self, indices: list[int]) -> dict[int, str]:
        if self._payload is not None:
            return {index: self._payload(index) for index in indices}
        batch = self._batch.take(pa.array(indices, pa.int64()))
        texts = {
            name: json_text.value_texts(column)
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        shown = json_text.object_texts(texts, batch.num_rows).to_pylist()
        return dict(zip(indices, shown, strict=True))

    def _shown(self, index: int) -> str:
        """A row that cannot be shown as JSON, because it is no UTF-8."""
        if self._payload is not None:
            return self._payload(index)
        row = self._batch.slice(index, 1)
        parts = []
        for name, column in zip(row.schema.names, row.columns, strict=True):
            if any(is_kind(column.type) for is_kind in _STRINGS):
                column = column.cast(pa.large_string()).cast(pa.large_binary())
            value = column[0].as_py() if not _invalid_once(column) else "?"
            if isinstance(value, bytes):
                value = payload_text(value)
            if value is not None:
                parts.append(f"{json_text.quoted(name)}:{json_text.quoted(str(value))}")
        return "{" + ",".join(parts) + "}"


def merge_properties(texts: pa.Array, extra: dict[str, pa.Array]) -> pa.Array:
    """JSON objects with more properties, which take precedence over those they have.

    A text that is no object stays as it is, for decoding to refuse.
    """
    columns = [column.cast(pa.binary()).to_pylist() for column in extra.values()]
    merged = []
    for text, *values in zip(texts.cast(pa.binary()).to_pylist(), *columns, strict=True):
        found = zip(extra, values, strict=True)
        more = {name: msgspec.Raw(value) for name, value in found if value is not None}
        merged.append(merged_object(text or b"{}", more))
    return pa.array(merged, pa.binary()).cast(pa.string())


def merged_object(text: bytes, extra: dict[str, msgspec.Raw]) -> bytes:
    """The object `text` with more values; see `merge_properties`."""
    try:
        found = _PROPERTIES.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return text
    found.update(extra)
    return msgspec.json.encode(found, order="sorted")


def _texts(array: pa.Array, field: str, work: _Work, *, integers: bool) -> pa.Array:
    kind = array.type
    if any(is_kind(kind) for is_kind in _STRINGS) or pa.types.is_null(kind):
        return array.cast(pa.string())
    if isinstance(array, pa.ExtensionArray) and kind.extension_name == "arrow.uuid":
        return json_text.uuid_texts(array)
    if integers and pa.types.is_integer(kind):
        return array.cast(pa.string())
    work.refuse_present(array, "invalid_field", field, f"a string (got type {kind})")
    return pa.nulls(len(array), pa.string())


def fill_times(times: pa.Array, mtime: pa.Scalar) -> pa.Array:
    """`mtime` where a time is missing; a column of times only where all are."""
    if not times.null_count:
        return times
    if times.null_count == len(times):
        return pa.repeat(mtime, len(times))
    if pa.types.is_timestamp(times.type):
        return pc.fill_null(times, mtime)
    text = mtime.cast(pa.string()).as_py()
    return pc.fill_null(times, text.replace(" ", "T"))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _plain_numbers(array: pa.Array) -> pa.Array:
    return array.cast(pa.string())


def _plain_column(array: pa.Array, is_text: bool) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text and any(is_kind(array.type) for is_kind in _BINARIES):
        return array.cast(pa.string(), safe=False)
    return array


def _invalid(array: pa.Array) -> list[int]:
    """The rows with bytes that are no UTF-8, found by halving."""
    if not _invalid_once(array):
        return []
    if len(array) == 1:
        return [0]
    middle = len(array) // 2
    left = array.take(pa.array(np.arange(middle)))
    right = array.take(pa.array(np.arange(middle, len(array))))
    return _invalid(left) + [middle + index for index in _invalid(right)]


def _invalid_once(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return True
    return False
