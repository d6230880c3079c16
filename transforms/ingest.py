"""Ingest: splits of files -> raw rows in the warehouse, slim columns onwards.

    split -> read -> decode -> project --> slim frames by shard of the customer
                        |         |    \\-> counts of what was read and refused
                        v         v
                     events   quarantine

Raw rows are written in the stage that reads them, before anything is shuffled, so
wide properties never travel, and all raw rows are durable before the next stage
starts. The warehouse inserts on a thread of its own while the next batch is decoded.
Threads work ahead from one split into the next: a bundle waits for them once, at its end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindows

from meters.decode import decode
from meters.mapping import Mapping
from meters.timeline import Timeline
from meters.versions import projection_of
from transforms import progress
from transforms.background import Background
from transforms.connection import connect
from transforms.counts import ROUNDED
from transforms.frames import Frame, frames_of
from transforms.raw import RawBatch, quarantined
from transforms.sources import FileSplit, read_split
from transforms.spill import IN_MEMORY, Spill
from warehouse.writes import insert_events, insert_quarantine, insert_touched

COUNTS = "counts"

INSERT_ROWS = 250_000
"""Rows of a kind gathered for one insert: few parts to merge, bounded memory."""

PREPARING = 2
"""Threads that decode and project; reading, Beam and the writer have their own."""


Keyed = tuple[int, Frame]
"""A frame with its shard."""


@dataclass(frozen=True)
class _Prepared:
    """One batch, decoded: what is stored, what is refused and what goes on."""

    read: int
    refused: int
    rounded: int
    events: pa.Table
    quarantine: pa.Table
    slim: list[Keyed]


class _Gathered:
    """Rows of one kind that wait for their insert."""

    def __init__(self, insert: Callable[[pa.Table], None]) -> None:
        self.insert = insert
        self.tables: list[pa.Table] = []

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(table.num_rows for table in self.tables)


@beam.typehints.with_output_types(tuple[int, tuple[int, int, bytes]])
class IngestSplits(beam.DoFn):  # type: ignore[misc]
    """`FileSplit` -> (shard, `transforms.frames.Frame`), and `Counts` under the tag `COUNTS`.

    Only events within [`from_us`, `to_us`) are read at all, where bounds are given.
    With `run_id` the identities are noted in the warehouse as touched by this run.
    """

    def __init__(
        self,
        timeline: Timeline,
        *,
        tenant: str,
        warehouse: str,
        mapping: Mapping,
        shards: int,
        span: tuple[int | None, int | None] = (None, None),
        run_id: str | None = None,
        spill: Spill = IN_MEMORY,
    ) -> None:
        self._spill = spill
        self._timeline = timeline
        self._tenant = tenant
        self._url = warehouse
        self._mapping = mapping
        self._shards = shards
        self._span = span
        self._run_id = run_id

    def setup(self) -> None:
        """Open the warehouse and compile the projection once a worker."""
        self._warehouse = connect(self._url)
        self._projection = projection_of(self._timeline)
        self._preparing = ThreadPoolExecutor(max_workers=PREPARING)
        self._writer = Background()

    def teardown(self) -> None:
        """Stop the threads."""
        self._preparing.shutdown(cancel_futures=True)
        self._writer.close()

    def start_bundle(self) -> None:
        """Forget what a bundle that failed has left."""
        self._counts: Counter[str] = Counter()
        self._ahead: deque[Future[_Prepared]] = deque()
        self._events = _Gathered(self._insert_events)
        self._refused = _Gathered(self._insert_refused)

    def process(self, split: FileSplit) -> Iterator[Keyed]:
        """Read one split; its last frames may come with those of later ones."""
        for batch in read_split(split, self._mapping):
            self._ahead.append(self._preparing.submit(self._prepare, batch))
            if len(self._ahead) > PREPARING:
                yield from self._take()

    def finish_bundle(self) -> Iterator[object]:
        """Nothing is passed on before all raw rows of the bundle are written."""
        while self._ahead:
            for keyed in self._take():
                yield GlobalWindows.windowed_value(keyed)
        self._flush(self._refused)
        self._flush(self._events)
        self._writer.finish()
        yield TaggedOutput(COUNTS, GlobalWindows.windowed_value(dict(self._counts)))

    def _take(self) -> list[Keyed]:
        """Count the batch that was begun first and gather it for the next inserts."""
        part = self._ahead.popleft().result()
        self._counts.update({"read": part.read, "quarantined": part.refused, ROUNDED: part.rounded})
        progress.advance("read", part.read)
        progress.advance("quarantined", part.refused)
        for gathered, table in (self._refused, part.quarantine), (self._events, part.events):
            gathered.tables.append(table)
            if gathered.rows >= INSERT_ROWS:
                self._flush(gathered)
        return part.slim

    def _prepare(self, batch: RawBatch) -> _Prepared:
        decoded = decode(batch.columns, self._tenant, batch.origin, batch.rows)
        events = self._within(decoded.events)
        outside = decoded.events.num_rows - events.num_rows
        projected = self._projection.project(events)
        refused = pa.concat_tables(
            [quarantined(batch.bad, self._tenant), decoded.quarantine, projected.broken]
        )
        return _Prepared(
            read=batch.columns.num_rows + len(batch.bad) - outside,
            refused=refused.num_rows,
            rounded=projected.rounded,
            events=projected.events,
            quarantine=pa.concat_tables([refused, projected.refused]),
            slim=frames_of(projected.slim, self._shards, self._spill),
        )

    def _within(self, events: pa.Table) -> pa.Table:
        first, last = self._span
        if first is None and last is None:
            return events
        at = events.column("timestamp").cast(pa.int64()).to_numpy()
        keep = np.ones(len(at), dtype=bool)
        if first is not None:
            keep &= at >= first
        if last is not None:
            keep &= at < last
        return events.filter(pa.array(keep)).combine_chunks()

    def _flush(self, gathered: _Gathered) -> None:
        """Write what is gathered, in the background."""
        if gathered.rows:
            rows = pa.concat_tables(gathered.tables)
            self._writer.submit(lambda: gathered.insert(rows))
        gathered.tables.clear()

    def _insert_refused(self, refused: pa.Table) -> None:
        insert_quarantine(self._warehouse, refused)

    def _insert_events(self, events: pa.Table) -> None:
        insert_events(self._warehouse, events)
        if self._run_id is not None:
            insert_touched(self._warehouse, self._tenant, self._run_id, events)
        progress.advance("stored", events.num_rows)
