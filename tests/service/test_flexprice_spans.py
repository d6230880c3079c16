"""A span has every bucket that it touches, whatever the time zones of who is asked for."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from fastapi.testclient import TestClient

from meters.catalog import Catalog
from service.app import create_app
from service.context import Service
from service.keys import KeyStore
from service.settings import Settings
from tests.pipelines.runs import Tenant
from warehouse.client import Warehouse

Row = dict[str, Any]
Ask = Any
NOON = datetime(2026, 9, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ZONES = {
    "berlin": "Europe/Berlin",
    "kolkata": "Asia/Kolkata",
    "kathmandu": "Asia/Kathmandu",
    "cut": "Europe/Berlin",
}
CUT = NOON - timedelta(days=31) + timedelta(minutes=20)
"""Where the periods of one customer begin, in the middle of an hour."""
CATALOG: Row = {
    "meters": [
        {"id": "calls", "event_name": "call", "aggregation": "count"},
        {"id": "users", "event_name": "call", "aggregation": "unique_count", "property": "user"},
        {
            "id": "peaks",
            "event_name": "call",
            "aggregation": "max",
            "property": "size",
            "bucket": "hour",
        },
    ],
    "customers": [{"id": name, "time_zone": zone} for name, zone in ZONES.items()],
    "plans": [
        {
            "id": "pro",
            "currency": "EUR",
            "charges": [
                {"id": name, "meter": name, "price": {"model": "unit", "unit_amount": "0.01"}}
                for name in ("calls", "users", "peaks")
            ],
        }
    ],
    "subscriptions": [
        {"id": "sub_cut", "customer": "cut", "plan": "pro", "start": CUT.isoformat()}
    ],
}
EVENTS: list[Row] = [
    {
        "event_id": f"{name}{minute}",
        "event_name": "call",
        "external_customer_id": name,
        "timestamp": (NOON + timedelta(minutes=minute)).isoformat(),
        "properties": {"user": chance.randrange(9), "size": chance.randrange(1000)},
    }
    for chance in [random.Random(3)]
    for name in ZONES
    for minute in range(-120, 240, 5)
]
MINUTES = (0, 1, 14, 15, 16, 20, 25, 30, 31, 45, 59)


def bucket(row: Row) -> tuple[datetime, datetime]:
    """The local hour of an event, cut at the period's start."""
    at = datetime.fromisoformat(row["timestamp"])
    local = at.astimezone(ZoneInfo(ZONES[row["external_customer_id"]]))
    start = local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
    end, cut = start + HOUR, NOON + timedelta(minutes=20)
    if row["external_customer_id"] == "cut" and start < cut < end:
        return (start, cut) if at < cut else (cut, end)
    return start, end


def touched(start: datetime, end: datetime) -> list[Row]:
    return [row for row in EVENTS if bucket(row)[0] < end and bucket(row)[1] > start]


@pytest.fixture(scope="module")
def ask(
    embedded: Warehouse, embedded_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ask]:
    folder = tmp_path_factory.mktemp("spans")
    tenant = Tenant(embedded, embedded_url, "spans", Catalog.model_validate(CATALOG), folder)
    tenant.backfill(EVENTS)
    keys = KeyStore(folder / "keys.json")
    _, key = keys.create("spans", ["read"])
    service = Service(Settings(tenant="spans"), keys, tenant.catalog, embedded)

    def asked(path: str, start: datetime, end: datetime, **body: Any) -> Row:
        body |= {"start_time": start.isoformat(), "end_time": end.isoformat()}
        got = client.post(f"/v1/events/{path}", json=body, headers={"x-api-key": key})
        assert got.status_code == 200, got.text
        found: Row = json.loads(got.text, parse_float=Decimal, parse_int=Decimal)
        return found

    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield asked


@pytest.mark.parametrize("minute", MINUTES)
def test_the_usage_of_all_customers_is_that_of_each_added_up(ask: Ask, minute: int) -> None:
    start = NOON + timedelta(minutes=minute)
    end = start + timedelta(minutes=67)
    wanted = touched(start, end)
    together = ask("usage/meter", start, end, meter_id="calls")["value"]
    of_each = {
        name: ask("usage/meter", start, end, meter_id="calls", external_customer_id=name)["value"]
        for name in ZONES
    }
    assert of_each == Counter(row["external_customer_id"] for row in wanted)
    assert together == sum(of_each.values())
    users = {row["properties"]["user"] for row in wanted}
    assert ask("usage/meter", start, end, meter_id="users")["value"] == len(users)
    peaks: dict[tuple[str, datetime], int] = {}
    for row in wanted:
        key = row["external_customer_id"], bucket(row)[0]
        peaks[key] = max(peaks.get(key, 0), row["properties"]["size"])
    assert ask("usage/meter", start, end, meter_id="peaks")["value"] == sum(peaks.values())


@pytest.mark.parametrize("name", ["kolkata", "kathmandu"])
def test_windows_of_a_zone_are_the_hours_of_its_customers(ask: Ask, name: str) -> None:
    start, end = NOON + timedelta(minutes=20), NOON + timedelta(minutes=100)
    found = ask(
        "usage/meter",
        start,
        end,
        meter_id="calls",
        external_customer_id=name,
        window_size="HOUR",
        timezone=ZONES[name],
    )
    wanted = Counter(
        bucket(row)[0] for row in touched(start, end) if row["external_customer_id"] == name
    )
    assert {
        datetime.fromisoformat(each["window_size"]): each["value"] for each in found["results"]
    } == wanted
    assert found["value"] == sum(wanted.values())


def test_months_have_what_the_span_touches(ask: Ask) -> None:
    start, end = NOON + timedelta(minutes=10), NOON + timedelta(minutes=70)
    for anchor in (start, start - timedelta(days=3), start - timedelta(days=31)):
        found = ask(
            "usage/meter",
            start,
            end,
            meter_id="calls",
            window_size="MONTH",
            billing_anchor=anchor.isoformat(),
        )
        assert found["value"] == len(touched(start, end))
        assert sum(each["value"] for each in found["results"]) == found["value"]


@pytest.mark.parametrize("minute", [10, 20, 25])
def test_what_is_paid_is_what_is_counted(ask: Ask, minute: int) -> None:
    start, end = NOON + timedelta(minutes=minute), NOON + timedelta(minutes=180)
    got = ask("analytics", start, end, external_customer_id="cut", feature_ids=["calls"])
    (item,) = got["items"]
    wanted = [row for row in touched(start, end) if row["external_customer_id"] == "cut"]
    assert item["total_usage"] == str(len(wanted))
    assert Decimal(item["total_cost"]) == Decimal(len(wanted)) / 100
