"""The stream in rounds, for a runner that only runs pipelines that end.

A round reads for a while, ingests and hands each shard what came for it. Consumers and
shards live in this process from round to round; there is no keyed state, so a start
loads the shards from the raw events.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import apache_beam as beam

from meters.timeline import Timeline
from transforms.connection import connect_patiently
from transforms.deliveries import decode
from transforms.kafka_messages import Messages
from transforms.kafka_source import CONSUMERS, read
from transforms.shard_flush import ShardWork
from transforms.shard_memory import MEMORY
from transforms.stream_options import StreamOptions

_NONCE = b"round"


class ReadRound(beam.DoFn):  # type: ignore[misc]
    """Number of a split -> the `Messages` of one round."""

    def __init__(self, options: StreamOptions) -> None:
        self._options = options

    def process(self, split: int) -> Iterator[Messages]:
        """Read on from where the round before ended."""
        options = self._options
        used = CONSUMERS.resume(options.job, options.kafka, split)
        until = time.monotonic() + options.bundle_seconds
        while True:
            found = read(used, split, options.flush_seconds, options.idle_seconds)
            if found.values or found.tick:
                yield found
            if not found.values or time.monotonic() >= until:
                break
        CONSUMERS.give_back(options.job, split, used)


class ShardRound(beam.DoFn):  # type: ignore[misc]
    """(shard, encoded deliveries of one round) -> nothing."""

    def __init__(self, options: StreamOptions, timeline: Timeline) -> None:
        self._options = options
        self._timeline = timeline

    def setup(self) -> None:
        """Open the warehouse once a round."""
        warehouse = connect_patiently(self._options.warehouse)
        self._work = ShardWork(warehouse, self._options, self._timeline)

    def process(self, element: tuple[int, Iterable[bytes]]) -> None:
        """Take the deliveries in, in the order in which they were made."""
        number, encoded = element
        work, job = self._work, self._options.job
        shard = MEMORY.take(job, number, _NONCE) or work.load(number)
        for delivery in sorted(map(decode, encoded), key=lambda found: found.sent):
            if shard.released and (delivery.frames or not delivery.drained):
                shard = work.load(number, shard.state.closed_until)
            if work.receive(shard, delivery):
                work.flush(number, shard, delivery.splits)
        MEMORY.put(job, number, _NONCE, shard)
