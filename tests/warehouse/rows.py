"""Rows for tests: small, with every column, and only what matters given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from meters.event import EVENT_SCHEMA

INSTANT = pa.timestamp("us", "UTC")
NUMBER = pa.decimal128(38, 12)
POINTS = pa.list_(
    pa.struct(
        [
            ("at", pa.int64()),
            ("item", pa.string()),
            ("id", pa.string()),
            ("value", NUMBER),
            ("count", pa.uint64()),
        ]
    )
)
T0 = datetime(2026, 3, 1, tzinfo=UTC)

KEY_FIELDS = [
    ("external_customer_id", pa.string()),
    ("meter", pa.string()),
    ("external_subscription_id", pa.string()),
    ("group_key", pa.string()),
    ("bucket_start", INSTANT),
]
USAGE = pa.schema(
    [
        *KEY_FIELDS,
        ("bucket_end", INSTANT),
        ("events", pa.int64()),
        ("sum", NUMBER),
        ("min", NUMBER),
        ("max", NUMBER),
        ("latest_at", INSTANT),
        ("latest_id", pa.string()),
        ("latest_value", NUMBER),
        ("moment", pa.decimal128(38, 0)),
        ("moment_low", pa.decimal128(38, 0)),
        ("points", POINTS),
        ("meter_hash", pa.string()),
        ("revision", pa.uint32()),
    ]
)
VALUES = pa.schema([*KEY_FIELDS, ("revision", pa.uint32()), ("value_hash", pa.binary(16))])


def hour(number: float) -> datetime:
    return T0 + timedelta(hours=number)


def digest(text: str) -> bytes:
    """Any 16 bytes that stand for `text`."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def event(
    tenant: str, event_id: str = "e1", customer: str = "acme", **given: Any
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tenant_id": tenant,
        "event_id": event_id,
        "event_name": "call",
        "external_customer_id": customer,
        "external_subscription_id": None,
        "timestamp": T0,
        "ingested_at": T0,
        "source": None,
        "properties": "{}",
        "origin": "file",
        "origin_row": 1,
        "identity_hash": digest(event_id),
        **given,
    }
    said = ("event_name", "external_subscription_id", "source", "timestamp", "properties")
    row.setdefault("content_hash", digest(repr([row[name] for name in said])))
    return row


def events(rows: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=EVENT_SCHEMA)


def usage(**given: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "external_customer_id": "acme",
        "meter": "calls",
        "external_subscription_id": "sub",
        "group_key": "{}",
        "bucket_start": T0,
        "events": 1,
        "sum": Decimal(0),
        "min": None,
        "max": None,
        "latest_at": None,
        "latest_id": "",
        "latest_value": None,
        "moment": Decimal(0),
        "moment_low": Decimal(0),
        "points": [],
        "meter_hash": "hash",
        "revision": 1,
        **given,
    }
    return {"bucket_end": row["bucket_start"] + timedelta(hours=1), **row}


def usage_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=USAGE)


def value(hash_byte: int, **given: Any) -> dict[str, Any]:
    row = {name: usage(**given)[name] for name in VALUES.names if name != "value_hash"}
    return {**row, "value_hash": bytes([hash_byte]) * 16}


def values_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=VALUES)
