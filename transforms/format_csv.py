"""CSV and tab-separated files as RFC 4180 has them, the first record naming the columns.

    blocks -> strictly quoted? -> yes: numpy and Arrow, a block at a time
                               -> no:  the csv module, a record at a time

A record has the number of its first line. All cells are text, and an empty cell is
a missing value. A quote inside an unquoted cell is taken as it stands; text after a
closing quote, a bare carriage return and a wrong number of cells each refuse the
record. A quote that is not closed before the file ends, or within `MAX_ROW` bytes,
refuses the line that opens it, and reading goes on with the next line.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from meters.mapping import Mapping
from transforms.csv_records import Ints, Record, Records, parse, read_record, scan
from transforms.format_text import BLOCK, Damaged, Oversized
from transforms.raw import MAX_PAYLOAD, MAX_ROW, BadRow, RawBatch, payload_text
from transforms.raw_columns import Projection, plan
from transforms.raw_rows import Payload

# The default of 128 KiB is less than what a row may have.
csv.field_size_limit(max(csv.field_size_limit(), 2 * MAX_ROW))

Taking = Generator[RawBatch, None, bytes]
"""Gives batches, and returns the bytes that are no whole record yet."""


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
    """Takes the text of one file in pieces and gives the records in them."""

    def __init__(self, delimiter: str, mapping: Mapping, origin: str, mtime_us: int) -> None:
        self._delimiter = delimiter
        self._mapping = mapping
        self._origin = origin
        self._mtime_us = mtime_us
        self._header: _Header | None = None
        self._is_refused = False
        self._line = 1
        self._long: Oversized | None = None

    def take(self, data: bytes, *, final: bool) -> Taking:
        """Read the whole records of `data`, which starts where the last piece's rest did."""
        if self._long is not None:
            data = yield from self._take_long(self._long, data, final=final)
        if final and data and not data.endswith(b"\n"):
            data += b"\n"
        if self._header is None and not self._is_refused:
            data = yield from self._take_header(data, final=final)
        if self._is_refused:
            return b""
        if self._header is None or not data:
            return data
        records = scan(data, self._delimiter)
        if records is None:
            return (yield from self._slowly(self._header, data, final=final))
        if len(records.ends):
            end = int(records.ends[-1]) + 1
            yield from self._fast(self._header, data[:end], records)
            data = data[end:]
        if data and (final or len(data) > MAX_ROW):
            return (yield from self._slowly(self._header, data, final=final))
        return data

    def broken(self, cause: str, rest: bytes) -> RawBatch:
        """What stands for the rows that cannot be read."""
        shown = payload_text(self._long.start if self._long else rest)
        return RawBatch.only_bad(
            self._origin, self._bad(self._line, "unreadable_file", cause, shown)
        )

    def _take_long(self, long: Oversized, data: bytes, *, final: bool) -> Taking:
        """The bytes after a line that is too long."""
        end = data.find(b"\n")
        long = long._replace(size=long.size + (len(data) if end < 0 else end))
        self._long = long if end < 0 and not final else None
        if self._long is not None:
            return b""
        yield RawBatch.only_bad(self._origin, self._too_large(self._line, long.start, long.size))
        self._line += 1
        return b"" if end < 0 else data[end + 1 :]

    def _take_header(self, data: bytes, *, final: bool) -> Taking:
        """The bytes after the header, or all of them where it is not whole yet."""
        quotes, end = 0, -1
        while True:
            start, end = end + 1, data.find(b"\n", end + 1)
            size = len(data) if end < 0 else end
            if size > MAX_ROW or (end < 0 and final and data.strip()):
                yield self._refuse_file("it does not end", data[:MAX_PAYLOAD])
            if end < 0 or self._is_refused:
                return data
            quotes += data.count(b'"', start, end)
            if quotes % 2 == 0 and data[:end].strip():
                break
        text = data[:end].strip(b"\r\n")
        try:
            self._header = self._read_header(text)
        except (ValueError, csv.Error) as error:
            yield self._refuse_file(str(error), text)
        self._line += data.count(b"\n", 0, end + 1)
        return data[end + 1 :]

    def _refuse_file(self, cause: str, header: bytes) -> RawBatch:
        self._is_refused = True
        detail = f"the header cannot be read: {cause}"
        bad = self._bad(self._line, "unreadable_file", detail, payload_text(header))
        return RawBatch.only_bad(self._origin, bad)

    def _read_header(self, text: bytes) -> _Header:
        lines = text.decode().splitlines(keepends=True)
        names = next(csv.reader(lines, delimiter=self._delimiter, strict=True))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a column must occur once (got {', '.join(twice)} twice)")
        found = plan(pa.schema([(name, pa.string()) for name in names]), self._mapping)
        found.report(self._origin)
        projection = Projection(found, self._mapping, self._origin, self._mtime_us)
        return _Header(names, found.columns() or names, projection)

    def _fast(self, header: _Header, data: bytes, records: Records) -> Iterator[RawBatch]:
        blank = records.blank(data)
        right = records.cells == len(header.names)
        good, bad = np.flatnonzero(right & ~blank), np.flatnonzero(~right & ~blank)
        whole = data
        if len(good) < len(records.ends):
            spans = zip(records.starts[good], records.ends[good], strict=True)
            whole = b"".join(data[start : end + 1] for start, end in spans)
        batch = parse(whole, self._delimiter, header.names, header.columns)
        longest = int((records.ends - records.starts).max())
        if batch is None or batch.num_rows != len(good) or longest >= MAX_ROW:
            yield from self._slowly(header, data, final=True)
            return
        refused = [
            self._wrong_cells(
                header,
                self._line + int(records.lines[index]),
                int(records.cells[index]),
                _shown(records.text(data, int(index))),
            )
            for index in bad
        ]
        yield self._project(
            header,
            batch,
            records.lines[good],
            lambda index: _shown(records.text(data, int(good[index]))),
            refused,
        )
        self._line += data.count(b"\n")

    def _slowly(self, header: _Header, data: bytes, *, final: bool) -> Taking:
        """Read record by record, for quotes that are not where they should be."""
        lines = data.split(b"\n")
        rest = lines.pop()
        cells: list[list[str | None]] = []
        spans: list[tuple[int, int]] = []
        refused: list[BadRow] = []
        start, left = 0, len(data)
        while start < len(lines):
            line, end = self._line + start, start + 1
            if len(lines[start]) >= MAX_ROW:
                refused.append(self._too_large(line, lines[start], len(lines[start])))
            else:
                record = read_record(lines, start, self._delimiter, MAX_ROW)
                if record.is_open and not (final or record.is_long or left > MAX_ROW):
                    break
                end = end if record.is_open else record.end
                bad = self._refusal(header, record, line, b"\n".join(lines[start:end]))
                if bad is not None:
                    refused.append(bad)
                elif record.cells:
                    cells.append([cell or None for cell in record.cells])
                    spans.append((start, end))
            left -= sum(map(len, lines[start:end])) + end - start
            start = end
        columns = [
            pa.array([row[place] for row in cells], pa.string())
            for place in range(len(header.names))
        ]
        yield self._project(
            header,
            pa.record_batch(columns, header.names).select(header.columns),
            np.array([first for first, _ in spans], dtype=np.int64),
            lambda index: _shown(b"\n".join(lines[slice(*spans[index])])),
            refused,
        )
        self._line += start
        if start == len(lines) and len(rest) >= MAX_ROW:
            self._long, rest = Oversized(0, rest[: MAX_PAYLOAD + 4], len(rest)), b""
        return b"\n".join([*lines[start:], rest])

    def _project(
        self,
        header: _Header,
        batch: pa.RecordBatch,
        places: Ints,
        payload: Payload,
        refused: list[BadRow],
    ) -> RawBatch:
        """The raw columns of records that start `places` lines after the current one."""
        found = header.projection.batch(batch, pa.array(self._line + places), payload)
        found.bad.extend(refused)
        return found

    def _refusal(self, header: _Header, record: Record, line: int, text: bytes) -> BadRow | None:
        if record.problem:
            return self._bad(line, "invalid_csv", record.problem, _shown(text))
        if record.cells and len(record.cells) != len(header.names):
            return self._wrong_cells(header, line, len(record.cells), _shown(text))
        try:
            "".join(record.cells).encode()
        except UnicodeEncodeError:
            return self._bad(line, "invalid_utf8", "the record must be UTF-8", _shown(text))
        return None

    def _wrong_cells(self, header: _Header, line: int, cells: int, payload: str) -> BadRow:
        detail = f"a record must have {len(header.names)} cells (got {cells})"
        return self._bad(line, "invalid_csv", detail, payload)

    def _too_large(self, line: int, start: bytes, size: int) -> BadRow:
        detail = f"a line must have fewer than {MAX_ROW} bytes (got {size})"
        return self._bad(line, "too_large", detail, payload_text(start, size))

    def _bad(self, line: int, reason: str, detail: str, payload: str) -> BadRow:
        return BadRow(self._origin, line, reason, "", detail, payload)


def _shown(record: bytes) -> str:
    return payload_text(record.removesuffix(b"\r"))
