"""Deduplicate, measure and aggregate: slim frames by shard -> cells.

    (shard, slim)* --GroupByKey--> passes by identity -> deduplicate -> measure -> cells

Shards are cut by customer, so their cells never overlap and one shard is the one
writer of its keys. Within a shard, copies meet by identity: where one customer is so
large that the shard would not fit in memory, it is done in several passes, each over
some of the identities, whose partial cells are merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import apache_beam as beam
import polars as pl
from apache_beam.coders import Coder, coders
from apache_beam.pvalue import TaggedOutput

from meters.deduplicate import deduplicate
from meters.measure import Cells
from meters.timeline import Timeline
from meters.versions import Measuring, measurement_of
from transforms.batches import CellsCoder
from transforms.conflicts import Conflicts
from transforms.connection import connect
from transforms.frames import Frame, passes_for, read_pass
from transforms.ingest import COUNTS
from transforms.spill import IN_MEMORY, Spill

CellKey = tuple[int, int]
"""(customer shard, family)."""


ROWS_PER_PASS = 1_500_000
"""Slim rows in memory at a time."""


@beam.typehints.with_output_types(tuple[tuple[int, int], Cells])
class AggregateShard(beam.DoFn):  # type: ignore[misc]
    """(shard, packed slim frames) -> (cell key, cells), and `Counts` under `COUNTS`."""

    def __init__(
        self, timeline: Timeline, *, tenant: str, warehouse: str, spill: Spill = IN_MEMORY
    ) -> None:
        self._timeline = timeline
        self._tenant = tenant
        self._url = warehouse
        self._spill = spill

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._url)
        self._measurement = measurement_of(self._timeline)
        self._conflicts = Conflicts(self._warehouse, self._tenant)

    def process(self, element: tuple[int, Iterable[Frame]]) -> Iterator[object]:
        """One shard: it holds all copies of its identities, and all cells of its customers."""
        shard, found = element
        frames = list(found)
        passes = passes_for(frames, ROWS_PER_PASS)
        counts: Counter[str] = Counter()
        partial: dict[int, list[Cells]] = {}
        for number in range(passes):
            slim = read_pass(frames, number, passes, self._spill.get)
            if slim.is_empty():
                continue
            for cells in self._measured(slim, counts):
                # Distinct values need no merge: the warehouse drops repetitions of them.
                if cells.values is not None:
                    values = Cells(cells.family, cells.rows.clear(), cells.values)
                    yield (shard, cells.family), values
                partial.setdefault(cells.family, []).append(replace(cells, values=None))
        yield TaggedOutput(COUNTS, dict(counts))
        for family, parts in partial.items():
            yield (shard, family), self._measurement.merge(parts)

    def _measured(self, slim: pl.DataFrame, counts: Counter[str]) -> list[Cells]:
        unique = deduplicate(slim)
        measured = self._measurement.measure(unique.events)
        counts.update(
            accepted=unique.events.height,
            duplicate=unique.duplicates,
            conflict=self._conflicts.quarantine(unique, self._timeline.everything),
            meter_errors=measured.meter_errors,
            unattributed=measured.unattributed,
        )
        return measured.cells


@beam.typehints.with_input_types(Cells)
@beam.typehints.with_output_types(Cells)
class MergeCells(beam.CombineFn):  # type: ignore[misc]
    """Merges the partial cells of one key by the columnar algebra."""

    COMPACT = 8

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._measurement: Measuring | None = None

    def setup(self) -> None:
        """Prepare the meters once a worker."""
        self._measurement = measurement_of(self._timeline)

    def _merged(self, parts: list[Cells]) -> list[Cells]:
        if self._measurement is None:
            self._measurement = measurement_of(self._timeline)
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
