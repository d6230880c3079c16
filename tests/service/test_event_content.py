"""What two copies of an event say, as the page of an event compares them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from service.trace import content

RECEIVED = datetime(2026, 10, 1, 12, 0, 0, 123456, tzinfo=UTC)


def stored(**given: Any) -> dict[str, Any]:
    return {
        "event_id": "a",
        "event_name": "call",
        "external_customer_id": "acme",
        "timestamp": RECEIVED,
        "ingested_at": RECEIVED,
        "origin": "log://events/0",
        "properties": '{"x": 1, "y": 2}',
        **given,
    }


def test_json_written_otherwise_says_the_same() -> None:
    assert content(stored()) == content(stored(properties='{"y":2,"x":1.0}'))
    assert content(stored()) != content(stored(properties='{"y":2,"x":3}'))


def test_a_time_that_the_api_filled_in_is_not_what_the_sender_said() -> None:
    later = RECEIVED.replace(minute=5)
    again = stored(timestamp=later, ingested_at=later)
    assert content(stored()) == content(again)
    assert content(stored()) != content(stored(timestamp=later))
    file = "file:///events.jsonl"
    assert content(stored(origin=file)) != content({**again, "origin": file})
