"""The comparison before anything becomes final: usage against the raw events.

    shards -> raw events touched -> deduplicate, measure -> by customer -> compare
                                                                             |
                                                              differences, as lines of JSON

It is a repair that writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import msgspec

from meters.timeline import Timeline
from transforms.recompute import CompareUsage, Run, parts

_ENCODER = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class Comparison:
    """One comparison, whose hours are marked. Its results go to files that begin so."""

    timeline: Timeline
    run: Run
    results: str

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        _ = (
            pipeline
            | "Shards" >> beam.Create(parts(self.run.shards))
            | "CompareUsage" >> CompareUsage(self.timeline, self.run)
            | "ToJson" >> beam.Map(to_json).with_output_types(str)
            | "Results" >> beam.io.WriteToText(self.results)
        )


def to_json(difference: dict[str, object]) -> str:
    """A difference as a line of JSON."""
    return _ENCODER.encode(difference).decode()
