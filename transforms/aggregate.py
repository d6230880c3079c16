"""Deduplicate, measure and aggregate: slim frames by shard -> merged cells.

    (shard, slim)* --GroupByKey--> deduplicate -> measure -> cells
    cells --CombinePerKey(customer shard, family)--> one cell table, one writer

Shards are cut by identity, so copies meet and shards are even however large one
customer is; the partial cells of all shards meet again in the combine, which the
runner lifts in front of the shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import polars as pl
from apache_beam.coders import Coder, coders
from apache_beam.pvalue import TaggedOutput

from meters.catalog import Catalog
from meters.deduplicate import deduplicate
from meters.measure import Cells, Measurement
from transforms.batches import CellsCoder, unpack
from transforms.conflicts import Conflicts
from transforms.connection import connect
from transforms.ingest import COUNTS

CellKey = tuple[int, int]
"""(customer shard, family)."""


@beam.typehints.with_output_types(tuple[tuple[int, int], Cells])
class AggregateShard(beam.DoFn):  # type: ignore[misc]
    """(shard, packed slim frames) -> (cell key, partial cells), and `Counts` under `COUNTS`."""

    def __init__(self, catalog: Catalog, *, tenant: str, warehouse: str, writers: int) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse
        self._writers = writers

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._url)
        self._measurement = Measurement(self._catalog)
        self._conflicts = Conflicts(self._warehouse, self._tenant, self._catalog)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[object]:
        """One shard: it holds all copies of its identities."""
        _, packed = element
        unique = deduplicate(pl.concat([unpack(frame) for frame in packed], rechunk=False))
        measured = self._measurement.measure(unique.events)
        counts = {
            "accepted": unique.events.height,
            "duplicate": unique.duplicates,
            "conflict": self._conflicts.quarantine(unique),
            "meter_errors": measured.meter_errors,
            "unattributed": measured.unattributed,
        }
        yield TaggedOutput(COUNTS, counts)
        for cells in measured.cells:
            for shard, part in self._measurement.split(cells, self._writers):
                yield (shard, cells.family), part


@beam.typehints.with_input_types(Cells)
@beam.typehints.with_output_types(Cells)
class MergeCells(beam.CombineFn):  # type: ignore[misc]
    """Merges the partial cells of one key by the columnar algebra."""

    COMPACT = 8

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._measurement: Measurement | None = None

    def setup(self) -> None:
        """Prepare the meters once a worker."""
        self._measurement = Measurement(self._catalog)

    def _merged(self, parts: list[Cells]) -> list[Cells]:
        if self._measurement is None:
            self._measurement = Measurement(self._catalog)
        return [self._measurement.merge(parts)] if parts else []

    def create_accumulator(self) -> list[Cells]:
        """No cells."""
        return []

    def add_input(self, accumulator: list[Cells], element: Cells) -> list[Cells]:
        """Keep the part; merge once some have gathered, which costs less than each time."""
        parts = [*accumulator, element]
        return self._merged(parts) if len(parts) >= self.COMPACT else parts

    def merge_accumulators(self, accumulators: Iterable[list[Cells]]) -> list[Cells]:
        """Merge all parts at once."""
        return self._merged([part for parts in accumulators for part in parts])

    def compact(self, accumulator: list[Cells]) -> list[Cells]:
        """Merge before the shuffle."""
        return self._merged(accumulator)

    def extract_output(self, accumulator: list[Cells]) -> Cells | None:
        """The cells of the key."""
        merged = self._merged(accumulator)
        return merged[0] if merged else None

    def get_accumulator_coder(self) -> Coder:
        """A list of cell tables."""
        return coders.IterableCoder(CellsCoder())
