"""CSV and tab-separated files as RFC 4180 has them, the first record naming the columns.

    blocks -> strictly quoted? -> yes: pyarrow.csv, a block at a time
                               -> no:  the csv module, a record at a time

Both give the same cells where both can read a record. A record has the number of
its first line. All cells are text, and an empty cell is a missing value. A quote
inside an unquoted cell is taken as it stands; text after a closing quote, a bare
carriage return and a wrong number of cells each refuse the record. A quote that is
never closed (before the file ends, or within `MAX_ROW` bytes) refuses the line that
opens it, and reading goes on with the next line.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as arrow_csv

from meters.mapping import Mapping
from transforms.format_text import BLOCK, Damaged
from transforms.raw import MAX_ROW, BadRow, RawBatch, payload_text
from transforms.raw_columns import Payload, Projection, plan

csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW))

Ints = npt.NDArray[np.int64]
Taking = Generator[RawBatch, None, bytes]
"""Gives batches and returns the bytes that do not make a whole record yet."""

_LF, _CR, _QUOTE = 10, 13, 34
_OPEN = "open"


class Records(NamedTuple):
    """Where the records of a block are: `starts` to `ends` (before the line feed)."""

    starts: Ints
    ends: Ints
    lines: Ints
    cells: Ints


def read_csv(
    parts: Iterator[bytes],
    delimiter: str,
    mapping: Mapping,
    origin: str,
    mtime_us: int,
    block_bytes: int = BLOCK,
) -> Iterator[RawBatch]:
    """The raw columns of a file whose decompressed bytes are `parts`."""
    reader = _Reader(delimiter, mapping, origin, mtime_us)
    held, size, limit = list[bytes](), 0, block_bytes
    cause = ""
    try:
        for part in parts:
            held.append(part)
            size += len(part)
            if size < limit:
                continue
            rest = yield from reader.take(b"".join(held), final=False)
            held, size = [rest], len(rest)
            limit = max(block_bytes, 2 * size)
    except Damaged as damaged:
        cause = str(damaged)
    rest = yield from reader.take(b"".join(held), final=not cause)
    if cause:
        yield reader.broken(cause, rest)


@dataclass(frozen=True)
class _Header:
    """The columns of a file, those that are read, and what becomes of them."""

    names: list[str]
    columns: list[str]
    projection: Projection


class _Reader:
    def __init__(self, delimiter: str, mapping: Mapping, origin: str, mtime_us: int) -> None:
        self._delimiter = delimiter
        self._mapping = mapping
        self._origin = origin
        self._mtime_us = mtime_us
        self._header: _Header | None = None
        self._is_refused = False
        self._line = 1

    def take(self, data: bytes, *, final: bool) -> Taking:
        """Read the whole records of `data`, which starts where a record does."""
        if final and data and not data.endswith(b"\n"):
            data += b"\n"
        if self._header is None and not self._is_refused:
            data = yield from self._take_header(data, final=final)
        if self._is_refused:
            return b""
        if self._header is None:
            return data
        records = scan(data, self._delimiter)
        if records is None:
            return (yield from self._slowly(data, final=final))
        if len(records.ends):
            end = int(records.ends[-1]) + 1
            yield from self._fast(data[:end], records)
            data = data[end:]
        if data and (final or len(data) > MAX_ROW):
            return (yield from self._slowly(data, final=final))
        return data

    def broken(self, cause: str, rest: bytes) -> RawBatch:
        """What stands for the rows that cannot be read."""
        return self._bad(self._line, "unreadable_file", cause, rest)

    def _bad(self, line: int, reason: str, detail: str, payload: bytes) -> RawBatch:
        return RawBatch.only_bad(
            self._origin, self._bad_row(line, reason, detail, payload_text(payload))
        )

    def _bad_row(self, line: int, reason: str, detail: str, payload: str) -> BadRow:
        return BadRow(self._origin, line, reason, "", detail, payload)

    def _take_header(self, data: bytes, *, final: bool) -> Taking:
        """The bytes after the header, or all of them where it is not whole yet."""
        quotes, end = 0, -1
        while True:
            start, end = end + 1, data.find(b"\n", end + 1)
            if end < 0:
                if (final and data) or len(data) > MAX_ROW:
                    self._is_refused = True
                    yield self._bad(1, "unreadable_file", "the header is not closed", data)
                return data
            quotes += data.count(b'"', start, end)
            if quotes % 2 == 0 and data[:end].strip():
                break
        text = data[:end].strip(b"\r\n")
        try:
            self._header = self._read_header(text)
        except (ValueError, csv.Error) as error:
            self._is_refused = True
            yield self._bad(1, "unreadable_file", f"the header cannot be read: {error}", text)
        self._line += data.count(b"\n", 0, end + 1)
        return data[end + 1 :]

    def _read_header(self, text: bytes) -> _Header:
        lines = text.decode().splitlines(keepends=True)
        names = next(csv.reader(lines, delimiter=self._delimiter, strict=True))
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"a column must occur once (got {', '.join(sorted(twice))} twice)")
        found = plan(pa.schema([(name, pa.string()) for name in names]), self._mapping)
        found.report(self._origin)
        projection = Projection(found, self._mapping, self._origin, self._mtime_us)
        return _Header(names, found.columns() or names, projection)

    def _fast(self, data: bytes, records: Records) -> Iterator[RawBatch]:
        assert self._header is not None
        names = self._header.names
        blank = _blank(data, records)
        right = records.cells == len(names)
        good, bad = np.flatnonzero(right & ~blank), np.flatnonzero(~right & ~blank)
        table = _parse(data, self._delimiter, names, self._header.columns)
        if table is None or table.num_rows != len(good):
            yield from self._slowly(data, final=True)
            return
        refused = [
            self._wrong_cells(
                self._line + int(records.lines[index]),
                int(records.cells[index]),
                _record(data, records, int(index)),
            )
            for index in bad
        ]
        batch = self._project(
            table,
            self._line + records.lines[good],
            lambda index: _record(data, records, int(good[index])),
        )
        batch.bad.extend(refused)
        yield batch
        self._line += data.count(b"\n")

    def _slowly(self, data: bytes, *, final: bool) -> Taking:
        """Read record by record, for quotes that are not where they should be."""
        assert self._header is not None
        lines = data.split(b"\n")
        rest = lines.pop()
        width = len(self._header.names)
        cells: list[list[str | None]] = []
        spans: list[tuple[int, int]] = []
        refused: list[BadRow] = []
        start = 0
        while start < len(lines):
            end, row, reason, detail = _read_record(lines, start, self._delimiter)
            whole = b"\n".join(lines[start:end])
            if reason == _OPEN:
                if not final and len(data) - sum(map(len, lines[:start])) - start <= MAX_ROW:
                    break
                end, reason, whole = start + 1, "invalid_csv", lines[start]
            if reason:
                payload = payload_text(whole.rstrip(b"\r"))
                refused.append(self._bad_row(self._line + start, reason, detail, payload))
            elif row and len(row) != width:
                payload = payload_text(whole.rstrip(b"\r"))
                refused.append(self._wrong_cells(self._line + start, len(row), payload))
            elif row:
                cells.append([cell or None for cell in row])
                spans.append((start, end))
            start = end
        columns = [pa.array([row[place] for row in cells], pa.string()) for place in range(width)]
        batch = self._project(
            pa.record_batch(columns, self._header.names).select(self._header.columns),
            self._line + np.array([first for first, _ in spans], dtype=np.int64),
            lambda index: _shown(b"\n".join(lines[slice(*spans[index])])),
        )
        batch.bad.extend(refused)
        yield batch
        self._line += start
        return b"\n".join([*lines[start:], rest])

    def _project(self, batch: pa.RecordBatch, rows: Ints, payload: Payload) -> RawBatch:
        assert self._header is not None
        return self._header.projection.batch(batch, pa.array(rows, pa.int64()), payload)

    def _wrong_cells(self, line: int, cells: int, payload: str) -> BadRow:
        assert self._header is not None
        width = len(self._header.names)
        detail = f"a record must have {width} cells (got {cells})"
        return self._bad_row(line, "invalid_csv", detail, payload)


def scan(data: bytes, delimiter: str) -> Records | None:
    """The records of a block that starts at a record, or None where it is not strict.

    Strict: a quote opens a cell only at its start, closes it only at its end, and
    no carriage return stands alone. Then a line feed ends a record exactly where
    an even number of quotes precedes it.
    """
    block = np.frombuffer(data, dtype=np.uint8)
    quotes, feeds = np.flatnonzero(block == _QUOTE), np.flatnonzero(block == _LF)
    places = np.arange(len(feeds))
    if len(quotes):
        outside = np.searchsorted(quotes, feeds) % 2 == 0
        feeds, places = feeds[outside], places[outside]
    size = int(feeds[-1]) + 1 if len(feeds) else 0
    quotes = quotes[quotes < size]
    separators = np.flatnonzero(block[:size] == ord(delimiter))
    returns = np.flatnonzero(block[:size] == _CR)
    returns = returns[block[returns + 1] != _LF]
    if len(quotes):
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
        returns = returns[np.searchsorted(quotes, returns) % 2 == 0]
    if len(returns) or not _is_strict(block, quotes, ord(delimiter)):
        return None
    starts = np.concatenate([[0], feeds[:-1] + 1]) if size else feeds
    first = np.concatenate([[0], places[:-1] + 1]) if size else places
    cells = np.diff(np.searchsorted(separators, feeds), prepend=0) + 1
    return Records(starts, feeds, first, cells)


def _is_strict(block: npt.NDArray[np.uint8], quotes: Ints, delimiter: int) -> bool:
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening > 0, block[opening - 1], _LF)
    doubled = np.isin(opening - 1, closing, assume_unique=True)
    after = block[closing + 1]
    opens = np.isin(before, [delimiter, _LF]) | doubled
    closes = np.isin(after, [delimiter, _LF, _CR, _QUOTE])
    return bool(opens.all() and closes.all())


def _parse(
    data: bytes, delimiter: str, names: list[str], wanted: list[str]
) -> pa.RecordBatch | None:
    """The cells of strictly quoted records; those with a wrong number of cells are left out.

    None where Arrow cannot read them.
    """
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=names
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=True,
                invalid_row_handler=lambda _: "skip",
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=wanted,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    columns = [column.combine_chunks().cast(pa.string(), safe=False) for column in table.columns]
    return pa.record_batch(columns, wanted)


def _read_record(lines: list[bytes], start: int, delimiter: str) -> tuple[int, list[str], str, str]:
    """The line after a record, its cells, and the reason and detail where it is refused."""
    end = start

    def texts() -> Iterator[str]:
        nonlocal end
        while end < len(lines):
            end += 1
            yield lines[end - 1].decode("utf-8", "surrogateescape") + "\n"

    try:
        row = next(csv.reader(texts(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if end == len(lines) and "end of data" in str(error):
            return end, [], _OPEN, "a quote must be closed"
        return end, [], "invalid_csv", f"a record must be CSV: {error}"
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return end, [], "invalid_utf8", "the record must be UTF-8"
    return end, row, "", ""


def _blank(data: bytes, records: Records) -> npt.NDArray[np.bool_]:
    """Which records are empty lines: no events, but lines that count."""
    block = np.frombuffer(data, dtype=np.uint8)
    sizes = records.ends - records.starts
    return np.asarray((sizes == 0) | ((sizes == 1) & (block[records.starts] == _CR)))


def _record(data: bytes, records: Records, index: int) -> str:
    return _shown(data[records.starts[index] : records.ends[index]])


def _shown(record: bytes) -> str:
    return payload_text(record.removesuffix(b"\r"))
