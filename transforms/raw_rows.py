"""The rows of one batch of columns on their way to raw columns: which are refused, and why.

A row is refused once, for what was found first. It is shown as the source has it
where the reader can say so, and otherwise as JSON of its columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import json_text
from transforms.raw import BadRow, RawBatch, payload_text

Payload = Callable[[int], str]
"""What row i of a batch said."""

_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds strings, or nothing at all."""
    return pa.types.is_null(kind) or any(is_kind(kind) for is_kind in _STRINGS)


class RowWork:
    """One batch on its way: which of its rows are refused, and why."""

    def __init__(
        self, batch: pa.RecordBatch, rows: pa.Array, origin: str, payload: Payload | None
    ) -> None:
        self._batch = batch
        self._rows = rows
        self._origin = origin
        self._payload = payload
        self._bad: dict[int, tuple[str, str, str]] = {}
        self._refused: list[BadRow] = []
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
            for index in invalid_rows(column):
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
        self._batch = pa.RecordBatch.from_arrays(columns, names=names)

    def finish(self, columns: dict[str, pa.Array]) -> RawBatch:
        """The rows that were not refused, and the others as `BadRow`s."""
        table = pa.table(columns)
        refused = self._refused
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
            value = column[0].as_py() if not _is_invalid(column) else "?"
            if isinstance(value, bytes):
                value = payload_text(value)
            if value is not None:
                parts.append(f"{json_text.quoted(name)}:{json_text.quoted(str(value))}")
        return "{" + ",".join(parts) + "}"


def _plain_column(array: pa.Array, is_text: bool) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text and any(is_kind(array.type) for is_kind in _BINARIES):
        return array.cast(pa.string(), safe=False)
    return array


def invalid_rows(array: pa.Array) -> list[int]:
    """The rows with bytes that are no UTF-8, found by halving."""
    if not _is_invalid(array):
        return []
    if len(array) == 1:
        return [0]
    middle = len(array) // 2
    left = array.take(pa.array(np.arange(middle)))
    right = array.take(pa.array(np.arange(middle, len(array))))
    return invalid_rows(left) + [middle + index for index in invalid_rows(right)]


def _is_invalid(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return True
    return False
