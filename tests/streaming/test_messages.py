"""Messages that are no events: each is named with its place, and none moves the others."""

from __future__ import annotations

import json

import numpy as np
import pytest

from transforms.kafka_messages import MessageReader, Messages

GOOD = json.dumps(
    {
        "event_id": "1",
        "event_name": "call",
        "external_customer_id": "acme",
        "timestamp": "2026-11-01T00:00:00Z",
        "properties": {"n": 1},
    }
).encode()


def messages(*values: bytes | None, keys: list[bytes | None] | None = None) -> Messages:
    count = len(values)
    return Messages(
        split=0,
        now=0,
        values=list(values),
        keys=keys or [None] * count,
        partitions=np.arange(count) % 3,
        offsets=np.arange(count) + 100,
        recorded=np.arange(count) + 1_700_000_000_000_000,
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty_message"),
        (b"", "empty_message"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\x00\x00\x00\x00\x01abc", "invalid_json"),
        (b'{"event_id": "\xff"}', "invalid_utf8"),
        (b"{\n", "invalid_json"),
        (b" " * (16 * 1024 * 1024 + 1), "too_large"),
    ],
)
def test_a_message_that_is_no_event_is_refused_alone(value: bytes | None, reason: str) -> None:
    found = MessageReader("events", "default").read(messages(GOOD, value, GOOD))
    (bad,) = found.bad
    assert (bad.reason, bad.origin, bad.row) == (reason, "kafka://events/1", 101)
    assert found.rows.to_pylist() == [100, 102]
    assert found.origins.to_pylist() == ["kafka://events/0", "kafka://events/2"]
    assert found.partitions.tolist() == [0, 2]


def test_a_message_over_several_lines_is_one_event() -> None:
    value = json.dumps(json.loads(GOOD), indent=2).encode()
    found = MessageReader("events", "default").read(messages(value))
    assert found.bad == []
    assert json.loads(found.columns["properties"][0].as_py()) == {"n": 1}


def test_the_record_time_stands_for_a_missing_time_of_receipt() -> None:
    given = json.dumps({**json.loads(GOOD), "ingested_at": "2026-11-02T00:00:00Z"}).encode()
    found = MessageReader("events", "default").read(messages(GOOD, given))
    times = found.columns["ingested_at"].to_pylist()
    assert str(times[0]).startswith("2023-11-14")
    assert str(times[1]).startswith("2026-11-02")


def test_other_tenants_are_left_to_their_own_stream() -> None:
    theirs = json.dumps({**json.loads(GOOD), "tenant_id": "other"}).encode()
    keys: list[bytes | None] = [b"default/acme", b"other/acme", None, b"acme"]
    found = MessageReader("events", "default").read(messages(GOOD, GOOD, theirs, GOOD, keys=keys))
    assert found.foreign == 2
    assert found.rows.to_pylist() == [100, 103]


def test_a_batch_of_plain_messages_is_read_as_each_of_them_is() -> None:
    values = [GOOD.replace(b'"1"', f'"{number}"'.encode()) for number in range(20)]
    reader = MessageReader("events", "default")
    plain = reader.read(messages(*values, keys=[b"default/acme"] * 20))
    singly = reader.read(messages(*values))
    assert (plain.columns, plain.rows, plain.origins) == (
        singly.columns,
        singly.rows,
        singly.origins,
    )
    assert not plain.foreign
    mixed = [b"default/acme"] * 19 + [b"other/acme"]
    assert reader.read(messages(*values, keys=mixed)).foreign == 1
    assert reader.read(messages(*values[:2], b"", keys=[b"default/acme"] * 3)).bad[0].row == 102
