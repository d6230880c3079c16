"""Parquet files: splits by row groups, and raw columns without a Python object per row.

A row group that cannot be read costs its own rows only: what precedes it and what
follows it is read, and one `BadRow` stands for what is lost in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from meters.mapping import Mapping
from transforms.format_text import Damaged
from transforms.raw import BadRow, RawBatch
from transforms.raw_columns import Projection, plan

BATCH_ROWS = 65_536
BATCH_BYTES = 256 * 1024 * 1024
"""Rows, and bytes before compression, that are in memory at a time."""

DAMAGE = (pa.ArrowException, OSError, ValueError)
"""What pyarrow raises for bytes that are no Parquet."""


def row_groups(source: Any) -> list[int]:
    """The number of rows of each row group. Raises one of `DAMAGE`."""
    with pq.ParquetFile(source) as file:
        metadata = file.metadata
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def read_parquet(
    source: Any,
    groups: tuple[int, ...],
    mapping: Mapping,
    origin: str,
    mtime_us: int,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[RawBatch]:
    """The raw columns of some row groups, or of all where `groups` is empty."""
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
    except DAMAGE as error:
        yield _unreadable(origin, 0, error)
        return
    with file:
        names = file.schema_arrow.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            cause = ValueError(f"a column must occur once (got {', '.join(twice)} twice)")
            yield _unreadable(origin, 0, cause)
            return
        yield from _Reader(file, mapping, origin, mtime_us, batch_rows).read(groups)


class _Reader:
    def __init__(
        self, file: pq.ParquetFile, mapping: Mapping, origin: str, mtime_us: int, batch_rows: int
    ) -> None:
        self._file = file
        self._origin = origin
        self._plan = plan(file.schema_arrow, mapping)
        self._projection = Projection(self._plan, mapping, origin, mtime_us)
        sizes = [
            file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int).tolist()
        self._batch_rows = batch_rows

    def read(self, groups: tuple[int, ...]) -> Iterator[RawBatch]:
        chosen = groups or tuple(range(self._file.metadata.num_row_groups))
        if not chosen:
            return
        if chosen[0] == 0:
            self._plan.report(self._origin)
        next_row = self._starts[chosen[0]]
        end = self._starts[chosen[-1] + 1]
        try:
            for batch in self._batches(chosen):
                yield self._project(batch, next_row)
                next_row += batch.num_rows
        except Damaged:
            yield from self._salvage(chosen, next_row)
            return
        if next_row < end:
            yield _unreadable(self._origin, next_row + 1, ValueError("rows are missing"))

    def _salvage(self, groups: tuple[int, ...], next_row: int) -> Iterator[RawBatch]:
        """Read one row group at a time from the row (counted from 0) `next_row` on."""
        for group in groups:
            row = self._starts[group]
            if self._starts[group + 1] <= next_row:
                continue
            try:
                for batch in self._batches((group,)):
                    skip = max(0, next_row - row)
                    row += batch.num_rows
                    if skip < batch.num_rows:
                        yield self._project(batch.slice(skip), row - batch.num_rows + skip)
                        next_row = row
            except Damaged as error:
                yield _unreadable(self._origin, max(row, next_row) + 1, error)

    def _batches(self, groups: tuple[int, ...]) -> Iterator[pa.RecordBatch]:
        """The batches of some row groups. Raises `Damaged` where they cannot be read."""
        batches = self._file.iter_batches(
            batch_size=self._fitting_rows(groups),
            row_groups=list(groups),
            columns=self._plan.columns(),
        )
        while True:
            try:
                batch = next(batches, None)
            except DAMAGE as error:
                raise Damaged(str(error)) from None
            if batch is None:
                return
            yield batch

    def _fitting_rows(self, groups: tuple[int, ...]) -> int:
        metadata = [self._file.metadata.row_group(group) for group in groups]
        rows = sum(group.num_rows for group in metadata)
        size = sum(group.total_byte_size for group in metadata)
        fitting: int = BATCH_BYTES * rows // max(size, 1)
        return max(1, min(self._batch_rows, fitting))

    def _project(self, batch: pa.RecordBatch, first: int) -> RawBatch:
        rows = pa.array(np.arange(first + 1, first + 1 + batch.num_rows, dtype=np.int64))
        return self._projection.batch(batch, rows)


def _unreadable(origin: str, row: int, error: Exception) -> RawBatch:
    detail = f"the file cannot be read from here on: {error}" if row else f"no Parquet: {error}"
    bad = BadRow(origin, row, "unreadable_file", "", detail, "")
    return RawBatch.only_bad(origin, bad)
