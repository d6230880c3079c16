"""Laws of all invoices of a customer: order and repetition change nothing, sums agree."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from billing.customer import SlotUsage, begun_slots, bill_customer, due_slots
from billing.invoice import Invoice
from billing.quantities import UsageOf
from billing.slots import Slot
from billing.thresholds import candidates
from meters.catalog import Catalog
from tests.billing.given import instant, prices

Row = dict[str, Any]
START = "2026-01-01T00:00:00Z"
UNTIL = instant("2026-04-01T00:00:00Z")


@st.composite
def customers(draw: st.DrawFn) -> tuple[Catalog, list[SlotUsage]]:
    """A customer with two or three subscriptions, everything shared, and their usage."""
    charges: list[Row] = []
    for number in range(draw(st.integers(1, 2))):
        given: Row = {"id": f"u{number}", "meter": "m", "price": draw(prices)}
        if draw(st.booleans()):
            given |= {"included": draw(st.integers(1, 20)), "rollover": {"periods": 2}}
        charges.append(given)
    charges.append(
        {"id": "fee", "fee": "9.99", "when": draw(st.sampled_from(["advance", "arrears"]))}
    )
    names = ["a", "b", "c"][: draw(st.integers(2, 3))]
    catalog = Catalog.model_validate(
        {
            "meters": [{"id": "m", "event_name": "e", "aggregation": "sum", "property": "x"}],
            "customers": [{"id": "c", "tax": "vat"}],
            "taxes": [{"id": "vat", "rate": 19, "inclusive": draw(st.booleans())}],
            "plans": [
                {
                    "id": "p",
                    "currency": "EUR",
                    "charges": charges,
                    "thresholds": draw(st.sampled_from([[], [5], [5, 50]])),
                }
            ],
            "coupons": [
                {"id": "percent", "percent": 15, "periods": 2},
                {"id": "amount", "amount": 3, "currency": "EUR"},
            ],
            "subscriptions": [
                {
                    "id": name,
                    "customer": "c",
                    "plan": "p",
                    "start": START,
                    "coupons": draw(st.sampled_from([[], ["percent"], ["percent", "amount"]])),
                }
                for name in names
            ],
            "credits": [
                {
                    "id": kind,
                    "customer": "c",
                    "amount": draw(st.integers(1, 60)),
                    "currency": "EUR",
                    "kind": kind,
                    "start": START,
                }
                for kind in ("paid", "promotional")
            ],
            "entitlements": [
                {"id": "pool", "customer": "c", "meter": "m", "units": 15, "start": START}
            ],
        }
    )
    slots: list[Slot] = []
    for name in names:
        slots += due_slots(catalog, name, UNTIL)
        for slot in begun_slots(catalog, name, UNTIL):
            middle = slot.period_start.replace(day=15)
            slots += candidates(slot, [middle])
    amounts = st.integers(0, 80).map(lambda quarter: Decimal(quarter) / 4)
    return catalog, [
        (slot, [{"m": UsageOf(draw(amounts), draw(st.integers(0, 3)))} for _ in slot.cuts])
        for slot in slots
    ]


def billed(catalog: Catalog, slots: Sequence[SlotUsage]) -> list[Invoice]:
    return list(bill_customer(catalog, slots))


@settings(max_examples=40)
@given(customers(), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_changes_an_invoice(
    case: tuple[Catalog, list[SlotUsage]], shuffle: random.Random
) -> None:
    catalog, slots = case
    found = billed(catalog, slots)
    assert billed(catalog, slots) == found
    shuffled = list(slots)
    shuffle.shuffle(shuffled)
    assert billed(catalog, shuffled) == found
    assert len({invoice.invoice_id for invoice in found}) == len(found)


@settings(max_examples=40)
@given(customers())
def test_lines_sum_to_totals_and_credits_never_go_below_0(
    case: tuple[Catalog, list[SlotUsage]],
) -> None:
    catalog, slots = case
    left = {grant.id: grant.amount for grant in catalog.credits}
    for invoice in billed(catalog, slots):
        nets = [line.amount - line.discount - line.credit + line.tax for line in invoice.lines]
        assert sum(nets, Decimal(0)) == invoice.total
        assert invoice.prepaid <= max(invoice.total, Decimal(0))
        for burn in invoice.burns:
            assert burn.amount >= 0
            left[burn.grant] -= burn.amount
    assert all(amount >= 0 for amount in left.values())
