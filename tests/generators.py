"""Seeded worlds (catalog and events) and the files that carry them.

A world is a customer or two with subscriptions, plans and meters of their own, and
events that crowd around the instants where something may go wrong: hour, day and
period boundaries, daylight-saving changes, month ends, the leap day. Worlds share
nothing but the tenant, so that many of them make one run.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.oracle_times import instant, periods, rfc3339, zone_of

Row = dict[str, Any]
AGGREGATIONS = (
    "count",
    "sum",
    "max",
    "min",
    "avg",
    "latest",
    "unique_count",
    "weighted_sum",
    "percentile",
)
COLUMNS = (
    "event_id",
    "event_name",
    "external_customer_id",
    "external_subscription_id",
    "timestamp",
    "ingested_at",
    "properties",
)
MOMENTS = [  # zone, an instant around which something happens there
    ("UTC", "2024-02-29T00:00:00Z"),
    ("UTC", "2025-12-31T23:59:59Z"),
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2025-10-26T01:00:00Z"),
    ("America/New_York", "2026-03-08T07:00:00Z"),
    ("America/New_York", "2025-11-02T06:00:00Z"),
    ("Asia/Kathmandu", "2026-01-31T18:15:00Z"),
    ("Asia/Kolkata", "2024-02-28T18:30:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2025-10-04T15:30:00Z"),
    ("Pacific/Chatham", "2025-09-27T14:00:00Z"),
    ("Africa/Cairo", "2025-04-24T22:00:00Z"),
    ("America/Havana", "2025-11-02T05:00:00Z"),
    ("America/Santiago", "2025-09-07T04:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
]
TEXTS = [
    "",
    "a",
    "A",
    "1",
    "1.0",
    "true",
    "null",
    "é",
    "日本",
    'qu"ote',
    "back\\slash",
    "a,b",
    "\u0001",
    "😀",
]


def world(seed: int) -> tuple[Row, list[Row]]:
    """A catalog and its events, all of which the oracle can judge."""
    return _World(seed).build()


def worlds(seeds: Sequence[int]) -> tuple[Row, list[Row]]:
    """Many worlds as one catalog and one list of events."""
    catalog: Row = {"meters": [], "customers": [], "plans": [], "subscriptions": []}
    events: list[Row] = []
    for seed in seeds:
        one, more = world(seed)
        for section, entries in one.items():
            catalog[section] += entries
        events += more
    return catalog, events


class _World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        zone, moment = self.random.choice(MOMENTS)
        self.zone, self.moment = zone, instant(moment)
        self.clock = 0

    def name(self, kind: str, number: object = "") -> str:
        return f"{kind}{self.seed}{number and f'_{number}'}"

    def build(self) -> tuple[Row, list[Row]]:
        r = self.random
        customers = [
            {"id": self.name("c", n), "time_zone": self.zone} for n in range(1, r.randint(2, 3))
        ]
        meters = [self._meter(n, a) for n, a in enumerate(AGGREGATIONS, 1)]
        plans = [
            {
                "id": self.name("p", n),
                "currency": "EUR",
                "period": r.choice(["day", "week", "month", "month", "month", "quarter", "year"]),
                "charges": [
                    {
                        "id": meter["id"],
                        "meter": meter["id"],
                        "price": {"model": "unit", "unit_amount": "1"},
                    }
                    for meter in meters
                    if r.random() < 0.7
                ],
            }
            for n in (1, 2)
        ]
        subscriptions = [
            self._subscription(n, r.choice(customers)["id"], r.choice(plans)["id"])
            for n in range(r.randint(0, 4))
        ]
        catalog = {
            "meters": meters,
            "customers": customers,
            "plans": plans,
            "subscriptions": subscriptions,
        }
        self.instants = self._interesting(subscriptions, plans)
        names = [customer["id"] for customer in customers]
        events = [self._event(n, names, subscriptions) for n in range(r.randint(20, 60))]
        events += [copy for event in events for copy in self._copies(event)]
        r.shuffle(events)
        return catalog, events

    def _meter(self, number: int, aggregation: str) -> Row:
        r = self.random
        meter: Row = {
            "id": self.name("m", number),
            "event_name": self.name("e", r.choice([1, 1, 1, 2])),
            "aggregation": aggregation,
        }
        if aggregation != "count":
            meter["property"] = "u" if aggregation == "unique_count" else r.choice(["x", "y"])
        self._look_beyond(meter)
        if r.random() < 0.4:
            allowed = ["eu", "us", 1, True, None, "1"]
            meter["filters"] = {"f": r.sample(allowed, r.randint(2, 5))}
        meter["group_by"] = r.choice([[], [], ["g"], ["g", "f"]])
        return meter

    def _look_beyond(self, meter: Row) -> None:
        """Keys of meters that depend on what was before."""
        r, aggregation = self.random, meter["aggregation"]
        if aggregation == "percentile":
            meter["percentile"] = r.choice([1, 50, 95, "99.9", 100])
        if aggregation == "weighted_sum" and r.random() < 0.5:
            meter["level"] = r.choice(["readings", "changes"])
        if aggregation == "unique_count" and r.random() < 0.5:
            meter["operation_property"] = "o"
        if aggregation in ("sum", "unique_count", "weighted_sum") and r.random() < 0.3:
            meter["recurring"] = True

    def _subscription(self, number: int, customer: str, plan: str) -> Row:
        r = self.random
        start = self.moment + timedelta(days=r.choice([-70, -40, -31, -3, -1, 0, 1]))
        if r.random() < 0.5:
            local = start.astimezone(zone_of(self.zone))
            start = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        else:
            start += timedelta(
                minutes=r.randint(-90, 90), microseconds=r.choice([0, 0, 1, 999_999])
            )
        row = {
            "id": self.name("s", number),
            "customer": customer,
            "plan": plan,
            "start": rfc3339(start),
        }
        if r.random() < 0.4:
            end = start + timedelta(days=r.choice([1, 30, 45, 71]), minutes=r.choice([0, 0, 17]))
            row["end"] = rfc3339(end)
        return row

    def _interesting(self, subscriptions: list[Row], plans: list[Row]) -> list[datetime]:
        units = {plan["id"]: plan["period"] for plan in plans}
        found = [self.moment]
        for s in subscriptions:
            found += [instant(s[key]) for key in ("start", "end") if key in s]
            begun = periods(instant(s["start"]), zone_of(self.zone), units[s["plan"]])
            found += [begin for begin, _ in islice(begun, 3)]
        return found

    def _timestamp(self) -> datetime:
        r = self.random
        base = r.choice(self.instants)
        near = timedelta(microseconds=r.choice([0, 0, 0, -1, 1]))
        far = timedelta(minutes=15 * r.randint(-12, 12))
        return base + r.choice(
            [near, far, far + near, timedelta(seconds=r.randint(-300_000, 300_000))]
        )

    def _written(self, moment: datetime) -> str:
        r = self.random
        if r.random() < 0.6:
            return rfc3339(moment)
        text = rfc3339(moment + timedelta(hours=5, minutes=45))[:-1]
        if "." in text:
            text += "".join(r.choices("0123456789", k=r.randint(0, 3)))
        return f"{text}+05:45"

    def _number(self) -> Any:
        r = self.random
        kind = r.random()
        if kind < 0.3:
            return r.randint(-5, 20)
        if kind < 0.6:
            return Decimal(r.randint(-(10**9), 10**9)).scaleb(-r.randint(0, 14))
        if kind < 0.7:
            return str(Decimal(r.randint(-(10**6), 10**6)).scaleb(-r.randint(0, 5)))
        if kind < 0.75:
            return r.choice([-1, 1]) * r.randint(10**14, 10**15 - 1)
        if kind < 0.8:
            return r.choice([Decimal("1e3"), "2.5E-3", Decimal("-0.0"), Decimal("0.0000000000005")])
        wrong = [None, True, False, "", "x", "01", " 1", "NaN", [1], {"a": 1}, 10**15, "9" * 50]
        return r.choice(wrong) if r.random() < 0.5 else r.randint(0, 3)

    def _event(self, number: int, customers: list[str], subscriptions: list[Row]) -> Row:
        r = self.random
        moment = self._timestamp()
        properties: Row = {}
        for key in ("x", "y"):
            if r.random() < 0.9:
                properties[key] = self._number()
        if r.random() < 0.9:
            properties["u"] = r.choice([1, Decimal("1.0"), "1", True, None, 0, False, "0", *TEXTS])
        if r.random() < 0.8:
            properties["f"] = r.choice(["eu", "us", "EU", 1, Decimal("1.0"), True, None, "1", 2])
        if r.random() < 0.6:
            properties["o"] = r.choice(["add", "remove", "remove", None, "Add", True, 1])
        if r.random() < 0.8:
            properties["g"] = r.choice([*TEXTS, None, True, 1, Decimal("1.0"), Decimal("-2.50")])
        customer = r.choice(customers) if r.random() < 0.95 else self.name("unknown")
        event = {
            "event_id": f"{number}" if r.random() < 0.7 else f"{self.seed}-{number}-é😀",
            "event_name": self.name("e", r.choice([1, 1, 1, 1, 2, 3])),
            "external_customer_id": customer,
            "timestamp": self._written(moment),
            "ingested_at": self._ingested(moment),
            "properties": properties,
        }
        if r.random() < 0.2:
            inside = [
                s["id"]
                for s in subscriptions
                if s["customer"] == customer
                and instant(s["start"]) <= moment
                and ("end" not in s or moment < instant(s["end"]))
            ]
            others = [s["id"] for s in subscriptions if s["customer"] != customer]
            event["external_subscription_id"] = r.choice([*inside, *others, "no such"])
        if r.random() < 0.04:
            event |= r.choice(
                [
                    {"event_id": ""},
                    {"external_customer_id": ""},
                    {"event_name": ""},
                    {"timestamp": "2026-01-01T00:00:00"},
                    {"timestamp": "0001-01-01T00:00:00Z"},
                    {"timestamp": "1969-12-31T23:59:59.999999Z"},
                    {"timestamp": "2026-02-30T00:00:00Z"},
                    {"timestamp": "yesterday"},
                ]
            )
        return event

    def _ingested(self, moment: datetime) -> str:
        """Different for each event, so that the first arrival is never a draw."""
        self.clock += 1
        late = timedelta(hours=self.random.randint(-20, 100))
        return rfc3339(moment.replace(microsecond=0) + late + timedelta(microseconds=self.clock))

    def _copies(self, event: Row) -> list[Row]:
        r = self.random
        copies = []
        while r.random() < 0.15:
            copy = dict(event)
            if r.random() < 0.6:
                moment = self._timestamp()
                copy["timestamp"] = self._written(moment)
                copy["ingested_at"] = self._ingested(moment)
                copy.pop("external_subscription_id", None)
            if r.random() < 0.4:
                copy["properties"] = {**event["properties"], "x": r.randint(0, 9), "new": True}
                copy["ingested_at"] = self._ingested(self.moment + timedelta(days=20))
            copies.append(copy)
        return copies


# Files


def to_json(value: Any) -> str:
    """JSON text with exact numbers."""
    if isinstance(value, dict):
        inside = (f"{json.dumps(key)}: {to_json(item)}" for key, item in value.items())
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def as_lines(events: Sequence[Row]) -> bytes:
    """JSON Lines."""
    return "".join(to_json(event) + "\n" for event in events).encode()


def as_csv(events: Sequence[Row]) -> bytes:
    """CSV with a header; `properties` is a column of JSON text."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for event in events:
        cells = {**event, "properties": to_json(event["properties"])}
        writer.writerow([cells.get(column, "") for column in COLUMNS])
    return text.getvalue().encode()


def as_parquet(events: Sequence[Row]) -> bytes:
    """Parquet with strings; `properties` is a column of JSON text."""
    rows = [{**event, "properties": to_json(event["properties"])} for event in events]
    table = pa.table(
        {column: pa.array([row.get(column) for row in rows], pa.string()) for column in COLUMNS}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=100)
    return buffer.getvalue()


def write(path: Path, events: Sequence[Row]) -> Path:
    """Writes events in the format and compression that the name asks for."""
    suffixes = path.suffixes
    formats = {".jsonl": as_lines, ".csv": as_csv, ".parquet": as_parquet}
    data = next(formats[suffix] for suffix in suffixes if suffix in formats)(events)
    if suffixes[-1] == ".gz":
        data = gzip.compress(data)
    if suffixes[-1] == ".zst":
        data = zstandard.compress(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
