"""Bills over HTTP say what the commands say: previews, explanations and what is left of credit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from meters.catalog import Catalog
from runners.bills import each_bill
from runners.finalize import Finalizing, each_final
from runners.journals import JournalUrl, existing_journal
from service.app import create_app
from service.context import Service
from service.keys import KeyStore
from service.settings import Settings
from tests.pipelines.runs import Tenant
from tests.service.world import CATALOG, SCRIPT, START, World, events
from transforms import explanations
from warehouse.client import Warehouse

Row = dict[str, Any]
OCTOBER, NOVEMBER = START + timedelta(days=40), START + timedelta(days=75)
PLAN = CATALOG["plans"][0]
BILLED = {
    **CATALOG,
    "plans": [
        {
            **PLAN,
            "charges": [
                {**PLAN["charges"][0], "description": SCRIPT},
                PLAN["charges"][1],
                {
                    "id": "tokens",
                    "meter": "tokens",
                    "included": 100,
                    "price": {
                        "model": "graduated",
                        "tiers": [
                            {"up_to": 5000, "unit_amount": "0.013"},
                            {"unit_amount": "0.007"},
                        ],
                    },
                },
            ],
        }
    ],
    "credits": [
        {
            "id": "welcome",
            "customer": "acme",
            "amount": "60.50",
            "currency": "EUR",
            "kind": "promotional",
            "start": "2026-09-05T00:00:00Z",
        },
        {
            "id": "later",
            "customer": "acme",
            "amount": "1000",
            "currency": "EUR",
            "start": "2026-10-01T00:00:00Z",
            "expires": "2027-02-01T00:00:00Z",
        },
    ],
}


@pytest.fixture(scope="module")
def billed(
    embedded: Warehouse, embedded_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[World, JournalUrl, list[Row]]]:
    """A tenant whose first period is final, and later ones drafts."""
    folder = tmp_path_factory.mktemp("billed")
    url, journal = (embedded_url, False), (f"sqlite://{folder}/journal.sqlite3", False)
    catalog = Catalog.model_validate(BILLED)
    tenant = Tenant(embedded, embedded_url, folder.name, catalog, folder)
    sent = events(200)
    tenant.backfill(sent)
    finalizing = Finalizing("ana", "a test needs no gate", date(2026, 11, 20))
    list(each_final(catalog, url, journal, finalizing, as_of=OCTOBER, tenant=folder.name))
    drafts = list(each_bill(catalog, url, journal, as_of=NOVEMBER, tenant=folder.name))

    @contextmanager
    def opened() -> Iterator[Any]:
        with existing_journal(journal, embedded, folder.name) as found:
            assert found is not None
            yield found

    keys = KeyStore(folder / "keys.json")
    service = Service(Settings(tenant=folder.name), keys, catalog, embedded, journal=opened)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield World(tenant, sent, service, keys, client, drafts), journal, drafts


@pytest.mark.parametrize("as_of", [OCTOBER, NOVEMBER])
def test_a_preview_is_that_of_the_command(
    billed: tuple[World, JournalUrl, list[Row]], embedded_url: str, as_of: Any
) -> None:
    world, journal, _ = billed
    wanted = list(
        each_bill(
            world.catalog,
            (embedded_url, False),
            journal,
            as_of=as_of,
            tenant=world.tenant.name,
            preview=True,
        )
    )
    for customer in ("acme", "b/ra", "Ωmega"):
        found = world.read("/v1/invoices/preview", customer=customer, as_of=as_of.isoformat())
        assert found["items"] == [each for each in wanted if each["customer"] == customer]
    assert {each["status"] for each in wanted} == (
        {"finalized", "preview"} if as_of == NOVEMBER else {"finalized"}
    )


def test_a_preview_without_anything_final_is_that_of_the_command(
    world: World, embedded_url: str
) -> None:
    at = START + timedelta(days=75)
    given = {"as_of": at, "tenant": world.tenant.name, "customer": "acme", "preview": True}
    wanted = list(each_bill(world.catalog, (embedded_url, False), **given))
    found = world.read("/v1/invoices/preview", customer="acme", as_of=at.isoformat())
    assert found["items"] == wanted
    assert {each["status"] for each in wanted} == {"preview"}
    assert not world.read("/v1/invoices/preview", customer="Ωmega")["items"]


def test_credit_is_what_final_invoices_have_left(
    billed: tuple[World, JournalUrl, list[Row]],
) -> None:
    world, _, documents = billed
    final = [each for each in documents if each["status"] == "finalized"]
    burnt = sum(Decimal(each["credit"]) for each in final if each["customer"] == "acme")
    assert burnt > 0
    found = world.read("/v1/customers/acme/credits", at="2026-11-30T00:00:00Z")
    later, welcome = found["items"]
    assert welcome == {
        "grant": "welcome",
        "kind": "promotional",
        "currency": "EUR",
        "granted": "60.50",
        "burnt": f"{burnt:.2f}",
        "lapsed": "0.00",
        "left": f"{Decimal('60.50') - burnt:.2f}",
        "start": "2026-09-05T00:00:00Z",
        "expires": None,
        "booked": True,
    }
    assert (later["kind"], later["expires"]) == ("paid", "2027-02-01T00:00:00Z")
    lapsed = world.read("/v1/customers/acme/credits", at="2027-02-01T00:00:00Z")["items"]
    assert lapsed[0]["left"] == "0.00"
    assert Decimal(lapsed[0]["lapsed"]) + Decimal(lapsed[0]["burnt"]) == 1000
    assert world.read("/v1/customers/b%2Fra/credits")["items"] == []


def test_a_journal_that_is_not_known_is_said(
    billed: tuple[World, JournalUrl, list[Row]], tmp_path: Path
) -> None:
    world = billed[0]

    @contextmanager
    def unknown() -> Iterator[Any]:
        with existing_journal(None, world.warehouse, world.tenant.name) as found:
            yield found

    service = Service(
        world.service.settings, world.keys, world.catalog, world.warehouse, journal=unknown
    )
    headers = {"x-api-key": world.reader}
    with TestClient(create_app(service)) as client:
        for path in ("/v1/customers/acme/credits", "/v1/invoices/preview?customer=acme"):
            got = client.get(path, headers=headers)
            assert (got.status_code, got.json()["code"]) == (503, "no_journal")


def test_an_explanation_is_that_of_the_command_with_words(
    billed: tuple[World, JournalUrl, list[Row]],
) -> None:
    world, _, documents = billed
    steps = set()
    for document in documents:
        found = world.read(f"/v1/invoices/{document['invoice_id']}/explanation")
        wanted = explanations.explain(world.warehouse, world.tenant.name, world.catalog, document)
        words = [line.pop("words") for line in found["lines"]]
        assert found.pop("language") == "en"
        assert found == json.loads(json.dumps(wanted), parse_float=Decimal)
        for line, said in zip(found["lines"], words, strict=True):
            steps |= {step["step"] for step in line["steps"]}
            assert line["title"] == (SCRIPT if line["charge"] == "base" else line["charge"])
            assert len(said) >= len(line["steps"]) > 0
            amounts = [Fraction(each["amount"]) for each in line["steps"] if "amount" in each]
            assert abs(sum(amounts) - Fraction(line["amount_exact"])) < Fraction(1, 10**20)
    assert "included" in steps
    german = world.read(f"/v1/invoices/{document['invoice_id']}/explanation", language="de")
    assert german["language"] == "de"
    assert [line["words"] for line in german["lines"]] != words


def test_what_cannot_be_explained_is_said(billed: tuple[World, JournalUrl, list[Row]]) -> None:
    world, _, documents = billed
    assert world.get("/v1/invoices/none/explanation").status_code == 404
    path = f"/v1/invoices/{documents[0]['invoice_id']}/explanation"
    got = world.get(path, language="klingon")
    assert (got.status_code, got.json()["errors"][0]["path"]) == (400, "language")


@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/v1/invoices/preview", {}, "query.customer"),
        ("/v1/invoices/preview", {"customer": "nobody"}, "customer"),
        ("/v1/invoices/preview", {"customer": "acme", "as_of": "today"}, "as_of"),
        ("/v1/customers/nobody/credits", {}, "customer"),
        ("/v1/customers/acme/credits", {"at": "2026-11-01"}, "at"),
    ],
)
def test_a_wrong_parameter_is_named(world: World, path: str, query: Row, field: str) -> None:
    got = world.get(path, **query)
    assert got.status_code in (400, 422)
    (fault,) = got.json()["errors"]
    assert fault["path"] == field
    assert fault["expected"]
