"""Where the records of CSV text are, and their cells: strictly quoted text, and any other.

Strict: a quote opens a cell only at its start, closes it only at its end, and no
carriage return stands alone. Then a line feed ends a record exactly where an even
number of quotes precedes it, which numpy finds for a whole block, and Arrow reads
the cells. Other text is read a record at a time. Both give the same cells.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as arrow_csv

Ints = npt.NDArray[np.int64]

_LF, _CR, _QUOTE = 10, 13, 34


class Records(NamedTuple):
    """The records of strict text: where each starts, and the line feed that ends it.

    `lines` are the lines they start in, from 0, `cells` their numbers of cells.
    """

    starts: Ints
    ends: Ints
    lines: Ints
    cells: Ints

    def blank(self, data: bytes) -> npt.NDArray[np.bool_]:
        """Which records are empty lines: no events, but lines that count."""
        block = np.frombuffer(data, dtype=np.uint8)
        sizes = self.ends - self.starts
        return np.asarray((sizes == 0) | ((sizes == 1) & (block[self.starts] == _CR)))

    def text(self, data: bytes, index: int) -> bytes:
        """One record as it stands, without the line feed."""
        return data[self.starts[index] : self.ends[index]]


def scan(data: bytes, delimiter: str) -> Records | None:
    """The whole records of text that starts at a record; None where it is not strict."""
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
    lines = np.concatenate([[0], places[:-1] + 1]) if size else places
    cells = np.diff(np.searchsorted(separators, feeds), prepend=0) + 1
    return Records(starts, feeds, lines, cells)


def _is_strict(block: npt.NDArray[np.uint8], quotes: Ints, delimiter: int) -> bool:
    opening, closing = quotes[0::2], quotes[1::2]
    before = np.where(opening > 0, block[opening - 1], _LF)
    after = block[closing + 1]
    opens = (before == delimiter) | (before == _LF)
    closes = (after == delimiter) | (after == _LF) | (after == _CR)
    doubled = opening[1:] == closing[:-1] + 1
    opens[1:] |= doubled
    closes[:-1] |= doubled
    return bool(opens.all() and closes.all())


def parse(
    data: bytes, delimiter: str, names: list[str], wanted: list[str]
) -> pa.RecordBatch | None:
    """The cells of strict records, all of them with as many cells as there are names.

    Strings, unchecked as UTF-8, null where a cell is empty; None where Arrow finds
    other records than `scan`.
    """
    if not data:
        return pa.record_batch([pa.nulls(0, pa.string()) for _ in wanted], wanted)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=names
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
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


class Record(NamedTuple):
    """One record and the index of the line after it, or why it is none.

    It is open where its lines end within quotes, and long where that is so because
    of the limit. Bytes that are no UTF-8 are surrogates in the cells.
    """

    end: int
    cells: list[str]
    problem: str = ""
    is_open: bool = False
    is_long: bool = False


def read_record(lines: list[bytes], start: int, delimiter: str, limit: int) -> Record:
    """The record that starts with the line `start` and has at most `limit` bytes."""
    end, size, is_long = start, 0, False

    def texts() -> Iterator[str]:
        nonlocal end, size, is_long
        while end < len(lines):
            size += len(lines[end]) + 1
            if size > limit:
                is_long = True
                return
            end += 1
            yield lines[end - 1].decode("utf-8", "surrogateescape") + "\n"

    try:
        cells = next(csv.reader(texts(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            return Record(end, [], "a quote must be closed", is_open=True, is_long=is_long)
        return Record(end, [], f"a record must be CSV: {error}")
    return Record(end, cells)
