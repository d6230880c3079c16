"""A server goes by the catalogs that are announced while it runs, each in its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from meters.catalog import Catalog
from meters.catalog_file import catalog_content, catalog_hash
from meters.errors import CatalogError, Problem
from meters.mapping import Mapping
from meters.reading import read_usage
from meters.timestamps import format_instant
from meters.zones import microseconds
from runners.backfill import backfill_counts
from runners.bills import each_bill
from runners.catalogs import catalog_to_read
from runners.commands import usage_before
from service.app import _learn, create_app
from service.catalogs import ServedCatalogs
from service.context import Service, now
from service.intake import Intake
from service.keys import RIGHTS, KeyStore
from service.settings import Limits, Settings
from tests.pipelines.runs import Tenant
from tests.service.sites import Kept
from tests.service.world import START, World
from warehouse.catalogs import announce
from warehouse.client import Warehouse

Row = dict[str, Any]
CHANGE = START + timedelta(days=10)
METER = {"id": "calls", "event_name": "call", "aggregation": "count", "group_by": ["region"]}
PLAN = {
    "id": "pro",
    "currency": "EUR",
    "charges": [{"id": "calls", "meter": "calls", "price": {"model": "unit", "unit_amount": "1"}}],
}


def subscription(customer: str) -> Row:
    return {
        "id": f"sub_{customer}",
        "customer": customer,
        "plan": "pro",
        "start": format_instant(START),
    }


def catalog(*customers: str, **meter: Any) -> Catalog:
    return Catalog.model_validate(
        {
            "meters": [{**METER, **meter}],
            "customers": [
                {"id": name, "time_zone": "UTC", "currency": "EUR"} for name in customers
            ],
            "plans": [PLAN],
            "subscriptions": [subscription(name) for name in customers],
        }
    )


OLD = catalog("acme")
NEW = catalog("acme", "later", filters={"region": ["eu"]})
FUTURE = catalog("acme", "later", "future", filters={"region": ["eu"]})


def events() -> list[Row]:
    return [
        {
            "event_id": f"{customer}-{region}-{day}",
            "event_name": "call",
            "external_customer_id": customer,
            "timestamp": format_instant(START + timedelta(days=day, hours=3)),
            "properties": {"region": region},
        }
        for customer in ("acme", "later")
        for region in ("eu", "us")
        for day in (5, 15)
    ]


@pytest.fixture
def served(
    embedded: Warehouse,
    embedded_url: str,
    tmp_path: Path,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """A server that was started with the first catalog, before another one was announced."""
    monkeypatch.setattr("transforms.catalogs.POLL_SECONDS", 0.0)
    own = Tenant(embedded, embedded_url, tenant, OLD, tmp_path)
    keys = KeyStore(tmp_path / "keys.json")
    settings = Settings(tenant=tenant)
    service = Service(settings, keys, OLD, embedded, intake=Intake(Kept(), Limits()))
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield World(own, events(), service, keys, client, [])


def change(world: World) -> None:
    """Announce two more catalogs, one of them for later, and load events of both times."""
    ahead = now() + timedelta(days=30)
    for at, each in ((0, OLD), (microseconds(CHANGE), NEW), (microseconds(ahead), FUTURE)):
        name = world.tenant.name
        announce(world.warehouse, name, at, catalog_hash(each), catalog_content(each))
    backfill_counts(
        OLD,
        (world.tenant.url, False),
        inputs=[str(world.tenant.file(world.sent))],
        mapping=Mapping(),
        tenant=world.tenant.name,
    )


def names(world: World, section: str) -> list[str]:
    return [row["id"] for row in world.read("/v1/catalog")[section]]


def test_a_server_goes_by_catalogs_that_are_announced_while_it_runs(served: World) -> None:
    world = served
    assert names(world, "customers") == ["acme"]
    assert world.get("/v1/usage", customer="later").status_code == 400
    change(world)
    assert names(world, "customers") == ["acme", "later", "future"]
    url = world.tenant.url, False
    chosen = {"customer": None, "subscription": None, "meter": None, "start": None, "end": None}
    reading = catalog_to_read(world.warehouse, world.tenant.name, OLD)
    rows, values = usage_before(world.warehouse, world.tenant.name, reading, chosen)
    wanted = [cell.to_dict() for cell in read_usage(reading, rows, values, "day")]
    found = world.read("/v1/usage", granularity="day")["items"]
    assert found == wanted
    counted = {(row["customer"], row["start"][:10], row["group"]["region"]) for row in found}
    assert counted == {
        ("acme", "2026-09-06", "eu"),
        ("acme", "2026-09-06", "us"),
        ("acme", "2026-09-16", "eu"),
        ("later", "2026-09-16", "eu"),
    }
    # Bills are those of the catalog in force: one that takes effect later bills nobody yet.
    as_of = START + timedelta(days=40)
    bills = list(each_bill(NEW, url, as_of=as_of, tenant=world.tenant.name, preview=True))
    query = {"customer": "later", "as_of": as_of.isoformat()}
    previewed = world.read("/v1/invoices/preview", **query)["items"]
    assert previewed == [each for each in bills if each["customer"] == "later"]
    assert previewed[0]["total"] == "1.00"
    got = world.get("/v1/customers/future/periods")
    assert (got.status_code, got.json()["errors"][0]["path"]) == (400, "customer")


def test_a_server_learns_on_after_a_catalog_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.app.POLL_SECONDS", 0.0)
    asked: list[str] = []

    class Stored:
        def at(self, _: datetime) -> None:
            asked.append("")
            if len(asked) < 4:
                raise CatalogError([Problem("stored", None, "plans", "must be a list")])
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(_learn(cast(ServedCatalogs, Stored())))
    assert len(asked) == 4
    assert [each.getMessage() for each in caplog.records if each.name == "service.app"] == [
        "the catalogs in time cannot be read: stored: plans: must be a list"
    ]


def test_an_event_is_traced_by_the_catalog_of_its_hour(served: World) -> None:
    world = served
    change(world)
    for event, status, results in (
        ("acme-us-5", "accepted", ["counted"]),
        ("acme-us-15", "unmetered", ["filtered"]),
        ("acme-eu-15", "accepted", ["counted"]),
        ("later-eu-5", "unmetered", []),
        ("later-eu-15", "accepted", ["counted"]),
    ):
        (found,) = world.read("/v1/events/trace", id=event)["items"]
        assert found["status"] == status, event
        assert [each["result"] for each in found["meters"]] == results, event
    (found,) = world.read("/v1/events/trace", id="later-eu-15")["items"]
    assert found["meters"][0]["subscription"] == "sub_later"


def test_lago_s_events_find_the_customer_of_an_announced_subscription(served: World) -> None:
    world = served
    _, key = world.keys.create(world.tenant.name, RIGHTS)
    world.keys._checked = 0.0
    body = {
        "event": {
            "transaction_id": "lago-1",
            "code": "call",
            "external_subscription_id": "sub_later",
            "properties": {"region": "eu"},
        }
    }
    assert world.post("/api/v1/events", body, key).status_code == 422
    change(world)
    until = time.monotonic() + 60
    while (got := world.post("/api/v1/events", body, key)).status_code != 200:
        assert got.status_code == 422
        assert time.monotonic() < until
        time.sleep(0.05)
