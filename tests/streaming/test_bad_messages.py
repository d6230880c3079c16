"""Bad messages on a real broker: quarantine and dead letters, and the partition goes on."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer

from tests.cli import Running, run
from tests.services.kafka import Kafka
from tests.streaming.test_stream import CATALOG, FIRST

TOPIC = "bad"
HUGE = 16 * 1024 * 1024 + 1


def good(number: int) -> bytes:
    at = FIRST + timedelta(seconds=number)
    return json.dumps(
        {
            "event_id": f"good {number}",
            "event_name": "call",
            "external_customer_id": "c1",
            "timestamp": at.isoformat(),
            "properties": {"region": "eu", "tokens": "1", "user": "u"},
        }
    ).encode()


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(good(0)), "event_id": "bad", **fields}).encode()


BAD: list[tuple[bytes | None, str]] = [
    (b"", "empty_message"),
    (None, "empty_message"),
    (b" " * HUGE, "too_large"),
    (good(0)[:-1] + b',"x":"\xff"}', "invalid_utf8"),
    (b"[]", "invalid_json"),
    (b'{"event_id": ', "invalid_json"),
    (b"\x00\x00\x00\x00\x07" + good(0), "invalid_json"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "invalid_json"),
    (changed(timestamp="2036-01-01T00:00:00Z"), "timestamp_out_of_range"),
    (changed(timestamp="2026-11-01T22:00:00"), "invalid_timestamp"),
    (changed(event_id=""), "empty_field"),
    (changed(properties="text"), "invalid_json"),
]


def send(kafka: Kafka, values: list[bytes | None]) -> None:
    size = {"message.max.bytes": 2 * HUGE}
    producer = Producer({"bootstrap.servers": kafka.bootstrap, **size})
    for value in values:
        producer.produce(TOPIC, value, b"default/c1", partition=0)
        producer.poll(0)
    assert producer.flush(60) == 0


def test_each_is_refused_with_its_reason_and_none_stops_or_moves_the_others(
    kafka: Kafka, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    kafka.create_topic(TOPIC, partitions=2, max_message_bytes=2 * HUGE)
    url = f"chdb://{tmp_path / 'warehouse'}"
    where = ("--catalog", catalog, "--clickhouse", url, "--format", "json")
    stream = ("stream", "--topic", TOPIC, "--bootstrap-servers", kafka.bootstrap)
    options = ("--runner", "direct", "--until-idle", 2, "--lateness", 600)

    poison = [b"{" for _ in range(2000)]
    between = [value for index, (bad, _) in enumerate(BAD) for value in (good(index), bad)]
    send(kafka, [*between, *poison])
    assert run(*stream, *where, *options).code == 0
    # Had the year 2036 moved the watermark, these would be late and wait for a repair.
    send(kafka, [good(index) for index in range(len(BAD), 40)])
    assert run(*stream, *where, *options).code == 0

    rows = run("usage", *where, "--granularity", "hour", "--meter", "calls").json
    assert [(row["value"], row["events"]) for row in rows] == [("40", 40)]
    expected = Counter(reason for _, reason in BAD) + Counter({"invalid_json": len(poison)})
    counts = run("quarantine", *where, "--counts").json
    assert {row["reason"]: row["rows"] for row in counts} == expected
    words = (str(tmp_path / "warehouse"), "SELECT count() FROM {dirty}")
    assert Running(words, {}, "tests.cli").wait().json == [[[0]]]
    assert dead_letters(kafka, expected.total()) == expected


def dead_letters(kafka: Kafka, count: int) -> Counter[str]:
    """The reasons in the headers of the dead letters."""
    settings = {"group.id": "test", "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, **settings})
    consumer.subscribe([f"{TOPIC}.dlq"])
    found: Counter[str] = Counter()
    until = time.monotonic() + 60
    while found.total() < count and time.monotonic() < until:
        for message in consumer.consume(1000, 0.5):
            found[dict(message.headers())["reason"].decode()] += 1
    consumer.close()
    return found
