"""What a Kafka sink says of each request, with a broker of librdkafka's own in the process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.kafka_sink import KafkaSink
from service.settings import KIB, Limits
from service.sinks import Record, Written
from transforms.kafka_client import KafkaSettings


@pytest.fixture
def settings(tmp_path: Path) -> KafkaSettings:
    given = tmp_path / "kafka.properties"
    given.write_text("test.mock.num.brokers=1\nallow.auto.create.topics=true\n", "utf-8")
    return KafkaSettings("", "events", "group", 1, properties=str(given))


def written(settings: KafkaSettings, limits: Limits, *requests: list[Record]) -> list[Written]:
    """What became of requests that come at the same time."""

    async def write() -> list[Written]:
        sink = KafkaSink(settings, limits)
        await sink.start()
        done = await asyncio.gather(*(sink.write(records, 0) for records in requests))
        assert sink.refusal(limits.waiting) is None, "nothing waits any more"
        await sink.close()
        return done

    return asyncio.run(write())


def records(*values: bytes) -> list[Record]:
    return [(b"default/acme", value) for value in values]


def test_requests_that_come_together_are_told_apart(settings: KafkaSettings) -> None:
    large = b"x" * 200 * KIB
    found = written(
        settings,
        Limits(event=KIB),
        records(b"a"),
        records(b"b", large, b"c", large),
        records(large),
        records(b"d", b"e"),
    )
    assert [each.failed for each in found] == [[], [1, 3], [0], []]
    assert [bool(each.reason) for each in found] == [False, True, True, False]


def test_what_the_producer_has_no_room_for_has_failed(settings: KafkaSettings) -> None:
    many = records(*[b"x"] * 30)
    first, second = written(settings, Limits(waiting=10), many[:10], many)
    assert first.failed == []
    assert second.failed == list(range(10, 30))
    assert second.reason
