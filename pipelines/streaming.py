"""The streaming pipeline: events in Kafka become usage rows within seconds.

splits -> read -> ingest --by shard--> deduplicate, measure, merge -> usage
                    |                              |
      events, quarantine, dead letters    dirty, progress, ingest_stats
"""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam

from meters.timeline import Timeline
from transforms.kafka_source import Pace, ReadMessages
from transforms.log_source import ReadLogRound
from transforms.shard_stage import ShardStage
from transforms.shards_in_process import End, ShardsInProcess
from transforms.stream_ingest import IngestMessages
from transforms.stream_options import StreamOptions
from transforms.stream_rounds import ReadRound

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Streaming:
    """One stream: where it reads, for whom, and by which catalogs.

    `keyed` says that the runner keeps state, by key, beyond the life of its workers.
    """

    options: StreamOptions
    timeline: Timeline
    keyed: bool = True

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        options = self.options
        # Where a runner keeps state it is written with every batch: fewer of them, then.
        poll_seconds = None if self.keyed else _POLL_SECONDS
        read = ReadMessages(
            options.kafka,
            job=options.job,
            bundle_seconds=options.bundle_seconds,
            pace=Pace(options.flush_seconds, options.idle_seconds, poll_seconds),
        )
        stage = ShardStage if self.keyed else ShardsInProcess
        done = (
            pipeline
            | "Splits" >> beam.Create(range(options.kafka.splits))
            | "SpreadSplits" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(read)
            | "Ingest" >> beam.ParDo(IngestMessages(options, self.timeline))
            | "Shards" >> beam.ParDo(stage(options, self.timeline))
        )
        if not self.keyed:
            # Prism 2.77 spins on a core for as long as a bundle without any output runs.
            _ = done | "Outlet" >> beam.Reshuffle() | "End" >> beam.ParDo(End())


@dataclass(frozen=True)
class StreamingRound:
    """One round of a stream on a runner whose pipelines end.

    It reads Kafka, or the event log in the folder `log`, which this process has open.
    """

    options: StreamOptions
    timeline: Timeline
    log: str | None = None

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline of a round."""
        read = ReadRound(self.options)
        if self.log is not None:
            read = ReadLogRound(self.options, self.log)
        _ = (
            pipeline
            | "Splits" >> beam.Create(range(self.options.kafka.splits))
            | "Read" >> beam.ParDo(read)
            | "Ingest" >> beam.ParDo(IngestMessages(self.options, self.timeline))
            | "Shards" >> beam.ParDo(ShardsInProcess(self.options, self.timeline))
        )
