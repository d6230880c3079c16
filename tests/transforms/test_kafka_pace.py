"""How long a split waits before it gives out what it has read; no broker, no real clock."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import Message

from transforms import kafka_source
from transforms.kafka_messages import Messages
from transforms.kafka_source import MOST_MESSAGES, Pace, _Open, read

TIMEOUT = 0.2
PACE = Pace(flush_seconds=0.5, idle_seconds=None, poll_seconds=0.1)


def message(offset: int) -> Message:
    """One event of partition 0."""
    return Message("events", 0, offset, b"default/c", b"{}", timestamp=(1, 1000))


class Consumer:
    """Messages arrive at given times; a poll lasts until it has as many as it may, or is over.

    `interrupted` are times at which a poll ends with nothing, as at the end of a partition.
    """

    def __init__(self, arrivals: list[float], interrupted: tuple[float, ...] = ()) -> None:
        self.now = 1000.0
        self._arrivals = [self.now + each for each in arrivals]
        self._interrupted = [self.now + each for each in interrupted]
        self._given = 0
        self.next: dict[int, int] = {}
        self.at_end: set[int] = set()
        self.is_at_end = False

    def poll(self, most: int, timeout: float) -> list[Message]:
        until = self.now + timeout
        full = self._given + most
        if full <= len(self._arrivals):
            until = min(until, max(self.now, self._arrivals[full - 1]))
        for at in self._interrupted:
            if self.now < at < until:
                self.now = at
                return []
        self.now = until
        first = self._given
        while self._given < min(full, len(self._arrivals)) and self._arrivals[self._given] <= until:
            self._given += 1
        return [message(offset) for offset in range(first, self._given)]


def take(monkeypatch: pytest.MonkeyPatch, consumer: Any, ago: float) -> tuple[Messages, float]:
    """What a read gives when the last one was `ago`, and how long it took."""
    began = consumer.now
    monkeypatch.setattr(kafka_source.time, "monotonic", lambda: consumer.now)
    found = read(_Open(consumer, busy=began, polled=began - ago), 0, TIMEOUT, PACE)
    return found, pytest.approx(consumer.now - began)


def test_what_waits_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seconds = take(monkeypatch, Consumer([0.0] * 10 + [0.05]), ago=1.0)
    assert len(found.values) == 10
    assert seconds == 0.0


def test_a_split_that_has_just_polled_waits_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seconds = take(monkeypatch, Consumer([0.0, 0.05, 0.09]), ago=0.03)
    assert len(found.values) == 2
    assert seconds == 0.07


def test_a_full_batch_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seconds = take(monkeypatch, Consumer([0.0] * (MOST_MESSAGES + 1)), ago=0.0)
    assert len(found.values) == MOST_MESSAGES
    assert seconds == 0.0


@pytest.mark.parametrize("interrupted", [(), (0.02, 0.04)])
def test_the_first_event_ends_the_waiting(
    monkeypatch: pytest.MonkeyPatch, interrupted: tuple[float, ...]
) -> None:
    found, seconds = take(monkeypatch, Consumer([0.15, 0.15, 0.19], interrupted), ago=1.0)
    assert len(found.values) == 2
    assert seconds == 0.15


def test_nothing_is_waited_for_no_longer_than_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    found, seconds = take(monkeypatch, Consumer([0.3]), ago=1.0)
    assert found.values == []
    assert seconds == TIMEOUT
