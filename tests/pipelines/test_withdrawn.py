"""Drafts that no longer result from catalog and usage are withdrawn by the next bill."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meters.catalog import Catalog
from meters.timestamps import parse_timestamp
from runners import bills
from runners.invoices import run_list, run_show
from tests.acceptance.samples import event
from tests.pipelines.billed import Bills
from tests.pipelines.runs import Tenant
from tests.pipelines.test_thresholds import WORLD
from warehouse.event_lookup import lines_of
from warehouse.invoices import invoice_page, list_invoices, read_invoices

USED = [("a", "2026-03-10T12:00:00Z", 6), ("b", "2026-03-11T12:00:00Z", 30)]
MIDDLE = "2026-03-20T00:00:00Z"


@pytest.fixture
def site(new_tenant: Callable[[Catalog], Tenant]) -> Bills:
    """Two thresholds are reached, by one customer on his only subscription."""
    tenant = new_tenant(WORLD)
    tenant.backfill([event(key, "acme", at, value) for key, at, value in USED])
    return Bills(tenant)


def without(*names: str, **more: Any) -> Catalog:
    """The world without what it has under these names."""
    return WORLD.model_copy(update={**{name: [] for name in names}, **more})


def bill(site: Bills, as_of: str = MIDDLE, catalog: Catalog | None = None, **more: Any) -> Any:
    return list(
        bills.each_bill(
            catalog or site.tenant.catalog,
            site.url,
            as_of=parse_timestamp(as_of),
            tenant=site.tenant.name,
            **more,
        )
    )


def stored(site: Bills, status: str | None = None) -> list[tuple[Any, ...]]:
    found = list_invoices(site.tenant.warehouse, site.tenant.name, status=status)
    return [(each["status"], each["sequence"], each["period_end"]) for each in found]


ONE = ("draft", 1, "2026-03-10T13:00:00Z")
TWO = ("draft", 2, "2026-03-11T13:00:00Z")


def test_later_usage_makes_a_draft_vanish_and_other_usage_brings_it_back(site: Bills) -> None:
    first, second = bill(site)
    assert stored(site) == [ONE, TWO]
    site.tenant.backfill([event("less", "acme", "2026-03-09T12:00:00Z", -6)])
    [moved] = bill(site)
    assert moved["invoice_id"] == first["invoice_id"]
    assert stored(site) == [("draft", 1, TWO[2])]
    gone = {**second, "status": "withdrawn"}
    assert list_invoices(site.tenant.warehouse, site.tenant.name, status="withdrawn") == [gone]
    assert bill(site) == [moved]
    site.tenant.backfill([event("more", "acme", "2026-03-09T13:00:00Z", 6)])
    assert [each["invoice_id"] for each in bill(site)] == [
        first["invoice_id"],
        second["invoice_id"],
    ]
    assert stored(site, "withdrawn") == []
    assert len(stored(site)) == 2


def test_a_withdrawn_draft_is_shown_and_listed_where_it_is_asked_for(
    site: Bills, capsys: pytest.CaptureFixture[str]
) -> None:
    (found, _) = bill(site)
    bill(site, catalog=without("subscriptions"))
    given = {"tenant": site.tenant.name, "form": "csv"}
    run_list(site.url, None, customer=None, status=None, **given)  # type: ignore[arg-type]
    assert found["invoice_id"] not in capsys.readouterr().out
    run_list(site.url, None, customer=None, status="withdrawn", **given)  # type: ignore[arg-type]
    assert found["invoice_id"] in capsys.readouterr().out
    run_show(site.url, None, found["invoice_id"], tenant=site.tenant.name, form="html")
    assert "Draft, withdrawn" in capsys.readouterr().out


def test_an_event_and_pages_of_invoices_do_not_show_a_withdrawn_draft(site: Bills) -> None:
    found = bill(site)
    where = site.tenant.warehouse, site.tenant.name
    at = parse_timestamp("2026-03-09T12:00:00Z")

    def shown() -> tuple[list[Any], list[Any], list[Any]]:
        lines = lines_of(*where, customer="acme", subscription="s", meter="tokens", at=at)
        pages = [invoice_page(*where, status=status, limit=9)[0] for status in (None, "withdrawn")]
        return [each["invoice_id"] for each in lines], *pages

    ids = sorted(each["invoice_id"] for each in found)
    lines, page, withdrawn = shown()
    assert (lines, len(page), withdrawn) == (ids, 2, [])
    bill(site, catalog=without("subscriptions"))
    lines, page, withdrawn = shown()
    assert (lines, page, len(withdrawn)) == ([], [], 2)


@pytest.mark.parametrize(
    ("as_of", "more", "left"),
    [
        pytest.param(MIDDLE, {}, [], id="all that was due"),
        pytest.param("2026-03-11T00:00:00Z", {}, [TWO], id="what is due later stays"),
        pytest.param(MIDDLE, {"preview": True}, [ONE, TWO], id="a preview writes nothing"),
        pytest.param(MIDDLE, {"customer": "other"}, [ONE, TWO], id="another customer was billed"),
    ],
)
def test_only_what_was_billed_is_withdrawn(
    site: Bills, as_of: str, more: dict[str, Any], left: list[Any]
) -> None:
    assert len(bill(site)) == 2
    other = [*WORLD.customers, WORLD.customers[0].model_copy(update={"id": "other"})]
    bill(site, as_of, without("subscriptions", customers=other), **more)
    assert stored(site) == left


def test_customers_that_the_catalog_does_not_have_are_left_alone(site: Bills) -> None:
    assert len(bill(site)) == 2
    assert bill(site, catalog=without("subscriptions", "customers", "credits")) == []
    assert stored(site) == [ONE, TWO]


def test_what_somebody_else_has_written_meanwhile_stays(site: Bills) -> None:
    began = datetime.now(UTC)
    bill(site)
    tenant = site.tenant

    def withdraw(when: datetime) -> None:
        as_of = parse_timestamp(MIDDLE)
        assert not list(
            bills.withdrawing(
                [],
                tenant.warehouse,
                tenant.name,
                tenant.catalog,
                as_of=as_of,
                customer=None,
                began=when,
            )
        )

    withdraw(began)
    assert stored(site) == [ONE, TWO]
    withdraw(began + timedelta(hours=1))
    assert stored(site) == []


def test_finalizing_withdraws_as_well_and_what_is_final_stays(site: Bills) -> None:
    first, second = bill(site)
    [final] = site.finalize("2026-03-11T00:00:00Z")
    assert final["invoice_id"] == first["invoice_id"]
    site.tenant.catalog = without("subscriptions")
    assert site.finalize(MIDDLE) == []
    assert stored(site) == [("finalized", *ONE[1:])]
    kept = read_invoices(site.tenant.warehouse, site.tenant.name, [second["invoice_id"]])
    assert kept == {second["invoice_id"]: {**second, "status": "withdrawn"}}
