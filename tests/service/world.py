"""A tenant with events, usage and invoices, and a client of the service that shows them."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

from meters.catalog import Catalog
from runners.bills import each_bill
from service.app import create_app
from service.context import Service
from service.keys import KeyStore, Right
from service.settings import Settings
from tests.pipelines.runs import Tenant
from warehouse.client import Warehouse

START = datetime(2026, 9, 1, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script>"

CATALOG: dict[str, Any] = {
    "meters": [
        {"id": "calls", "event_name": "call", "aggregation": "count", "group_by": ["region"]},
        {"id": "tokens", "event_name": "call", "aggregation": "sum", "property": "tokens"},
        {"id": "average", "event_name": "call", "aggregation": "avg", "property": "tokens"},
        {"id": "last", "event_name": "call", "aggregation": "latest", "property": "tokens"},
        {"id": "users", "event_name": "call", "aggregation": "unique_count", "property": "user"},
        {
            "id": "peak",
            "event_name": "call",
            "aggregation": "max",
            "property": "tokens",
            "bucket": "day",
        },
        {
            "id": "peaks",
            "event_name": "call",
            "aggregation": "max",
            "property": "tokens",
            "bucket": "hour",
            "group_by": ["region"],
        },
        {
            "id": "eu_tokens",
            "event_name": "call",
            "aggregation": "sum",
            "property": "tokens",
            "filters": {"region": ["eu"]},
        },
        {
            "id": "level",
            "event_name": "call",
            "aggregation": "weighted_sum",
            "property": "tokens",
        },
        {
            "id": "p95",
            "event_name": "call",
            "aggregation": "percentile",
            "property": "tokens",
            "percentile": 95,
        },
        {"id": "odd", "event_name": SCRIPT, "aggregation": "count", "group_by": ['/key"é']},
    ],
    "customers": [
        {"id": "acme", "time_zone": "Europe/Berlin", "currency": "EUR"},
        {"id": "b/ra", "time_zone": "Asia/Kolkata", "currency": "EUR"},
        {"id": "Ωmega", "time_zone": "America/New_York", "currency": "EUR"},
    ],
    "plans": [
        {
            "id": "pro",
            "currency": "EUR",
            "charges": [
                {"id": "base", "fee": "49.00"},
                {
                    "id": "calls",
                    "meter": "calls",
                    "price": {"model": "unit", "unit_amount": "0.10"},
                },
                {
                    "id": "tokens",
                    "meter": "tokens",
                    "price": {"model": "unit", "unit_amount": "0.01"},
                },
            ],
        }
    ],
    "subscriptions": [
        {
            "id": "sub_acme",
            "customer": "acme",
            "plan": "pro",
            "start": "2026-09-05T00:00:00Z",
            "commitment": {"amount": "100.00"},
        },
        {"id": "sub_bra", "customer": "b/ra", "plan": "pro", "start": "2026-09-01T00:00:00Z"},
    ],
}


def events(number: int = 600, seed: int = 7) -> list[dict[str, Any]]:
    """Events of nine weeks, with a duplicate, a conflict, refused and odd ones among them."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for place in range(number):
        at = START + timedelta(minutes=chance.randrange(9 * 7 * 24 * 60))
        rows.append(
            {
                "event_id": f"e{place}",
                "event_name": "call",
                "external_customer_id": chance.choice(["acme", "acme", "b/ra", "Ωmega"]),
                "timestamp": at.isoformat(),
                "properties": {
                    "region": chance.choice(["eu", "us", 5, True, None, 'a/b"c']),
                    "tokens": str(Decimal(chance.randrange(1, 10**6)) / 1000),
                    "user": chance.randrange(20),
                },
            }
        )
    first = rows[0]
    conflict = {**rows[1], "properties": {**rows[1]["properties"], "tokens": "1"}}
    conflict["ingested_at"] = "2199-01-01T00:00:00Z"
    bad = {**first, "event_id": "bad", "timestamp": "yesterday"}
    half = {**first, "event_id": "half", "properties": {"region": "eu", "tokens": SCRIPT}}
    odd = {
        **first,
        "event_id": SCRIPT,
        "event_name": SCRIPT,
        "properties": {'/key"é': '}, "x": "'},
    }
    stray = {**first, "event_id": "stray", "external_customer_id": "nobody"}
    return [*rows, dict(first), conflict, bad, half, odd, stray]


@dataclass
class World:
    """One tenant, what was sent, and the service over it."""

    tenant: Tenant
    sent: list[dict[str, Any]]
    service: Service
    keys: KeyStore
    client: TestClient
    invoices: list[dict[str, Any]]

    @property
    def warehouse(self) -> Warehouse:
        return self.tenant.warehouse

    @property
    def catalog(self) -> Catalog:
        return self.tenant.catalog

    def key(self, *rights: Right, tenant: str | None = None) -> str:
        """A new key's text."""
        _, text = self.keys.create(tenant or self.tenant.name, rights)
        self.keys._checked = 0.0
        return text

    def get(self, path: str, key: str | None = None, **query: Any) -> httpx.Response:
        """A request with a key that may read."""
        headers = {"x-api-key": key or self.reader}
        return self.client.get(path, params=query, headers=headers)  # type: ignore[return-value]

    def read(self, path: str, **query: Any) -> Any:
        """The answer, with exact numbers."""
        got = self.get(path, **query)
        assert got.status_code == 200, got.text
        return json.loads(got.text, parse_float=Decimal)

    def post(self, path: str, body: Any, key: str | None = None) -> httpx.Response:
        headers = {"x-api-key": key or self.reader}
        return self.client.post(path, json=body, headers=headers)  # type: ignore[return-value]

    def __post_init__(self) -> None:
        self.reader = self.key("read")
        self.key_for_everything = self.key("admin")


@contextmanager
def opened(warehouse: Warehouse, url: str, folder: Path) -> Iterator[World]:
    """The world, its events backfilled and its invoices drafted."""
    name = uuid.uuid4().hex
    tenant = Tenant(warehouse, url, name, Catalog.model_validate(CATALOG), folder)
    sent = events()
    tenant.backfill(sent)
    invoices = list(
        each_bill(tenant.catalog, (url, False), as_of=START + timedelta(days=60), tenant=name)
    )
    keys = KeyStore(folder / "keys.json")
    service = Service(Settings(tenant=name), keys, tenant.catalog, warehouse)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield World(tenant, sent, service, keys, client, invoices)
