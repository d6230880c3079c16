"""Explanations of what goes from invoice to invoice, and of meters that are read over time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from typing import Any

from meters.catalog import Catalog
from meters.catalog_file import catalog_content, catalog_hash
from meters.timeline import ALWAYS, Timeline
from meters.zones import microseconds
from tests.acceptance.samples import event
from tests.pipelines.billed import Bills, adds_up, total
from tests.pipelines.runs import Tenant
from transforms.explained_events import events_of
from warehouse.catalogs import announce

Row = dict[str, Any]
START, MARCH, APRIL, MAY = (f"2026-{month:02}-01T00:00:00Z" for month in (2, 3, 4, 5))


def catalog(meters: list[Row], charges: list[Row], **more: Any) -> Catalog:
    return Catalog.model_validate(
        {
            "meters": [{"event_name": "call", "property": "v", **meter} for meter in meters],
            "customers": [{"id": "acme"}],
            "plans": [{"id": "p", "currency": "EUR", "charges": charges}],
            "subscriptions": [{"id": "s", "customer": "acme", "plan": "p", "start": START}],
            **more,
        }
    )


def charge(meter: str, amount: str = "0.1", **more: Any) -> Row:
    price = {"model": "unit", "unit_amount": amount}
    return {"id": f"c_{meter}", "meter": meter, "price": price, **more}


def calls(*rows: tuple[str, object], **more: Any) -> list[Row]:
    return [
        event(f"e{n}", "acme", f"2026-{at}", value, **more) for n, (at, value) in enumerate(rows)
    ]


TOKENS = {"id": "tokens", "aggregation": "sum"}


def test_units_that_roll_over_or_are_shared_and_a_true_up_add_up(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    pool = {"id": "pool", "customer": "acme", "meter": "tokens", "units": 12, "start": START}
    commitment = {"amount": 50, "overage_factor": "1.5"}
    world = catalog(
        [TOKENS],
        [charge("tokens", included=10, rollover={"periods": 2})],
        entitlements=[pool],
    )
    content = world.model_dump(exclude_defaults=True, by_alias=True)
    content["plans"][0]["commitment"] = commitment
    tenant = new_tenant(Catalog.model_validate(content))
    site = Bills(tenant)
    rows = calls(("02-10T10:00:00Z", 4), ("03-10T10:00:00Z", 40), ("04-10T10:00:00Z", 2))
    tenant.backfill(rows)
    found = site.finalize(MARCH)
    # Late usage of a month that is final changes nothing of what comes after it.
    tenant.backfill([event("late", "acme", "2026-02-11T10:00:00Z", 3)])
    found += site.finalize(MAY)[1:]
    explained = [site.explain(each) for each in found]
    kinds = [adds_up(*each) for each in zip(explained[1:], found[1:], strict=True)]
    assert not explained[0]["matches"], "nothing was charged, but it says another quantity"
    [march, *_] = explained[1]["lines"]
    # 6 were left of February, 10 are March's own, 12 are shared: 12 of 40 are charged.
    assert [
        (step["step"], step["included"], step["quantity"])
        for step in march["steps"]
        if "included" in step
    ] == [("included", "10", "30"), ("more_free", "18", "12")]
    assert "commitment" in kinds[0]


def test_tiers_that_continue_add_up_with_discount_bound_and_rounding_by_tier(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    tiers = [{"up_to": 10, "unit_amount": "0.333", "flat_amount": 2}, {"unit_amount": "0.1"}]
    more = {
        "id": "c",
        "meter": "tokens",
        "tiers": "continue",
        "price": {"model": "graduated", "tiers": tiers},
    }
    plans = [
        {"id": "p", "currency": "EUR", "charges": [more]},
        {"id": "q", "currency": "EUR", "charges": [{**more, "discount": {"percent": 10}}]},
        {"id": "r", "currency": "EUR", "charges": [{**more, "round": "tier", "maximum": 3}]},
    ]
    changes = [{"from": "2026-02-08T00:00:00Z", "plan": "q"}]
    changes += [{"from": "2026-02-15T00:00:00Z", "plan": "r"}]
    subscription = {"id": "s", "customer": "acme", "plan": "p", "start": START, "changes": changes}
    tenant = new_tenant(catalog([TOKENS], [], plans=plans, subscriptions=[subscription]))
    site = Bills(tenant)
    tenant.backfill(calls(("02-05T10:00:00Z", 7), ("02-10T10:00:00Z", 8), ("02-20T10:00:00Z", 20)))
    [found] = site.finalize(MARCH)
    explained = site.explain(found)
    kinds = adds_up(explained, found)
    assert {"earlier", "discount", "tier_rounding"} <= kinds
    amounts = [line["amount"] for line in explained["lines"]]
    # 7 x 0.333 + 2; then 15 units cost 5.83, less 4.331, less 10 %; then 20 more at 0.10.
    assert amounts == ["4.33", "1.35", "1.50"]


def test_units_that_count_from_their_event_on_add_up(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    tenant = new_tenant(catalog([TOKENS], [charge("tokens", prorate_events=True)]))
    site = Bills(tenant)
    tenant.backfill(calls(("02-15T10:00:00Z", 6), ("02-22T10:00:00Z", 4)))
    [found] = site.finalize(MARCH)
    explained = site.explain(found)
    assert "shares" in adds_up(explained, found)
    assert [line["quantity"] for line in explained["lines"]] == ["4"]  # 6 / 2 + 4 / 4


def test_levels_and_recurring_meters_add_up_by_their_days(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    meters: list[Row] = [
        {"id": "stored", "aggregation": "weighted_sum", "recurring": True},
        {"id": "read", "aggregation": "weighted_sum", "level": "readings"},
        {"id": "seats", "aggregation": "sum", "recurring": True},
        {
            "id": "users",
            "aggregation": "unique_count",
            "property": "user",
            "operation_property": "op",
            "recurring": True,
        },
        {"id": "p95", "aggregation": "percentile", "percentile": 95},
        {"id": "last", "aggregation": "latest"},
        {"id": "most", "aggregation": "max"},
        {"id": "mean", "aggregation": "avg"},
    ]
    tenant = new_tenant(catalog(meters, [charge(meter["id"]) for meter in meters]))
    site = Bills(tenant)
    rows = []
    for n, (at, value) in enumerate(
        [("02-10T10:30:00Z", 6), ("02-20T00:00:00Z", 3), ("03-10T07:00:00Z", 5)]
    ):
        properties = {"v": value, "user": f"u{n}", "op": "add"}
        rows.append(event(f"e{n}", "acme", f"2026-{at}", properties=properties))
    tenant.backfill(rows)
    documents = site.finalize(MAY)
    assert len(documents) == 3
    for document in documents:
        found = site.explain(document)
        adds_up(found, document)
        for line in found["lines"]:
            quantity = Fraction(line["quantity"])
            values = [(day, Fraction(day["value"])) for day in line["days"] if day["value"]]
            if line["meter"] in ("stored", "read"):
                area = sum((value * seconds(day) for day, value in values), Fraction(0))
                span = {"start": document["period_start"], "end": document["period_end"]}
                assert abs(area / seconds(span) - quantity) < Fraction(1, 10**10)
            elif line["meter"] in ("seats", "users", "last") and values:
                assert values[-1][1] == quantity
            elif line["meter"] in ("most", "p95") and values:
                assert max(value for _, value in values) == quantity
    # April has no event: what is there goes on.
    april = {line["meter"]: line["quantity"] for line in documents[-1]["lines"]}
    assert (april["stored"], april["seats"], april["users"]) == ("14", "14", "3")


def seconds(span: Row) -> int:
    start, end = (datetime.fromisoformat(span[name]) for name in ("start", "end"))
    return int((end - start).total_seconds())


def test_events_are_metered_by_the_catalog_of_their_hour(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    fixed = {"model": "percentage", "rate": 0, "fixed_amount": "0.5", "free_events": 1}
    first = catalog(
        [TOKENS], [charge("tokens"), {**charge("tokens"), "id": "each", "price": fixed}]
    )
    content = first.model_dump(exclude_defaults=True, by_alias=True)
    content["meters"] = [{**TOKENS, "event_name": "other", "property": "w"}]
    second = Catalog.model_validate(content)
    at = microseconds(datetime.fromisoformat("2026-02-15T00:00:00Z"))
    tenant = new_tenant(first)
    for when, each in ((0, first), (at, second)):
        announce(tenant.warehouse, tenant.name, when, catalog_hash(each), catalog_content(each))
    tenant.timeline = Timeline([(ALWAYS, first), (at, second)])
    tenant.catalog = second
    site = Bills(tenant)
    rows = calls(("02-10T10:00:00Z", 4), ("02-20T10:00:00Z", 100))
    changed = {"event_name": "other", "properties": {"w": 7}}
    rows.append(event("f", "acme", "2026-02-21T10:00:00Z", **changed))
    rows.append(event("g", "acme", "2026-02-05T10:00:00Z", **changed))
    tenant.backfill(rows)
    [document] = site.finalize(MARCH)
    found = site.explain(document)
    adds_up(found, document)
    assert [(line["quantity"], line["amount"]) for line in document["lines"]] == [
        ("11", "1.10"),
        ("11", "0.50"),
    ]
    listed = list(events_of(tenant.warehouse, tenant.name, second, document))
    assert [(row["event_id"], row["value"]) for row in listed] == [("e0", "4"), ("f", "7")] * 2
    assert total([str(row["value"]) for row in listed]) == 22
