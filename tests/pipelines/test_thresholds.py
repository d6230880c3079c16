"""Invoices at thresholds become final one by one; nothing is billed twice, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from meters.catalog import Catalog
from meters.errors import ConfigurationError
from meters.timestamps import parse_timestamp
from runners.journals import open_journal
from tests.acceptance.samples import event
from tests.pipelines.billed import Bills, adds_up
from tests.pipelines.runs import Tenant
from transforms.open_periods import open_periods
from transforms.preview import preview_invoices

Row = dict[str, Any]
TIERS = [{"up_to": 10, "unit_amount": "1"}, {"unit_amount": "0.1"}]
WORLD = Catalog.model_validate(
    {
        "meters": [
            {"id": "tokens", "event_name": "call", "aggregation": "sum", "property": "v"},
            {"id": "peak", "event_name": "call", "aggregation": "max", "property": "v"},
        ],
        "customers": [{"id": "acme", "tax": "vat"}],
        "plans": [
            {
                "id": "steps",
                "currency": "EUR",
                "thresholds": [5, 12],
                "charges": [
                    {
                        "id": "t",
                        "meter": "tokens",
                        "price": {"model": "graduated", "tiers": TIERS},
                    },
                    {"id": "p", "meter": "peak", "price": {"model": "unit", "unit_amount": "0"}},
                    {"id": "fee", "fee": "3"},
                ],
            }
        ],
        "subscriptions": [
            {"id": "s", "customer": "acme", "plan": "steps", "start": "2026-03-01T00:00:00Z"}
        ],
        "taxes": [{"id": "vat", "rate": 20}],
        "credits": [
            {
                "id": "g",
                "customer": "acme",
                "amount": 8,
                "currency": "EUR",
                "start": "2026-01-01T00:00:00Z",
            }
        ],
        "issuers": [{"id": "eu", "number_format": "{year}-{number}"}],
    }
)
FIRST = [("a", "2026-03-10T12:00:00Z", 6), ("b", "2026-03-11T12:00:00Z", 6)]
LATER = [("late", "2026-03-09T12:00:00Z", 2), ("c", "2026-03-12T12:00:00Z", 30)]


def facts(documents: list[Row]) -> list[tuple[Any, ...]]:
    keys = ("status", "hold_reason", "sequence", "period_end", "subtotal", "prepaid")
    return [(numbered(each), *(each[key] for key in keys)) for each in documents]


def numbered(document: Row) -> int:
    return int(document["number"].split("-")[1])


END = "2026-04-01T00:00:00Z"
FINAL = [
    # 6 at 1.00, and 20 % tax; then 8 + 36 units are 10 and 3.40, less the 6.00.
    (1, "finalized", None, 1, "2026-03-10T13:00:00Z", "6.00", "7.20"),
    (2, "finalized", None, 2, "2026-03-12T13:00:00Z", "7.40", "0.80"),
    (3, "finalized", None, 0, END, "3.00", "0.00"),
]


def billed(documents: list[Row]) -> Decimal:
    return sum((Decimal(each["subtotal"]) for each in documents), Decimal(0))


def of_acme(tenant: Tenant, site: Bills, as_of: str) -> list[Row]:
    """What the service shows as a preview."""
    when = parse_timestamp(as_of)
    with open_journal(site.journal) as journal:
        return preview_invoices(
            tenant.catalog, tenant.warehouse, tenant.name, "acme", when, journal
        )


def test_thresholds_are_final_one_by_one_and_tiers_go_on(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    tenant = new_tenant(WORLD)
    site = Bills(tenant)
    tenant.backfill([event(key, "acme", at, value) for key, at, value in FIRST])
    early = site.finalize("2026-03-11T00:00:00Z")
    assert facts(early) == FINAL[:1]
    adds_up(site.explain(early[0]), early[0])
    # An event of an hour that is billed already: it is part of what comes next.
    tenant.backfill([event(key, "acme", at, value) for key, at, value in LATER])
    previews = site.preview(END)
    assert of_acme(tenant, site, END) == previews
    assert [each["subtotal"] for each in previews] == ["6.00", "7.40", "3.00"]
    with open_journal(site.journal) as journal:
        at = parse_timestamp("2026-03-16T12:00:00Z")
        (period,) = open_periods(tenant.catalog, tenant.warehouse, tenant.name, "acme", at, journal)
    assert period.to_date.to_dict() == previews[-1]
    # The whole period would have 88 units: 10 at 1.00 and 78 at 0.10, less 13.40 billed by
    # thresholds, and the fee. What is spent is all until now, as `billed` has it below.
    assert str(period.projected.subtotal) == "7.40"
    assert str(period.spent) == "16.40"
    found = site.finalize(END)
    assert facts(found) == FINAL
    assert [each["invoice_id"] for each in found] == [each["invoice_id"] for each in previews]
    assert len({line["line_id"] for each in found for line in each["lines"]}) == 5
    assert site.finalize(END) == found == site.preview(END) == of_acme(tenant, site, END)
    assert facts(site.preview("2026-03-11T00:00:00Z")) == FINAL[:1]
    # What came late is in the explanation of the invoice that bills it.
    kinds = [adds_up(site.explain(each), each) for each in found[1:]]
    assert ["billed" in each for each in kinds] == [True, True]
    assert not site.explain(found[0])["matches"]
    assert billed(found) == Decimal("16.40")  # 10 at 1.00, 34 at 0.10, and the fee


def test_a_part_that_later_ones_go_on_from_is_made_void_after_these(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    tenant = new_tenant(WORLD)
    site = Bills(tenant)
    rows = [event(key, "acme", at, value) for key, at, value in [*FIRST, *LATER]]
    tenant.backfill(rows)
    before = site.finalize(END)
    assert [each["subtotal"] for each in before] == ["8.00", "5.40", "3.00"]
    first, second, third = (each["number"] for each in before)
    for number in (first, second):
        with pytest.raises(ConfigurationError, match=f"void after {third}, .*got {number}"):
            site.void(number)
    for number in (third, second, first):
        site.void(number)
    again = site.finalize(END)
    assert [(numbered(each), each["sequence"]) for each in again] == [(4, 3), (5, 4), (6, 1)]
    sums = ("subtotal", "tax", "prepaid", "period_end")
    assert [[each[k] for k in sums] for each in again] == [[e[k] for k in sums] for e in before]
    with open_journal(site.journal) as journal:
        assert journal.problems(tenant.name) == []
        assert sum(Decimal(entry.amount) for entry in journal.ledger(tenant.name)) == 0


def test_a_part_waits_for_usage_and_later_ones_for_it(
    new_tenant: Callable[[Catalog], Tenant],
) -> None:
    tenant = new_tenant(WORLD)
    site = Bills(tenant)
    tenant.backfill([event(key, "acme", at, value) for key, at, value in [*FIRST, *LATER]])
    tenant.own("2026-03-10T12:30:00Z")
    assert [each["hold_reason"] for each in site.finalize("2026-03-20T00:00:00Z")] == [
        "usage_open",
        "usage_open",
    ]
    tenant.own("2026-03-11T00:00:00Z")
    assert [each["hold_reason"] for each in site.finalize("2026-03-20T00:00:00Z")] == [
        None,
        "usage_open",
    ]
    tenant.mark(tenant.store([event("dirty", "acme", "2026-03-10T12:10:00Z", 1)]))
    tenant.own("2026-05-01T00:00:00Z", owned=False)
    assert [each["hold_reason"] for each in site.finalize(END)] == [None, "dirty", "dirty"]
    tenant.repair()
    done = site.finalize(END)
    assert [each["status"] for each in done] == ["finalized"] * 3
    assert billed(done) == Decimal("16.50")
