"""The month of events that `beammeter demo` bills: October 2026, the same each time.

    api.call, storage.sample -> api.jsonl.gz   llm.request -> llm.parquet
    payment.captured         -> payments.csv

With what real archives hold: retries (one in a hundred events comes twice, in part in
another file), one id that is used again for something else, an event without an offset in
its time, one without a customer, a broken line, a value that is no number, and a
customer that the catalog does not know.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

from meters.timestamps import format_instant

Event = dict[str, Any]

SEED = 2026
YEAR, MONTH, DAYS = 2026, 10, 31
WORKLOAD = {
    # customer: (time zone, API calls, users, requests of language models, payments, GB stored)
    "acme": ("Europe/Berlin", 9_000, 20, 0, 0, 412),
    "globex": ("Europe/Lisbon", 4_000, 8, 0, 0, 95),
    "northwind": ("America/New_York", 11_000, 40, 5_000, 0, 0),
    "sakura": ("Asia/Tokyo", 3_000, 12, 0, 1_200, 0),
    "initech": ("UTC", 25, 2, 0, 0, 0),
}
LEFT = {"globex": 19}
"""The last day of the month on which a customer was there."""

REGIONS = ("eu-central", "us-east", "ap-northeast")
MODELS = ("small", "large")
BROKEN_LINE = '{"event_id": "api-broken", "event_name": "api.call", "external_cus'


def demo_files() -> dict[str, bytes]:
    """Name and content of every file of events."""
    rand = random.Random(SEED)
    events = list(_events(rand))
    by_name: dict[str, list[Event]] = {}
    for event in events:
        by_name.setdefault(event["event_name"], []).append(event)
    calls = by_name["api.call"]
    retried = [_retry(rand, event) for event in rand.sample(events, len(events) // 100)]
    conflict = {**_retry(rand, calls[0]), "properties": {**calls[0]["properties"], "user": "eve"}}
    no_number = {**by_name["llm.request"][0], "event_id": "llm-word"}
    no_number["properties"] = {"model": "small", "tokens": "many"}
    no_offset = {**by_name["payment.captured"][0], "event_id": "pay-local"}
    no_offset["timestamp"] = no_offset["timestamp"].removesuffix("Z")
    no_customer = {**calls[1], "event_id": "api-nobody", "external_customer_id": ""}
    lines = [*calls, *by_name["storage.sample"], *retried, conflict, no_customer, no_number]
    rand.shuffle(lines)
    return {
        "api.jsonl.gz": _json_lines(lines),
        "llm.parquet": _parquet(by_name["llm.request"]),
        "payments.csv": _csv([*by_name["payment.captured"], no_offset]),
    }


def _events(rand: random.Random) -> Iterator[Event]:
    for customer, (zone, calls, users, requests, payments, storage) in WORKLOAD.items():
        for number in range(calls):
            properties = {
                "region": rand.choices(REGIONS, (5, 4, 2))[0],
                "status": rand.choices(("ok", "error"), (97, 3))[0],
                "user": f"{customer}-{int(rand.triangular(0, users, 0))}",
                "ms": rand.randint(3, 900),
            }
            yield _event(rand, "api.call", f"api-{number}", customer, zone, properties)
        for number in range(requests):
            properties = {
                "model": rand.choices(MODELS, (3, 1))[0],
                "tokens": int(rand.lognormvariate(6.8, 0.8)),
            }
            yield _event(rand, "llm.request", f"llm-{number}", customer, zone, properties)
        for number in range(payments):
            properties = {"amount": str(rand.randrange(300, 20_000, 10)), "currency": "JPY"}
            yield _event(rand, "payment.captured", f"pay-{number}", customer, zone, properties)
        for day in range(LEFT.get(customer, DAYS) if storage else 0):
            gb = f"{storage * (70 + day) / 100:.2f}"
            yield _event(
                rand, "storage.sample", f"gb-{day}", customer, zone, {"gb": gb}, day=day + 1
            )


def _event(
    rand: random.Random,
    name: str,
    event_id: str,
    customer: str,
    zone: str,
    properties: Event,
    day: int | None = None,
) -> Event:
    """One event at a local time of the customer, mostly in the hours of work."""
    if day is None:
        day = rand.randint(1, LEFT.get(customer, DAYS))
    hour = min(max(int(rand.gauss(13, 4)), 0), 23)
    rest = rand.randrange(3_600_000_000)
    local = datetime(YEAR, MONTH, day, hour, tzinfo=ZoneInfo(zone)) + timedelta(microseconds=rest)
    at = local.astimezone(UTC)
    return {
        "event_id": event_id,
        "event_name": name,
        "external_customer_id": customer,
        "timestamp": format_instant(at),
        "ingested_at": format_instant(at + timedelta(milliseconds=rand.randint(50, 4_000))),
        "properties": properties,
    }


def _retry(rand: random.Random, event: Event) -> Event:
    """The same event as it was sent again some minutes later."""
    later = datetime.fromisoformat(event["ingested_at"]) + timedelta(minutes=rand.randint(1, 30))
    return {**event, "ingested_at": format_instant(later)}


def _json_lines(events: Iterable[Event]) -> bytes:
    lines = [json.dumps(event, separators=(",", ":")) for event in events]
    lines.insert(len(lines) // 2, BROKEN_LINE)
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", 6, buffer, mtime=0) as packed:
        packed.write("\n".join([*lines, ""]).encode())
    return buffer.getvalue()


def _parquet(events: Iterable[Event]) -> bytes:
    """Times as typed instants, properties as a struct."""
    rows = [
        {
            **event,
            "timestamp": datetime.fromisoformat(event["timestamp"]),
            "ingested_at": datetime.fromisoformat(event["ingested_at"]),
        }
        for event in events
    ]
    instant = pa.timestamp("us", "UTC")
    schema = pa.schema(
        {
            "event_id": pa.string(),
            "event_name": pa.string(),
            "external_customer_id": pa.string(),
            "timestamp": instant,
            "ingested_at": instant,
            "properties": pa.struct({"model": pa.string(), "tokens": pa.int64()}),
        }
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), buffer)
    return buffer.getvalue()


def _csv(events: Iterable[Event]) -> bytes:
    """Without a column of properties: every column that is no field of an event is one."""
    rows = [{**event, **event["properties"]} for event in events]
    for row in rows:
        del row["properties"]
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()
