"""The stream in rounds, for a runner that only runs pipelines that end.

A round reads for a while, ingests and hands each shard what came for it. Consumers live
in this process from round to round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import apache_beam as beam

from transforms.kafka_messages import Messages
from transforms.kafka_source import CONSUMERS, Pace, read
from transforms.stream_options import StreamOptions


class ReadRound(beam.DoFn):  # type: ignore[misc]
    """Number of a split -> the `Messages` of one round."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options

    def process(self, split: int) -> Iterator[Messages]:
        """Read on from where the round before ended."""
        options = self._options
        used = CONSUMERS.resume(options.job, options.kafka, split)
        pace = Pace(options.flush_seconds, options.idle_seconds)
        until = time.monotonic() + options.bundle_seconds
        while True:
            left = max(0.0, until - time.monotonic())
            found = read(used, split, left, pace)
            if found.values or found.tick:
                yield found
            if not found.values or time.monotonic() >= until:
                break
        CONSUMERS.give_back(options.job, split, used)
