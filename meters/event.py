"""The event: its Arrow schema, its identity and its content.

Identity is (tenant, customer, event_id), whatever the timestamp or the content.
`identity_hash` is the 128-bit XXH3 of the event_id's UTF-8 bytes and is only ever
compared within one customer. `content_hash` covers what the sender said: name,
subscription, source, timestamp and the text of the properties, but neither the
time of receipt nor anything that the API filled in.

XXH3 is no cryptographic hash. Whoever could forge a collision of two event ids of
one customer could as well send the same id twice: the effect is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import xxhash

Uint64s = np.ndarray[tuple[int], np.dtype[np.uint64]]

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that different timestamps give different seeds (2**64 / golden ratio)."""

HASH_BYTES = 16
HASH = pa.binary(HASH_BYTES)
INSTANT = pa.timestamp("us", tz="UTC")

EVENT_SCHEMA = pa.schema(
    [
        pa.field("tenant_id", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("event_name", pa.string(), nullable=False),
        pa.field("external_customer_id", pa.string(), nullable=False),
        pa.field("external_subscription_id", pa.string()),
        pa.field("timestamp", INSTANT, nullable=False),
        pa.field("ingested_at", INSTANT, nullable=False),
        pa.field("source", pa.string()),
        pa.field("properties", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("origin_row", pa.int64(), nullable=False),
        pa.field("identity_hash", HASH, nullable=False),
        pa.field("content_hash", HASH, nullable=False),
    ]
)
"""Decoded events. `origin` is the file (or topic and partition), `origin_row` the
row counted from 1 (or the offset)."""

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("tenant_id", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("origin_row", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("meter", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("external_customer_id", pa.string(), nullable=False),
        pa.field("payload", pa.string(), nullable=False),
    ]
)
"""What was refused, why and where it came from. `meter` is empty where the whole
event was refused; ids are empty where they could not be read."""


_RECORD_TIME = 1000
"""Microseconds: times of Kafka's records are whole milliseconds."""


def receipt(now: int) -> int:
    """The API's time of receipt at an instant (microseconds): no whole millisecond.

    So it is told apart from the time of a record, which stands for an `ingested_at` that is
    missing, and may be what the sender said as `timestamp` as well.
    """
    return now if is_receipt(now) else now + 1


def is_receipt(at: int) -> bool:
    """Whether the `ingested_at` (microseconds) of a streamed event may be the API's."""
    return at % _RECORD_TIME != 0


def hash128(values: Iterable[bytes]) -> list[bytes]:
    """The 128-bit XXH3 of each value, big-endian."""
    return list(map(xxhash.xxh3_128_digest, values))


def identity_hash(event_id: str) -> bytes:
    """The hash by which copies of one event of one customer are found."""
    return xxhash.xxh3_128_digest(event_id.encode())


def content_prefix(event_name: str, subscription: str | None, source: str | None) -> str:
    """The part of the content beside timestamp and properties.

    JSON text of a list, so that no two different triples give the same prefix.
    """
    return json.dumps([event_name, subscription, source], ensure_ascii=False)


def content_seeds(prefix: str, timestamps: Uint64s) -> Uint64s:
    """One seed for each timestamp (microseconds): prefix and time, mixed to 64 bits."""
    start = np.uint64(xxhash.xxh3_64_intdigest(prefix.encode()))
    return start + timestamps * _ODD


def content_hashes(seeds: Iterable[int], properties: Iterable[bytes]) -> list[bytes]:
    """The content hash of each event: its properties, hashed with its seed."""
    return list(map(xxhash.xxh3_128_digest, properties, seeds))
