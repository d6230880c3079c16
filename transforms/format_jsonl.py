"""JSON Lines: one event in each line, read with msgspec.

    lines -> struct of the fields (properties stay raw text) -> raw columns
          -> the general way, for a line that does not fit the struct

Only a line feed ends a line, a carriage return before it is white space, blank
lines are no events but count in the line numbers. Numbers in properties keep their
digits, as the text of the properties is handed on as it stands. An id must be a
string; in a column that was mapped by name an integer is taken as its text.

A line without `properties` has all its other fields as properties; a line with
`properties` may carry other fields, which are left out and reported once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from meters.event import INSTANT
from meters.mapping import FIELDS, PROPERTIES, TIMES, Mapping
from transforms import json_text
from transforms.format_text import BLOCK, Broken, Lines, Oversized, lines
from transforms.raw import MAX_ROW, BadRow, RawBatch, payload_text
from transforms.raw_columns import fill_times

_LOG = logging.getLogger(__name__)

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STRING = msgspec.json.Decoder(str)
_INTEGER = re.compile(rb"-?[0-9]+")
_ABSENT = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")
_PATIENCE = 100
"""Lines with unknown fields before the struct for such lines is taken."""


def read_jsonl(
    parts: Iterator[bytes],
    mapping: Mapping,
    origin: str,
    mtime_us: int,
    block_bytes: int = BLOCK,
) -> Iterator[RawBatch]:
    """The raw columns of a file whose decompressed bytes are `parts`."""
    reader = LineReader(mapping, origin, mtime_us)
    for item in lines(parts, block_bytes):
        match item:
            case Lines():
                yield reader.batch(item)
            case Oversized(row, start, size):
                detail = f"a line must have at most {MAX_ROW} bytes (got {size})"
                payload = payload_text(start, size)
                bad = BadRow(origin, row, "too_large", "", detail, payload)
                yield RawBatch.only_bad(origin, bad)
            case Broken(row, cause, start):
                bad = BadRow(origin, row, "unreadable_file", "", cause, payload_text(start))
                yield RawBatch.only_bad(origin, bad)
    reader.report_absent()


class _Refused(Exception):
    """Why a line goes to quarantine."""

    def __init__(self, reason: str, field: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.field = field


class LineReader:
    """Reads the lines of one file in the way that fits them; all give the same columns.

    - strict: a struct that refuses unknown fields, for lines with our fields only
    - lenient: a struct that skips them; what it skipped becomes properties where
      there are none, so that files with other fields take this way soon
    - general: field by field, for nested columns and for lines that fit no struct
    """

    def __init__(self, mapping: Mapping, origin: str, mtime_us: int) -> None:
        self._mapping = mapping
        self._origin = origin
        self._mtime = pa.scalar(mtime_us, pa.int64()).cast(INSTANT)
        self._times = {field: mapping.times(field) for field in TIMES}
        self._sources = {
            field: column for field in FIELDS if (column := mapping.column(field)) is not None
        }
        self._property_columns = mapping.property_columns
        self._property_constants = {
            name: msgspec.Raw(json_text.quoted(text).encode())
            for name, text in mapping.property_constants.items()
        }
        self._has_extra = bool(self._property_columns or self._property_constants)
        self._used = {*self._sources.values(), *self._property_columns.values()}
        self._is_plain = _is_plain(self._sources)
        self._row = self._struct(strict=True)
        self._strict = msgspec.json.Decoder(self._row)
        self._lenient = msgspec.json.Decoder(self._struct(strict=False))
        self._misfits = 0
        self._integers = {field for field in FIELDS if mapping.is_explicit(field)}
        self._absent = dict(mapping.columns)
        self._reported = False

    def _struct(self, *, strict: bool) -> Any:
        fields: list[tuple[str, Any, Any]] = [
            (field, msgspec.Raw, _ABSENT) if self._is_raw(field) else (field, str | None, None)
            for field in self._sources
        ]
        rename = self._sources if self._is_plain else None
        return msgspec.defstruct(
            "Row", fields, rename=rename, gc=False, forbid_unknown_fields=strict
        )

    def _is_raw(self, field: str) -> bool:
        return field == PROPERTIES or (field in TIMES and self._times[field].is_unix)

    def batch(self, block: Lines, ingested: pa.Array | None = None) -> RawBatch:
        """The raw columns of a block of lines, and the lines that are refused.

        `ingested` has the time of each line, for events that don't carry their own;
        without it, that is the file's.
        """
        found: list[Any] = []
        refused: dict[int, _Refused] = {}
        invalid = _invalid_utf8(block.lines)
        decode = self._decoder()
        for line in block.lines:
            try:
                found.append(decode(line))
            except (_Refused, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                index = len(found)
                found.append(None)
                if index in invalid or not line.strip():
                    continue
                try:
                    found[index] = self._general_row(line)
                except _Refused as reason:
                    refused[index] = reason
                decode = self._decoder()
        for index in invalid:
            found[index] = None
            refused[index] = _Refused("invalid_utf8", "", "the line must be UTF-8")
        rows = [row for row in found if row is not None]
        if len(rows) == len(found):
            return self._finish(block, rows, np.arange(len(rows)), refused, ingested)
        kept = np.flatnonzero(np.array([row is not None for row in found], dtype=np.bool_))
        return self._finish(block, rows, kept, refused, ingested)

    def _decoder(self) -> Any:
        if not self._is_plain:
            return self._general_row
        if self._has_extra or self._misfits > _PATIENCE:
            return self._lenient_row
        return self._strict.decode

    def _lenient_row(self, line: bytes) -> Any:
        row = self._lenient.decode(line)
        if self._has_extra or _is_missing(row.properties):
            row.properties = self._properties(_OBJECT.decode(line), row.properties)
        elif not self._reported:
            self._report_unknown(_OBJECT.decode(line))
        return row

    def _general_row(self, line: bytes) -> Any:
        """One line, field by field. Raises `_Refused`."""
        try:
            found = _OBJECT.decode(line)
        except msgspec.ValidationError:
            raise _Refused("invalid_json", "", "a line must be a JSON object") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _Refused("invalid_json", "", f"a line must be JSON: {error}") from None
        except RecursionError:
            raise _Refused("invalid_json", "", "the JSON is nested too deeply") from None
        self._misfits += 1
        values: dict[str, Any] = {}
        for field, column in self._sources.items():
            raw = _lookup(found, column)
            if raw is None:
                continue
            if self._is_raw(field):
                values[field] = raw
            else:
                values[field] = _text(raw, field, integers=field in self._integers)
        values[PROPERTIES] = self._properties(found, values.get(PROPERTIES, _ABSENT))
        return self._row(**values)

    def _properties(self, found: dict[str, msgspec.Raw], raw: msgspec.Raw) -> msgspec.Raw:
        """The properties of a line whose fields are `found`, `raw` being its own ones."""
        extra: dict[str, msgspec.Raw] = {}
        for name, column in self._property_columns.items():
            value = _lookup(found, column)
            if value is not None:
                extra[name] = value
                self._absent.pop(f"{PROPERTIES}.{name}", None)
        extra.update(self._property_constants)
        if not _is_missing(raw):
            if not self._reported:
                self._report_unknown(found)
            return msgspec.Raw(json_text.merged_object(bytes(raw), extra)) if extra else raw
        used = self._used
        rest = {name: value for name, value in found.items() if name not in used and value != _NULL}
        rest.update(extra)
        return msgspec.Raw(msgspec.json.encode(rest, order="sorted")) if rest else _ABSENT

    def _report_unknown(self, found: dict[str, msgspec.Raw]) -> None:
        unknown = sorted(name for name in found if name not in self._used)
        if unknown:
            self._reported = True
            _LOG.warning(
                "%s has properties, so other fields of its lines are left out: %s",
                self._origin,
                ", ".join(unknown),
            )

    def _finish(
        self,
        block: Lines,
        rows: list[Any],
        kept: npt.NDArray[np.int64],
        refused: dict[int, _Refused],
        ingested: pa.Array | None,
    ) -> RawBatch:
        columns = {field: self._column(field, rows) for field in FIELDS}
        good = np.ones(len(rows), dtype=np.bool_)
        for field in TIMES:
            if field in self._sources and not self._times[field].is_verbatim:
                texts, expected = columns[field], self._times[field].expected
                columns[field] = self._times[field].read(texts)
                wrong = pc.and_(pc.is_null(columns[field]), pc.is_valid(texts))
                for place in np.flatnonzero(np.asarray(wrong)).tolist():
                    good[place] = False
                    detail = f"{field} must be {expected} (got {texts[place].as_py()!r:.200})"
                    refusal = _Refused("invalid_timestamp", field, detail)
                    refused.setdefault(int(kept[place]), refusal)
        times = self._mtime if ingested is None else ingested.take(pa.array(kept))
        columns["ingested_at"] = fill_times(columns["ingested_at"], times)
        table, numbers = pa.table(columns), pa.array(kept + block.first)
        if not good.all():
            table, numbers = table.filter(pa.array(good)), numbers.filter(pa.array(good))
        bad = [
            BadRow(
                self._origin,
                block.first + index,
                reason.reason,
                reason.field,
                str(reason),
                payload_text(block.lines[index]),
            )
            for index, reason in sorted(refused.items())
        ]
        return RawBatch(self._origin, table, numbers, bad)

    def _column(self, field: str, rows: list[Any]) -> pa.Array:
        constant = self._mapping.constant(field)
        if constant is not None:
            return pa.repeat(pa.scalar(constant), len(rows))
        values = list(map(attrgetter(field), rows))
        column = _raw_column(values) if self._is_raw(field) else pa.array(values, pa.string())
        if column.null_count < len(column):
            self._absent.pop(field, None)
        return pc.utf8_trim(column, '"') if field in TIMES and self._is_raw(field) else column

    def report_absent(self) -> None:
        """Say on the log which mapped columns no line had."""
        if self._absent:
            names = ", ".join(self._absent.values())
            _LOG.warning("%s lacks mapped columns: %s", self._origin, names)


def _is_plain(sources: dict[str, str]) -> bool:
    """Whether every field is a top-level one of its own that a struct can name."""
    columns = list(sources.values())
    return len(set(columns)) == len(columns) and not any(
        "." in column or '"' in column or "\\" in column or not column.isprintable()
        for column in columns
    )


def _is_missing(raw: msgspec.Raw) -> bool:
    return raw is _ABSENT or raw == _NULL


def _invalid_utf8(block: list[bytes]) -> set[int]:
    joined = b"\n".join(block)
    if joined.isascii():
        return set()
    try:
        joined.decode()
    except UnicodeDecodeError:
        return {index for index, line in enumerate(block) if not _is_utf8(line)}
    return set()


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _lookup(found: dict[str, msgspec.Raw], column: str) -> msgspec.Raw | None:
    """The value of a column that may be nested; null is no value."""
    raw = found.get(column)
    if raw is not None:
        return None if raw == _NULL else raw
    for index, character in enumerate(column):
        inner = found.get(column[:index]) if character == "." else None
        if inner is None:
            continue
        try:
            nested = _OBJECT.decode(inner)
        except msgspec.DecodeError:
            continue
        raw = _lookup(nested, column[index + 1 :])
        if raw is not None:
            return raw
    return None


def _text(raw: msgspec.Raw, field: str, *, integers: bool) -> str:
    text = bytes(raw)
    if text.startswith(b'"'):
        return _STRING.decode(text)
    if integers and field not in TIMES and _INTEGER.fullmatch(text):
        return text.decode()
    reason = "invalid_timestamp" if field in TIMES else "invalid_field"
    raise _Refused(reason, field, f"{field} must be a string (got {text.decode()!s:.200})")


def _raw_column(values: list[msgspec.Raw]) -> pa.Array:
    """The texts of raw values, which hold no line feed; null where there is none."""
    joined = np.frombuffer(b"\n".join([*values, b""]), dtype=np.uint8)
    ends = np.flatnonzero(joined == 10)
    offsets = np.concatenate([[0], ends - np.arange(len(values))]).astype(np.int32)
    data = pa.py_buffer(joined[joined != 10].tobytes())
    texts = pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), data)
    missing = pc.or_(pc.equal(texts, ""), pc.equal(texts, "null"))
    return pc.if_else(missing, None, texts) if pc.any(missing).as_py() else texts
