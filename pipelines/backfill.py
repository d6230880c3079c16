"""The backfill pipeline: files in object storage become usage rows.

    splits -> ingest -> by customer -> deduplicate, measure -> usage
                 |                                   |
          events, quarantine                       counts

Where the warehouse holds no events of the tenant, the input alone decides. Elsewhere
its counts still do, but usage is recomputed from all raw events: every copy of every
event in each bucket that the run touched.

    ingest (done) -> shards -> raw events touched -> deduplicate, measure
                            -> by customer -> compare -> changed rows, tombstones
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.pvalue import AsIter, PCollection

from meters.catalog import Catalog
from meters.mapping import Mapping
from meters.timeline import Timeline
from transforms.aggregate import AggregateShard
from transforms.counts import BACKFILL_COUNTS, ROUNDED, Counts, SumCounts, WriteJson
from transforms.ingest import COUNTS, IngestSplits
from transforms.owned import FindOwnedEvents
from transforms.recompute import MarkTouchedHours, RecomputeUsage, Run
from transforms.sources import FileSplit
from transforms.spill import Spill
from transforms.usage import CountRows, WriteFirstRevision
from warehouse.ownership import Owners

ROWS_PER_SHARD = 1_000_000
BYTES_PER_ROW = 64
"""A low guess for compressed files, so that shards become smaller rather than larger."""
MAX_SHARDS = 256


def shards_for(rows: int) -> int:
    """So many shards that one of about `rows` events fits well in memory."""
    return max(1, min(MAX_SHARDS, -(-rows // ROWS_PER_SHARD)))


def writers_for(shards: int, catalog: Catalog) -> int:
    """So many shards of customers."""
    return max(1, min(shards, len(catalog.customers)))


@dataclass(frozen=True)
class Backfill:
    """One run: what is read, for whom, and where it goes.

    `span` selects by timestamp in microseconds, half-open. `run_id` is given where
    the warehouse already holds events of the tenant. `spill` is a folder for what is
    shuffled, where the runner would keep that in memory. The counts are written as JSON
    to `summary`.
    """

    splits: Sequence[FileSplit]
    timeline: Timeline
    tenant: str
    warehouse: str
    mapping: Mapping
    summary: str
    span: tuple[int | None, int | None] = (None, None)
    run_id: str | None = None
    spill: str | None = None

    @property
    def shards(self) -> int:
        """How many shards, by a guess of the rows from the size of the files."""
        return shards_for(sum(split.size for split in self.splits) // BYTES_PER_ROW)

    @property
    def writers(self) -> int:
        """How many shards by customer for the usage that is written.

        As many as shards, since usage grows with the events.
        """
        return writers_for(self.shards, self.timeline.everything)

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        to = {"tenant": self.tenant, "warehouse": self.warehouse}
        ingest = IngestSplits(
            self.timeline,
            mapping=self.mapping,
            shards=self.shards,
            span=self.span,
            run_id=self.run_id,
            spill=Spill(self.spill),
            **to,
        )
        ingested = (
            pipeline
            | "Splits" >> beam.Create(list(self.splits))
            | "SpreadSplits" >> beam.Reshuffle()
            | "Ingest" >> beam.ParDo(ingest).with_outputs(COUNTS, main="slim")
        )
        aggregated = (
            ingested.slim
            | "ByCustomer" >> beam.GroupByKey()
            | "Aggregate"
            >> beam.ParDo(
                AggregateShard(self.timeline, spill=Spill(self.spill), **to)
            ).with_outputs(COUNTS, main="cells")
        )
        cells = aggregated.cells
        counted = cells | "CountRows" >> beam.ParDo(CountRows())
        if self.run_id is None:
            _ = cells | "Write" >> beam.ParDo(WriteFirstRevision(self.timeline, **to))
        else:
            self._recompute(pipeline, ingested[COUNTS], self.run_id)
        _ = (
            (ingested[COUNTS], aggregated[COUNTS], counted)
            | "AllCounts" >> beam.Flatten()
            | "SumCounts" >> beam.CombineGlobally(SumCounts())
            | "Complete" >> beam.Map(complete)
            | "Summary" >> beam.ParDo(WriteJson(self.summary))
        )

    def _recompute(self, pipeline: beam.Pipeline, ready: PCollection, run_id: str) -> None:
        run = Run(self.tenant, self.warehouse, run_id, self.shards, self.writers)
        _ = (
            pipeline
            | "Ready" >> beam.Create([None])
            | "MarkTouchedHours" >> beam.ParDo(MarkTouchedHours(self.timeline, run), AsIter(ready))
            | "RecomputeUsage" >> RecomputeUsage(self.timeline, run)
        )


@dataclass(frozen=True)
class FindOwned:
    """Looks for events that a backfill must refuse, and writes nothing but `summary`.

    That is a JSON list of `transforms.owned.Found`, at most one for each split.
    """

    splits: Sequence[FileSplit]
    catalog: Catalog
    owners: Owners
    mapping: Mapping
    span: tuple[int | None, int | None]
    summary: str

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        find = FindOwnedEvents(self.catalog, self.owners, mapping=self.mapping, span=self.span)
        _ = (
            pipeline
            | "Splits" >> beam.Create(list(self.splits))
            | "SpreadSplits" >> beam.Reshuffle()
            | "FindOwned" >> beam.ParDo(find)
            | "All" >> beam.combiners.ToList()
            | "Summary" >> beam.ParDo(WriteJson(self.summary))
        )


def complete(counts: Counts) -> Counts:
    """All counts of a backfill, in their order, and `ROUNDED` where there were any."""
    found = {name: counts.get(name, 0) for name in BACKFILL_COUNTS}
    return {**found, ROUNDED: counts[ROUNDED]} if counts.get(ROUNDED) else found
