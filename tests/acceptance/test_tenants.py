"""Tenants share a warehouse and never see each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.acceptance.samples import COUNT, SUM, catalog, event, found, plan, subscription, unit


@pytest.fixture(scope="module")
def tenants(module_site, tmp_path_factory):
    warehouse = tmp_path_factory.mktemp("shared") / "warehouse"
    result = {}
    for name, amount, value in (("one", "1", 10), ("two", "3", 7)):
        site = module_site(
            catalog(
                {"c": "UTC"},
                plans=(plan("p", unit("t", "tokens", amount)),),
                subscriptions=(subscription("s", "c", "p", "2026-03-01T00:00:00Z"),),
                meters=(COUNT, SUM),
            ),
            tenant=name,
            shared=warehouse,
        )
        events = [event("same", "c", "2026-03-02T00:00:00Z", value)]
        if name == "two":
            events.append(event("more", "c", "2026-03-02T00:00:00Z", 1))
        site.counts = site.backfill(site.write("e.jsonl", events))
        result[name] = site
    return result


def test_the_same_id_in_two_tenants_is_two_events(tenants):
    for name, value in (("one", "10"), ("two", "8")):
        assert found(tenants[name].usage("hour"), "tokens") == [
            ("2026-03-02T00:00:00Z", "2026-03-02T01:00:00Z", value)
        ]


def test_a_bill_holds_the_usage_and_prices_of_its_tenant(tenants):
    bills = {name: site.bill("2026-04-01T00:00:00Z") for name, site in tenants.items()}
    assert [b["total"] for b in bills["one"]] == ["10.00"]
    assert [b["total"] for b in bills["two"]] == ["24.00"]
    assert bills["one"][0]["invoice_id"] != bills["two"][0]["invoice_id"]


def test_another_tenant_sees_nothing(tenants):
    three = replace(tenants["one"], tenant="three")
    assert three.usage("hour") == []
