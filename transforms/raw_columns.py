"""The columns of a file become the raw columns of events, as the mapping says.

    columns of the file -> valid UTF-8 -> fields by name, mapping and constant
                                       -> properties: one column, or all the rest

With a properties column, other columns that nothing names are left out, and said
so once for each file. Without one they all become properties. A column is checked
as a whole; rows are looked at one by one only where something is wrong.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from meters.event import INSTANT
from meters.import_times import typed_micros
from meters.mapping import FIELDS, IDS, PROPERTIES, REQUIRED, TIMES, Mapping
from transforms import json_text
from transforms.raw import RawBatch
from transforms.raw_rows import Payload, RowWork, is_text

_LOG = logging.getLogger(__name__)


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
        self._times = {field: mapping.times(field) for field in TIMES}

    def batch(
        self, batch: pa.RecordBatch, rows: pa.Array, payload: Payload | None = None
    ) -> RawBatch:
        """The raw columns of `batch`, whose rows have the numbers `rows`.

        `payload` shows a row that is refused; without it, the row as JSON.
        """
        texts = {path[0] for path in self._plan.fields.values() if len(path) == 1}
        work = RowWork(batch, rows, self._origin, payload)
        work.refuse_invalid_utf8(texts)
        if self._plan.missing:
            field = self._plan.missing[0]
            column = self._mapping.column(field)
            work.refuse_all(
                "missing_field", field, f"{field} must be present (no column {column!r})"
            )
        columns = {field: self._field(field, work) for field in FIELDS}
        return work.finish(columns)

    def _field(self, field: str, work: RowWork) -> pa.Array:
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
        times = self._instant_column(array, field, work)
        return fill_times(times, self._mtime) if field == "ingested_at" else times

    def _instant_column(self, array: pa.Array, field: str, work: RowWork) -> pa.Array:
        reader = self._times[field]
        kind = array.type
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            return self._typed_times(array, field, work)
        if not (is_text(kind) or (reader.is_unix and _is_number(kind))):
            work.refuse_present(array, "invalid_timestamp", field, f"a time (got type {kind})")
            return pa.nulls(len(array), pa.string())
        texts = array.cast(pa.string())
        if reader.is_verbatim:
            return texts
        instants = reader.read(texts)
        bad = pc.and_(pc.is_null(instants), pc.is_valid(texts))
        work.refuse(bad, "invalid_timestamp", field, reader.expected, texts)
        return instants

    def _typed_times(self, array: pa.Array, field: str, work: RowWork) -> pa.Array:
        micros = typed_micros(array)
        if micros.null_count > array.null_count:
            bad = pc.and_(pc.is_null(micros), pc.is_valid(array))
            expected = "a time within the years 1 to 9999"
            work.refuse(bad, "invalid_timestamp", field, expected, None)
        if pa.types.is_timestamp(array.type) and array.type.tz is not None:
            return micros.cast(INSTANT)
        local = micros.cast(pa.timestamp("us"))
        if self._times[field].zone is not None:
            return self._times[field].localise(local)
        return pc.replace_substring(local.cast(pa.string()), " ", "T", max_replacements=1)

    def _properties(self, work: RowWork) -> pa.Array:
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
        elif is_text(kind):
            texts = array.cast(pa.string())
        else:
            expected = f"JSON text, a struct or a map (got type {kind})"
            work.refuse_present(array, "invalid_field", PROPERTIES, expected)
            return pa.nulls(work.size, pa.string())
        return json_text.merged_objects(texts, extra) if extra else texts


def _texts(array: pa.Array, field: str, work: RowWork, *, integers: bool) -> pa.Array:
    kind = array.type
    if is_text(kind):
        return array.cast(pa.string())
    if isinstance(array, pa.ExtensionArray) and kind.extension_name == "arrow.uuid":
        return json_text.uuid_texts(array)
    if integers and pa.types.is_integer(kind):
        return array.cast(pa.string())
    work.refuse_present(array, "invalid_field", field, f"a string (got type {kind})")
    return pa.nulls(len(array), pa.string())


def fill_times(times: pa.Array, default: pa.Scalar | pa.Array) -> pa.Array:
    """`default` where a time is missing; a column of times only where all are."""
    if not times.null_count:
        return times
    if times.null_count == len(times):
        return default if isinstance(default, pa.Array) else pa.repeat(default, len(times))
    if pa.types.is_timestamp(times.type):
        return pc.coalesce(times, default)
    texts = pc.replace_substring(default.cast(pa.string()), " ", "T", max_replacements=1)
    return pc.coalesce(times, texts)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
