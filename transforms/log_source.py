"""The local event log as the source of a stream, in place of a topic of Kafka.

    log --round by round--> Messages -> the stream's own chain -> commit

It has one split with one partition, 0, whose offsets are those of the log. What is committed
there is what a consumer group's offset is in Kafka, except that the log keeps nothing before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import apache_beam as beam
import numpy as np

from meters.errors import BeammeterError
from transforms.event_log import EventLog, LogReader
from transforms.kafka_client import KafkaSettings
from transforms.kafka_messages import Messages
from transforms.kafka_source import CONSUMERS, MOST_MESSAGES
from transforms.stream_options import StreamOptions

PARTITION = 0
_SPLIT = 0


def log_settings() -> KafkaSettings:
    """What a stream of the local log has in place of the settings of a topic."""
    return KafkaSettings(bootstrap="", topic="log://spool", group="", splits=1)


class LogConsumer:
    """How far one stream has read the log; `drained` says that nothing more will come."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.reader: LogReader = log.reader(log.committed)
        self.ticked = 0.0
        self.drained = False

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Everything before the offset is durable in the warehouse."""
        self._log.commit(offsets.get(PARTITION, 0))

    def read(self, seconds: float, flush_seconds: float) -> Messages:
        """What there is, after waiting a while for it; with a tick where one is due."""
        self._log.wait(self.reader.offset, seconds)
        frames = self.reader.read(MOST_MESSAGES)
        now = time.monotonic()
        tick = now - self.ticked >= flush_seconds
        if tick:
            self.ticked = now
        sizes = [len(frame.messages) for frame in frames]
        pairs = [pair for frame in frames for pair in frame.messages]
        end = self.reader.offset
        offsets = np.arange(end - len(pairs), end, dtype=np.int64)
        times = np.array([frame.at for frame in frames], dtype=np.int64)
        is_at_end = end >= self._log.end
        return Messages(
            split=_SPLIT,
            now=time.time_ns() // 1000,
            values=[value for _, value in pairs],
            keys=[key for key, _ in pairs],
            partitions=np.full(len(pairs), PARTITION, dtype=np.int64),
            offsets=offsets,
            recorded=np.repeat(times, np.array(sizes, dtype=np.int64)),
            next={PARTITION: end},
            at_end=frozenset({PARTITION} if is_at_end else ()),
            tick=tick,
            drained=self.drained and is_at_end,
            traced=self._log.traced(end - len(pairs), end),
        )


class _Logs:
    """The logs that this process has open, and how far each stream has read them."""

    def __init__(self) -> None:
        self._logs: dict[Path, EventLog] = {}
        self._consumers: dict[str, LogConsumer] = {}
        self._guard = threading.Lock()

    def put(self, log: EventLog) -> None:
        """Let streams of this process read it."""
        with self._guard:
            self._logs[log.folder.resolve()] = log

    def consumer(self, job: str, folder: Path) -> LogConsumer:
        """That of a stream, which begins at what is committed."""
        with self._guard:
            if job not in self._consumers:
                log = self._logs.get(folder.resolve())
                if log is None:
                    raise BeammeterError(f"{folder} must be open in this process")
                self._consumers[job] = LogConsumer(log)
            return self._consumers[job]

    def forget(self, job: str) -> None:
        """A stream has ended."""
        with self._guard:
            self._consumers.pop(job, None)


LOGS = _Logs()
"""Of this process: a log has one writer, which reads it as well."""


class ReadLogRound(beam.DoFn):  # type: ignore[misc]
    """Number of the split -> the `Messages` of one round."""

    def __init__(self, options: StreamOptions, folder: str) -> None:
        self._options = options
        self._folder = folder

    def process(self, split: int) -> Iterator[Messages]:
        """Read on from where the round before ended."""
        options = self._options
        consumer = LOGS.consumer(options.job, Path(self._folder))
        CONSUMERS.follow(options.job, split, consumer)
        until = time.monotonic() + options.bundle_seconds
        while True:
            left = max(0.0, until - time.monotonic())
            found = consumer.read(left, options.flush_seconds)
            if found.values or found.tick:
                yield found
            if not found.values or time.monotonic() >= until:
                break
