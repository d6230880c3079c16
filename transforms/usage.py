"""Usage rows of the first run: merged cells are written as the first revision."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import apache_beam as beam
import polars as pl

from meters.measure import Cells
from meters.revisions import first_revision
from meters.timeline import Timeline
from meters.usage import usage_rows
from meters.versions import measurement_of
from transforms.aggregate import CellKey
from transforms.background import Background
from transforms.connection import connect
from transforms.counts import Counts
from warehouse.client import Warehouse
from warehouse.writes import insert_usage, insert_usage_values

GATHERED_ROWS = 500_000
"""Rows that are written at a time."""

INSERT_ROWS = 250_000
"""Rows of one insert; two run side by side, as each keeps about one processor busy."""


class CountRows(beam.DoFn):  # type: ignore[misc]
    """Merged cells -> `Counts` of the usage rows that they make."""

    def process(self, element: tuple[CellKey, Cells]) -> Iterator[Counts]:
        """Count without building the rows."""
        members = [name for name in element[1].rows.columns if name.startswith("events:")]
        filled = element[1].rows.select((pl.col(name) > 0).sum() for name in members)
        yield {"rows": sum(filled.row(0))}


class WriteFirstRevision(beam.DoFn):  # type: ignore[misc]
    """Merged cells -> usage rows at revision 1, where there was nothing before.

    Rows are written while the next shard is aggregated; the bundle ends when all are.
    """

    def __init__(self, timeline: Timeline, *, tenant: str, warehouse: str) -> None:
        self._timeline = timeline
        self._tenant = tenant
        self._url = warehouse

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect(self._url)
        self._measurement = measurement_of(self._timeline)
        self._writer = Background()
        self._waiting: list[tuple[pl.DataFrame, pl.DataFrame]] = []

    def teardown(self) -> None:
        """Stop the thread."""
        self._writer.close()

    def process(self, element: tuple[CellKey, Cells]) -> None:
        """Make and write the rows in the background."""
        self._writer.submit(lambda: self._gather(element[1]))

    def finish_bundle(self) -> None:
        """All rows are written."""
        self._writer.submit(self._flush)
        self._writer.finish()

    def _gather(self, cells: Cells) -> None:
        """Gather rows, so that many small families make few inserts."""
        rows, values = usage_rows(self._measurement, cells)
        self._waiting.append((first_revision(rows), first_revision(values)))
        if sum(rows.height + values.height for rows, values in self._waiting) >= GATHERED_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows, values = (pl.concat(frames) for frames in zip(*self._waiting, strict=True))
            self._waiting = []
            write_usage(self._warehouse, self._tenant, rows, values)


def write_usage(
    warehouse: Warehouse, tenant: str, rows: pl.DataFrame, values: pl.DataFrame
) -> None:
    """Values first: a usage row never stands without them."""
    with ThreadPoolExecutor(max_workers=2) as threads:
        for insert, frame in ((insert_usage_values, values), (insert_usage, rows)):
            parts = [part.to_arrow() for part in frame.iter_slices(INSERT_ROWS)]
            list(threads.map(partial(insert, warehouse, tenant), parts))
