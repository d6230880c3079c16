"""The Kafka source: a splittable DoFn over splits of a topic, batches onwards.

    split number -> (position) --poll, claim--> Messages ... -> defer the rest

Beam's `UnboundedSource` is not used, for three reasons found in its 2.77 wrapper: its
progress is undefined until an output was sampled, which fails the job where a runner
asks for a split that early; its reader cache misses on Flink, where each bundle would
build a new consumer; and it swallows what `split` raises. Here progress is always a
number, and consumers live in the process, across bundles.

The position (the next offset of each partition) is the restriction: what a checkpoint
keeps. Offsets are committed to the consumer group by the ingest stage, as soon as the
raw rows before them are durable; Beam's bundle finalization is not used, as Prism ends
the job when it asks to finalize a bundle from which all elements were split off. A tick
goes out at each flush interval, with messages or without.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
from apache_beam.coders import Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from confluent_kafka import Message

from transforms.kafka_client import Int64s, KafkaSettings, SplitConsumer, places
from transforms.kafka_messages import TRACED, Messages
from warehouse.tracing import MOST_LINKS, TRACED_LENGTH, Traced, is_on

MOST_MESSAGES = 25_000
"""Messages of one poll, which become one batch."""

_IDLE_PAUSE = 0.1


@dataclass(frozen=True)
class Position:
    """The next offset of each partition; empty before the first poll."""

    offsets: tuple[tuple[int, int], ...] = ()


class PositionCoder(Coder):  # type: ignore[misc]
    """A position as JSON."""

    def encode(self, value: Position) -> bytes:
        """The pairs."""
        return json.dumps(value.offsets).encode()

    def decode(self, encoded: bytes) -> Position:
        """The position."""
        return Position(tuple((p, at) for p, at in json.loads(encoded)))

    def is_deterministic(self) -> bool:
        """Pairs are sorted by partition."""
        return True


class PositionTracker(RestrictionTracker):  # type: ignore[misc]
    """Claims positions in order; can be cut only behind what is claimed."""

    def __init__(self, start: Position) -> None:
        self._start = start
        self._claimed = start
        self._cut = False

    def current_restriction(self) -> Position:
        """Where this bundle began."""
        return self._start

    def try_claim(self, position: Position) -> bool:
        """Whether messages up to `position` may be given out."""
        if self._cut:
            return False
        self._claimed = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Position, Position] | None:
        """Leave everything behind the claimed position to a later bundle."""
        if fraction_of_remainder != 0 or self._cut:
            return None
        self._cut = True
        return self._start, self._claimed

    def check_done(self) -> None:
        """A stream never ends by itself. Raises ValueError where nothing was deferred."""
        if not self._cut:
            raise ValueError("a split must defer what it has not read")

    def current_progress(self) -> RestrictionProgress:
        """Always a number, as the rest has no end."""
        return RestrictionProgress(fraction=0.0)

    def is_bounded(self) -> bool:
        """Kafka has no end."""
        return False


class _Positions(RestrictionProvider):  # type: ignore[misc]
    def initial_restriction(self, _element: int) -> Position:
        return Position()

    def create_tracker(self, restriction: Position) -> PositionTracker:
        return PositionTracker(restriction)

    def restriction_size(self, _element: int, _restriction: Position) -> int:
        return 1

    def restriction_coder(self) -> Coder:
        return PositionCoder()

    def truncate(self, _element: int, _restriction: Position) -> None:
        return None


_POSITIONS = _Positions()


@dataclass
class _Open:
    """A consumer and what its split remembers between bundles."""

    consumer: SplitConsumer
    busy: float
    ticked: float = 0.0
    polled: float = 0.0


@dataclass(frozen=True)
class Pace:
    """How often a split does things, in seconds.

    It ticks each `flush_seconds`, and is drained once it was idle for `idle_seconds` (None:
    never). It takes what there is at most each `poll_seconds`, or a full batch at once; None:
    a poll waits for a full batch for as long as it may.
    """

    flush_seconds: float
    idle_seconds: float | None
    poll_seconds: float | None = None


class Committed(Protocol):
    """What can be told that everything before some offsets is durable."""

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Offsets by partition."""


class _Consumers:
    """The consumers of this process."""

    def __init__(self) -> None:
        self._idle: dict[tuple[str, int], _Open] = {}
        self._last: dict[tuple[str, int], Committed] = {}
        self._guard = threading.Lock()

    def take(self, job: str, settings: KafkaSettings, split: int, position: Position) -> _Open:
        """A consumer of the split that reads on from `position`."""
        with self._guard:
            found = self._idle.pop((job, split), None)
        if found is None:
            now = time.monotonic()
            found = _Open(SplitConsumer(settings, split), busy=now)
            found.consumer.start(dict(position.offsets))
        elif tuple(sorted(found.consumer.next.items())) != position.offsets:
            found.consumer.start(dict(position.offsets))
        return found

    def resume(self, job: str, settings: KafkaSettings, split: int) -> _Open:
        """The consumer of the split where it stands, or one that starts where it should."""
        with self._guard:
            found = self._idle.pop((job, split), None)
        if found is None:
            now = time.monotonic()
            found = _Open(SplitConsumer(settings, split), busy=now)
            found.consumer.start({})
        return found

    def give_back(self, job: str, split: int, used: _Open) -> None:
        """Keep the consumer for the next bundle of its split."""
        with self._guard:
            other = self._idle.pop((job, split), None)
            self._idle[job, split] = used
            self._last[job, split] = used.consumer
        if other is not None:
            other.consumer.close()

    def follow(self, job: str, split: int, consumer: Committed) -> None:
        """Let `commit` reach what reads a split, where that is no topic of Kafka."""
        with self._guard:
            self._last[job, split] = consumer

    def commit(self, job: str, split: int, offsets: dict[int, int]) -> None:
        """Tell the consumer group that everything before these offsets is durable."""
        with self._guard:
            found = self._last.get((job, split))
        if found is not None:
            found.commit(offsets)

    def close(self, job: str) -> None:
        """Close all consumers of a job that has ended."""
        with self._guard:
            for key in [key for key in self._last if key[0] == job]:
                del self._last[key]
            closed = [key for key in self._idle if key[0] == job]
            found = [self._idle.pop(key) for key in closed]
        for each in found:
            each.consumer.close()


CONSUMERS = _Consumers()
"""Of this process; DoFn instances come and go."""


class ReadMessages(beam.DoFn):  # type: ignore[misc]
    """Number of a split -> `Messages`, without end.

    A bundle ends after `bundle_seconds`, or once a poll has taken all there was. With
    `idle_seconds`, ticks say `drained` once the split was at the end of all its partitions
    for that long.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        job: str,
        bundle_seconds: float,
        pace: Pace,
    ) -> None:
        self._settings = settings
        self._job = job
        self._bundle_seconds = bundle_seconds
        self._pace = pace

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        split: int,
        tracker: Any = beam.DoFn.RestrictionParam(_POSITIONS),
    ) -> Iterator[TimestampedValue]:
        """Read for a while, then leave the rest to a later bundle."""
        position = tracker.current_restriction()
        used = CONSUMERS.take(self._job, self._settings, split, position)
        until = time.monotonic() + self._bundle_seconds
        try:
            while True:
                left = max(0.0, until - time.monotonic())
                found = read(used, split, left, self._pace)
                position = Position(tuple(sorted(used.consumer.next.items())))
                if not tracker.try_claim(position):
                    break
                if found.values or found.tick:
                    # Runners that sort by time keep the order in which it was read.
                    yield TimestampedValue(found, Timestamp(micros=found.now))
                idle = not found.values and used.consumer.is_at_end
                if len(found.values) < MOST_MESSAGES or time.monotonic() >= until:
                    tracker.defer_remainder(Duration(seconds=_IDLE_PAUSE if idle else 0))
                    break
        finally:
            CONSUMERS.give_back(self._job, split, used)


def read(used: _Open, split: int, timeout: float, pace: Pace) -> Messages:
    """What there is to read, after at most `timeout`, with a tick where one is due.

    A split that has little to read waits for what comes: each batch has costs of its own.
    """
    began = time.monotonic()
    rest = timeout
    if pace.poll_seconds is not None:
        rest = min(timeout, max(0.0, used.polled + pace.poll_seconds - began))
    messages = used.consumer.poll(MOST_MESSAGES, rest)
    while not messages and (left := began + timeout - time.monotonic()) > 0:
        messages = used.consumer.poll(1, left)
        if messages:
            messages += used.consumer.poll(MOST_MESSAGES - 1, 0)
    now = used.polled = time.monotonic()
    if messages or not used.consumer.is_at_end:
        used.busy = now
    tick = now - used.ticked >= pace.flush_seconds
    if tick:
        used.ticked = now
    partitions, offsets = places(messages)
    return Messages(
        split=split,
        now=time.time_ns() // 1000,
        values=list(map(Message.value, messages)),
        keys=list(map(Message.key, messages)),
        partitions=partitions,
        offsets=offsets,
        recorded=_recorded(messages),
        next=dict(used.consumer.next),
        at_end=frozenset(used.consumer.at_end),
        tick=tick,
        drained=pace.idle_seconds is not None and now - used.busy >= pace.idle_seconds,
        behind=len(messages) >= MOST_MESSAGES,
        traced=_traced(messages) if is_on() else (),
    )


def _traced(messages: list[Message]) -> tuple[Traced, ...]:
    """The spans of the requests that brought these, the first of many."""
    found = [
        value.decode("latin-1")
        for message in messages
        for name, value in list[Any](message.headers() or ())
        if name == TRACED and isinstance(value, bytes) and len(value) == TRACED_LENGTH
    ]
    return tuple(dict.fromkeys(found))[:MOST_LINKS]


def _recorded(messages: list[Message]) -> Int64s:
    """Record times in microseconds; a message without one was recorded now."""
    times = map(itemgetter(1), map(Message.timestamp, messages))
    milliseconds = np.fromiter(times, np.int64, len(messages))
    return np.where(milliseconds < 0, time.time_ns() // 1_000_000, milliseconds) * 1000
