"""How Kafka is reached: the settings of a stream, and the consumer of one split.

A split owns the partitions p with p mod N = i, also those that are added while it
runs. Its consumer is assigned to them by hand, so there is no rebalancing; the consumer
group only keeps the committed offsets, where the usual lag tools look for them.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from meters.errors import BeammeterError, ConfigurationError, Rejected
from meters.timestamps import parse_timestamp
from meters.zones import microseconds

Int64s = npt.NDArray[np.int64]

_LOG = logging.getLogger(__name__)

_TIMEOUT = 10.0
_DISCOVERY_SECONDS = 30.0
_OUTAGE_SECONDS = 30.0
_PAUSE = 0.5
_COMING_BACK = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_OURS = {"bootstrap.servers", "group.id", "enable.auto.commit", "auto.offset.reset"}


@dataclass(frozen=True)
class KafkaSettings:
    """Where the events are; secrets stay in the file at `properties`.

    `start` is where a consumer group without offsets begins: `earliest`, `latest`, a
    time in microseconds, or an offset for each partition.
    """

    bootstrap: str
    topic: str
    group: str
    splits: int
    start: str | int | tuple[tuple[int, int], ...] = "earliest"
    properties: str | None = None

    def client(self) -> dict[str, str]:
        """The configuration of any client of this Kafka."""
        given = read_properties(self.properties) if self.properties else {}
        return {**given, "bootstrap.servers": self.bootstrap}


def group_of(tenant: str) -> str:
    """The consumer group of a tenant's stream where none is given."""
    return f"beammeter-{tenant}"


def read_properties(path: str) -> dict[str, str]:
    """The settings of librdkafka in a file of `name=value` lines.

    `${NAME}` stands for a variable of the environment. Raises ConfigurationError.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--kafka-properties must be a readable file ({error})") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#!":
            continue
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name:
            raise ConfigurationError(f"{path}:{number}: a line must be name=value")
        if name in _OURS:
            raise ConfigurationError(f"{path}:{number}: {name} is set by the command itself")
        found[name] = _VARIABLE.sub(lambda match: _variable(match[1], path), value)
    return found


def _variable(name: str, path: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigurationError(f"{path}: ${{{name}}} must be set in the environment")
    return value


def parse_start(text: str) -> str | int | tuple[tuple[int, int], ...]:
    """`--start`: `earliest`, `latest`, a time, or `PARTITION:OFFSET,...`."""
    if text in ("earliest", "latest"):
        return text
    with suppress(Rejected):
        return microseconds(parse_timestamp(text))
    pairs = []
    for pair in text.split(","):
        match = re.fullmatch(r"([0-9]+):([0-9]+)", pair.strip())
        if match is None:
            raise ConfigurationError(
                "--start must be earliest, latest, an RFC 3339 time or PARTITION:OFFSET,... "
                f"(got {text!r})"
            )
        pairs.append((int(match[1]), int(match[2])))
    return tuple(pairs)


def check_topic(settings: KafkaSettings) -> int:
    """How many partitions the topic has.

    Raises BeammeterError where no broker answers, ConfigurationError where there is no
    such topic: before anything is launched.
    """
    consumer = _consumer(settings)
    try:
        found = consumer.list_topics(settings.topic, timeout=_TIMEOUT).topics[settings.topic]
    except KafkaException as error:
        raise BeammeterError(
            f"Kafka at {settings.bootstrap} must answer (got: {error.args[0].str()})"
        ) from None
    finally:
        consumer.close()
    if found.error is not None:
        raise ConfigurationError(
            f"--topic must be a topic of {settings.bootstrap} "
            f"(got {settings.topic!r}: {found.error.str()})"
        )
    return len(found.partitions)


@dataclass(frozen=True)
class Waiting:
    """What a stream has not read: how many events (messages), and whether any of them has
    waited for too long already.
    """

    events: int
    overdue: bool = False


def lag(settings: KafkaSettings) -> int:
    """How many messages behind the ends of all partitions the consumer group is."""
    return waiting(settings).events


def waiting(settings: KafkaSettings, before: datetime | None = None) -> Waiting:
    """What the consumer group has not read; overdue is what was recorded before an instant."""
    consumer = _consumer(settings)
    try:
        topic = consumer.list_topics(settings.topic, timeout=_TIMEOUT).topics[settings.topic]
        places = [TopicPartition(settings.topic, number) for number in sorted(topic.partitions)]
        reached: dict[int, int] = {}
        ends: dict[int, int] = {}
        for place in consumer.committed(places, timeout=_TIMEOUT):
            low, ends[place.partition] = consumer.get_watermark_offsets(place, timeout=_TIMEOUT)
            reached[place.partition] = max(low, place.offset)
        behind = {number: ends[number] - at for number, at in reached.items() if ends[number] > at}
        overdue = False
        if before is not None and behind:
            at = microseconds(before) // 1000
            asked = [TopicPartition(settings.topic, number, at) for number in behind]
            for found in consumer.offsets_for_times(asked, timeout=_TIMEOUT):
                # A negative offset: everything was recorded before.
                first = found.offset if found.offset >= 0 else ends[found.partition]
                overdue = overdue or reached[found.partition] < first
        return Waiting(sum(behind.values()), overdue)
    finally:
        consumer.close()


class SplitConsumer:
    """The consumer of one split; lives across bundles. Not safe for several threads."""

    def __init__(self, settings: KafkaSettings, split: int) -> None:
        self._settings = settings
        self._split = split
        self._client = _consumer(settings)
        self._found_at = 0.0
        self.next: dict[int, int] = {}
        """The next offset of each partition; negative ones are Kafka's symbolic ones."""
        self.at_end: set[int] = set()

    def start(self, offsets: Mapping[int, int]) -> None:
        """Read on from these offsets; other partitions start where the group says."""
        self.next = dict(offsets)
        self.at_end = set()
        self._found_at = 0.0
        self._client.unassign()
        if offsets:
            self._client.assign(
                [TopicPartition(self._settings.topic, p, at) for p, at in offsets.items()]
            )
        self._discover(first=not offsets)

    def poll(self, most: int, timeout: float) -> list[Message]:
        """Some messages, or none; `next` and `at_end` are those after them.

        Raises BeammeterError where Kafka says that going on makes no sense.
        """
        if time.monotonic() - self._found_at >= _DISCOVERY_SECONDS:
            self._discover(first=False)
        found = self._client.consume(most, timeout)
        if any(map(Message.error, found)):
            found = [message for message in found if self._is_event(message)]
        partitions, offsets = places(found)
        for partition in np.unique(partitions).tolist():
            last = int(offsets[partitions == partition].max())
            if self.next.get(partition, 0) <= last:
                self.next[partition] = last + 1
                self.at_end.discard(partition)
        return found

    def _is_event(self, message: Message) -> bool:
        """False for the end of a partition and for an outage that librdkafka gets over."""
        error = message.error()
        if error is None:
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            partition, at = message.partition(), message.offset()
            assert partition is not None
            assert at is not None
            self.next[partition] = at
            self.at_end.add(partition)
        elif error.fatal() or not (error.retriable() or _is_transport(error)):
            raise BeammeterError(f"Kafka refused to be read: {error.str()}")
        else:
            _LOG.warning("Kafka: %s", error.str())
        return False

    @property
    def is_at_end(self) -> bool:
        """Whether every partition of the split was read to its end."""
        return self.at_end >= set(self.next)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Tell the consumer group, without waiting for the answer."""
        places = [
            TopicPartition(self._settings.topic, partition, at)
            for partition, at in offsets.items()
            if at >= 0
        ]
        if places:
            self._client.commit(offsets=places, asynchronous=True)

    def close(self) -> None:
        """Leave; offsets that were handed to `commit` are sent first."""
        self._client.close()

    def _discover(self, *, first: bool) -> None:
        """Assign the partitions of this split that are not read yet."""
        topic = self._settings.topic
        try:
            found = self._client.list_topics(topic, timeout=_TIMEOUT).topics[topic]
        except KafkaException as error:
            if first:
                raise BeammeterError(f"Kafka must answer (got: {error.args[0].str()})") from None
            _LOG.warning("Kafka: new partitions cannot be looked for: %s", error.args[0].str())
            self._found_at = time.monotonic()
            return
        if first and found.error is not None:
            raise BeammeterError(f"topic {topic!r} must be readable (got: {found.error.str()})")
        splits, mine = self._settings.splits, self._split
        new = sorted(p for p in found.partitions if p % splits == mine and p not in self.next)
        if new:
            places = self._patient_starts(new, first=first)
            self._client.incremental_assign(places)
            self.next.update((place.partition, place.offset) for place in places)
        self._found_at = time.monotonic()

    def _patient_starts(self, partitions: list[int], *, first: bool) -> list[TopicPartition]:
        """As `_starts`; a broker that has just come back is given time to take its groups over."""
        until = time.monotonic() + _OUTAGE_SECONDS
        while True:
            try:
                return self._starts(partitions, first=first)
            except KafkaException as error:
                if error.args[0].code() not in _COMING_BACK or time.monotonic() > until:
                    raise BeammeterError(
                        f"Kafka must answer (got: {error.args[0].str()})"
                    ) from None
                time.sleep(_PAUSE)

    def _starts(self, partitions: list[int], *, first: bool) -> list[TopicPartition]:
        """Where partitions begin: the group's offset, else as set; new ones at their start."""
        topic, start = self._settings.topic, self._settings.start
        places = [TopicPartition(topic, partition) for partition in partitions]
        committed = {
            place.partition: place.offset
            for place in self._client.committed(places, timeout=_TIMEOUT)
            if place.offset >= 0
        }
        begin = dict.fromkeys(partitions, OFFSET_BEGINNING)
        if first and start == "latest":
            begin = dict.fromkeys(partitions, OFFSET_END)
        elif first and isinstance(start, tuple):
            begin.update((p, at) for p, at in start if p in begin)
        elif first and isinstance(start, int):
            asked = [TopicPartition(topic, p, start // 1000) for p in partitions]
            answer = self._client.offsets_for_times(asked, timeout=_TIMEOUT)
            begin = {place.partition: place.offset for place in answer}
        return [
            self._resolved(TopicPartition(topic, p, committed.get(p, begin[p]))) for p in partitions
        ]

    def _resolved(self, place: TopicPartition) -> TopicPartition:
        """The end as a number, so that a restart does not find a later one."""
        if place.offset == OFFSET_END:
            _, place.offset = self._client.get_watermark_offsets(place, timeout=_TIMEOUT)
        return place


def _consumer(settings: KafkaSettings) -> Consumer:
    config: dict[str, object] = {
        "queued.max.messages.kbytes": 32 * 1024,
        # A broker that answers with each few events works twice as much as one that gathers them.
        "fetch.min.bytes": 64 * 1024,
        "fetch.wait.max.ms": 50,
        **settings.client(),
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        # librdkafka would write a line for every try to reach a broker that is away.
        "log_level": 2,
        "error_cb": _Outages(settings.bootstrap),
    }
    try:
        return Consumer(config, logger=_LOG)
    except KafkaException as error:
        raise ConfigurationError(
            f"Kafka's settings must be valid ({error.args[0].str()})"
        ) from None


class _Outages:
    """Says on the log that a broker is away: once, and again each half minute."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._said = -_OUTAGE_SECONDS

    def __call__(self, error: KafkaError) -> None:
        if time.monotonic() - self._said >= _OUTAGE_SECONDS:
            self._said = time.monotonic()
            _LOG.warning("Kafka at %s: %s; trying again", self._bootstrap, error.str())


def places(messages: list[Message]) -> tuple[Int64s, Int64s]:
    """Partitions and offsets of messages."""
    size = len(messages)
    partitions = np.fromiter(map(Message.partition, messages), np.int64, size)
    return partitions, np.fromiter(map(Message.offset, messages), np.int64, size)


def _is_transport(error: KafkaError) -> bool:
    """Brokers that are away for a while: librdkafka tries again by itself."""
    return error.code() in (
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
    )
