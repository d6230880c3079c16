"""Counts of a run as data: they travel through the pipeline with the rows.

Metrics of a runner count attempts; a bundle that is tried again counts twice. What
a command reports flows through the pipeline instead and is exact on every runner.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

Counts = dict[str, int]

BACKFILL_COUNTS = (
    "read",
    "accepted",
    "duplicate",
    "conflict",
    "quarantined",
    "meter_errors",
    "unattributed",
    "rows",
)
"""What a backfill reports, in this order; they describe the input alone."""

ROUNDED = "rounded"
"""Numbers of the input that lost digits beyond 12 places: no count of a backfill's
result, but said where there are any."""


class SumCounts(beam.CombineFn):  # type: ignore[misc]
    """Adds up `Counts` by name."""

    def create_accumulator(self) -> Counts:
        """No counts."""
        return {}

    def add_input(self, accumulator: Counts, element: Counts) -> Counts:
        """Add one element."""
        return self.merge_accumulators([accumulator, element])

    def merge_accumulators(self, accumulators: Iterable[Counts]) -> Counts:
        """Add up by name."""
        total: Counter[str] = Counter()
        for counts in accumulators:
            total.update(counts)
        return dict(total)

    def extract_output(self, accumulator: Counts) -> Counts:
        """The sums."""
        return accumulator


class WriteJson(beam.DoFn):  # type: ignore[misc]
    """Writes its one element as a JSON file that the launching command reads."""

    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, element: object) -> None:
        """Write the file; a repetition writes the same bytes again."""
        with FileSystems.create(self._path) as file:
            file.write(json.dumps(element).encode())
