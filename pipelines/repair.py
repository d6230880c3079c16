"""The repair pipeline: touched hours are recomputed from the raw events.

    shards -> raw events touched -> deduplicate, measure -> by customer -> compare
                                                                             |
                                                              changed rows, tombstones

It is the second half of a backfill: what it recomputes was touched by dirty marks or a
span instead of an input (`warehouse.touched`).
"""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from meters.timeline import Timeline
from transforms.counts import Counts, SumCounts, WriteJson
from transforms.recompute import RecomputeUsage, Run, parts

REPAIR_COUNTS = ("customers", "rows", "tombstones")


@dataclass(frozen=True)
class Repair:
    """One repair, whose hours are marked. The counts are written as JSON to `summary`."""

    timeline: Timeline
    run: Run
    summary: str

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        _ = (
            pipeline
            | "Shards" >> beam.Create(parts(self.run.shards))
            | "RecomputeUsage" >> RecomputeUsage(self.timeline, self.run)
            | "SumCounts" >> beam.CombineGlobally(SumCounts())
            | "Complete" >> beam.Map(complete)
            | "Summary" >> beam.ParDo(WriteJson(self.summary))
        )


def complete(counts: Counts) -> Counts:
    """All counts of a repair, in their order."""
    return {name: counts.get(name, 0) for name in REPAIR_COUNTS}
