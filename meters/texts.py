"""Texts of columns: as Python bytes, a few at a time, and without what they were cut from.

Parsing and hashing look at every text by itself. As a list of its own a batch of them
would not fit into the processor's cache, and its memory would be taken and given back
each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import pyarrow as pa

AT_ONCE = 256


def pieces(texts: pa.StringArray) -> Iterator[list[bytes]]:
    """The UTF-8 of a column without nulls, at most `AT_ONCE` texts in each list."""
    raw = texts.cast(pa.binary())
    for start in range(0, len(raw), AT_ONCE):
        yield raw.slice(start, AT_ONCE).to_numpy(zero_copy_only=False).tolist()


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def compact(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with texts of its own.

    Rows that polars picks out of a frame keep all of its texts in memory: a cell with
    the id of one event would hold those of a million. Arrow's plain strings do not.
    """
    return pl.DataFrame(frame.to_arrow())
