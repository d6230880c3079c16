"""The real services are there and do what tests and benchmarks need of them."""

from __future__ import annotations

import time
import uuid

import pytest
from confluent_kafka import Consumer, Producer

from tests.services.kafka import Kafka

pytestmark = pytest.mark.services


@pytest.fixture
def topic(kafka: Kafka) -> str:
    """A topic with two partitions that no other test has."""
    name = f"topic-{uuid.uuid4().hex}"
    kafka.create_topic(name, partitions=2)
    return name


def produce(kafka: Kafka, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for value in values:
        producer.produce(topic, key=value, value=value)
    assert producer.flush(30) == 0


def consume(kafka: Kafka, topic: str, count: int) -> list[bytes]:
    """The values of a topic, sorted; no more than arrived in half a minute."""
    options = {"group.id": uuid.uuid4().hex, "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, **options})
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        for message in consumer.consume(count, timeout=1):
            assert message.error() is None
            values.append(message.value())
    consumer.close()
    return sorted(values)


def test_kafka_gives_back_what_it_took(kafka: Kafka, topic: str) -> None:
    values = sorted(f"{number}".encode() for number in range(100))
    produce(kafka, topic, values)
    assert consume(kafka, topic, 100) == values


def test_a_killed_broker_comes_back_with_its_messages(kafka: Kafka, topic: str) -> None:
    produce(kafka, topic, [b"before"])
    kafka.kill()
    kafka.start()
    produce(kafka, topic, [b"behind"])
    assert consume(kafka, topic, 2) == [b"before", b"behind"]
