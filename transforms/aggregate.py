"""Deduplicate, measure and aggregate: slim frames by shard -> cells.

    (shard, slim)* --GroupByKey--> passes by identity -> deduplicate -> measure -> cells

Shards are cut by customer, so their cells never overlap and one shard is the one
writer of its keys. Within a shard, copies meet by identity: where one customer is so
large that the shard would not fit in memory, it is done in several passes, each over
some of the identities, whose partial cells are merged.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import Coder, coders
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from meters.deduplicate import deduplicate
from meters.measure import Cells
from meters.timeline import Timeline
from meters.versions import Measuring, measurement_of
from transforms.batches import CellsCoder
from transforms.conflicts import Conflicts
from transforms.connection import connect
from transforms.counts import Counts
from transforms.frames import Frame, passes_for, read_pass
from transforms.ingest import COUNTS
from transforms.spill import IN_MEMORY, Spill

CellKey = tuple[int, int]
"""(customer shard, family)."""

ROWS_PER_PASS = 750_000
"""Slim rows of one pass."""

TOGETHER = 2
"""Passes that are measured at a time: much of the work of one keeps one processor busy."""


@dataclass
class _Shard:
    """What is known of a shard whose passes come one after the other."""

    number: int
    left: int
    """Passes whose outputs are still to come."""
    counts: Counter[str] = field(default_factory=Counter)
    partial: dict[int, list[Cells]] = field(default_factory=dict)


@beam.typehints.with_output_types(tuple[tuple[int, int], Cells])
class AggregateShard(beam.DoFn):  # type: ignore[misc]
    """(shard, `transforms.frames.Frame`s) -> (cell key, cells), and `Counts` under `COUNTS`.

    A shard's last outputs may come with those of later shards, or at the bundle's end.
    """

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
        self._threads = ThreadPoolExecutor(max_workers=TOGETHER)
        self._pending: deque[tuple[_Shard, Future[tuple[list[Cells], Counts]]]] = deque()

    def teardown(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(cancel_futures=True)

    def start_bundle(self) -> None:
        """Forget what a bundle that failed has left."""
        self._pending.clear()
        # What ingest has freed would stay for some seconds, and most of what comes is polars'.
        pa.default_memory_pool().release_unused()

    def process(self, element: tuple[int, Iterable[Frame]]) -> Iterator[object]:
        """One shard: it holds all copies of its identities, and all cells of its customers."""
        number, found = element
        frames = list(found)
        passes = passes_for(frames, ROWS_PER_PASS)
        shard = _Shard(number, passes)
        for part in range(passes):
            work = self._threads.submit(self._measure, frames, part, passes)
            self._pending.append((shard, work))
            if len(self._pending) > TOGETHER:
                yield from self._emit()

    def finish_bundle(self) -> Iterator[object]:
        """What is still being measured."""
        while self._pending:
            for output in self._emit():
                if isinstance(output, TaggedOutput):
                    value = GlobalWindows.windowed_value(output.value)
                    yield TaggedOutput(output.tag, value)
                else:
                    yield GlobalWindows.windowed_value(output)

    def _emit(self) -> Iterator[object]:
        """The outputs of the pass that was begun first."""
        shard, work = self._pending.popleft()
        measured, counts = work.result()
        for cells in measured:
            # Distinct values need no merge: the warehouse drops repetitions of them.
            if cells.values is not None:
                values = Cells(cells.family, cells.rows.clear(), cells.values)
                yield (shard.number, cells.family), values
            shard.partial.setdefault(cells.family, []).append(replace(cells, values=None))
        shard.counts.update(counts)
        shard.left -= 1
        if not shard.left:
            yield TaggedOutput(COUNTS, dict(shard.counts))
            for family, parts in shard.partial.items():
                yield (shard.number, family), self._measurement.merge(parts)

    def _measure(self, frames: list[Frame], part: int, passes: int) -> tuple[list[Cells], Counts]:
        slim = read_pass(frames, part, passes, self._spill.get)
        if slim.is_empty():
            return [], {}
        unique = deduplicate(slim)
        del slim
        measured = self._measurement.measure(unique.events)
        counts = {
            "accepted": unique.events.height,
            "duplicate": unique.duplicates,
            "conflict": self._conflicts.quarantine(unique, self._timeline.everything),
            "meter_errors": measured.meter_errors,
            "unattributed": measured.unattributed,
        }
        return measured.cells, counts


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
