"""Credit grants: what they pay, in which order, and the ledger of it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.credits import LedgerEntry, postings
from billing.customer import SlotUsage, bill_customer, due_slots
from billing.invoice import Invoice
from meters.catalog import Catalog
from meters.errors import CatalogError
from tests.billing.documents import used
from tests.billing.given import instant
from tests.meters.catalog_texts import load

AS_OF = instant("2026-07-01T00:00:00Z")
START = "2026-01-01T00:00:00Z"


def catalog(*grants: dict[str, Any], subscriptions: int = 1, **more: Any) -> Catalog:
    """One customer with so many subscriptions; each month 10.00 for `a` and a unit price."""
    charges = [
        {"id": "a", "fee": "10.00"},
        {"id": "b", "meter": "m", "price": {"model": "unit", "unit_amount": "1"}},
    ]
    given: dict[str, Any] = {
        "meters": [{"id": "m", "event_name": "e", "aggregation": "count"}],
        "customers": [{"id": "acme", **more.pop("customer", {})}],
        "plans": [
            {"id": "eur", "currency": "EUR", "charges": charges},
            {"id": "usd", "currency": "USD", "charges": charges},
        ],
        "subscriptions": [
            {"id": f"s{n}", "customer": "acme", "plan": "eur", "start": START}
            for n in range(subscriptions)
        ],
        "credits": [
            {"id": f"g{n}", "customer": "acme", "currency": "EUR", "start": START, **each}
            for n, each in enumerate(grants)
        ],
        "taxes": [{"id": "vat", "rate": "20"}],
        **more,
    }
    return Catalog.model_validate(given)


def slots_of(given: Catalog, as_of: datetime = AS_OF, usage: str = "5") -> list[SlotUsage]:
    return [
        (slot, [{"m": used(usage)} for _ in slot.cuts])
        for entry in given.subscriptions
        for slot in due_slots(given, entry.id, as_of)
    ]


def bills(given: Catalog, **more: Any) -> list[Invoice]:
    return list(bill_customer(given, slots_of(given, **more)))


def burnt(invoices: Sequence[Invoice]) -> list[dict[str, Decimal]]:
    return [{burn.grant: burn.amount for burn in each.burns} for each in invoices]


def test_a_paid_grant_pays_invoices_tax_included_until_it_is_used_up() -> None:
    found = bills(catalog({"amount": "40"}, customer={"tax": "vat"}))
    assert [each.total for each in found] == [Decimal("18.00")] * 6
    assert [each.prepaid for each in found] == [18, 18, 4, 0, 0, 0]
    assert [each.due for each in found] == [0, 0, 14, 18, 18, 18]
    assert all(each.credit == 0 for each in found)


def test_a_promotional_grant_is_a_discount_before_tax() -> None:
    found = bills(catalog({"amount": "20", "kind": "promotional"}, customer={"tax": "vat"}))
    assert [(each.credit, each.tax, each.total) for each in found[:3]] == [
        (15, 0, 0),
        (5, 2, 12),
        (0, 3, 18),
    ]
    # 5.00 over 10.00 and 5.00: thirds, the last cent to the largest remainder
    assert [line.credit for line in found[1].lines] == [Decimal("3.33"), Decimal("1.67")]
    assert all(each.prepaid == 0 for each in found)


def test_grants_burn_by_priority_then_by_expiry_then_by_start_then_by_id() -> None:
    grants: list[dict[str, Any]] = [
        {"amount": "1", "start": "2026-01-02T00:00:00Z"},
        {"amount": "1", "expires": "2026-06-01T00:00:00Z"},
        {"amount": "1", "expires": "2026-05-01T00:00:00Z"},
        {"amount": "1"},
        {"amount": "1", "priority": -1},
        {"amount": "1", "priority": 1, "expires": "2026-04-01T00:00:00Z"},
        {"amount": "1"},
    ]
    (first, *_) = bills(catalog(*grants))
    assert [burn.grant for burn in first.burns] == ["g4", "g2", "g1", "g3", "g6", "g0", "g5"]


def test_a_grant_is_burnt_from_its_start_to_before_its_expiry() -> None:
    found = bills(
        catalog(
            {"amount": "100", "start": "2026-03-01T00:00:00Z", "expires": "2026-05-01T00:00:00Z"}
        )
    )
    assert [(each.billing_date.month, each.prepaid) for each in found if each.billing_date] == [
        (2, 0),
        (3, 15),
        (4, 15),
        (5, 0),
        (6, 0),
        (7, 0),
    ]


def test_a_grant_with_a_scope_pays_for_nothing_else() -> None:
    charges = bills(catalog({"amount": "12", "charges": ["b"]}))
    assert [each.prepaid for each in charges] == [5, 5, 2, 0, 0, 0]
    plans = bills(catalog({"amount": "12", "plans": ["usd"]}))
    assert all(each.prepaid == 0 for each in plans)
    both = bills(catalog({"amount": "5", "charges": ["b"]}, {"amount": "50"}))
    assert burnt(both)[0] == {"g0": 5, "g1": 10}


def test_a_customer_in_two_currencies_burns_each_grant_in_its_own() -> None:
    given = catalog(
        {"amount": "20"},
        {"amount": "7", "currency": "USD"},
        subscriptions=0,
    ).model_dump(exclude_none=True)
    given["subscriptions"] = [
        {"id": plan, "customer": "acme", "plan": plan, "start": START} for plan in ("usd", "eur")
    ]
    found = bills(Catalog.model_validate(given), as_of=instant("2026-02-01T00:00:00Z"))
    assert [(each.currency, each.prepaid, each.due) for each in found] == [
        ("EUR", 15, 0),
        ("USD", 7, 8),
    ]


def test_subscriptions_of_a_customer_share_its_grants_in_order_of_dates_and_ids() -> None:
    found = bills(catalog({"amount": "40"}, subscriptions=2), as_of=instant("2026-03-01T00:00:00Z"))
    assert [(each.subscription, each.prepaid) for each in found] == [
        ("s0", 15),
        ("s1", 15),
        ("s0", 10),
        ("s1", 0),
    ]


def ledger(given: Catalog, invoices: Sequence[Invoice]) -> list[LedgerEntry]:
    """Every entry of the invoices once, as the journal keeps them."""
    kept = {
        entry.ledger_entry_id: entry
        for _, entries in postings("default", given.credits, invoices)
        for entry in entries
    }
    return list(kept.values())


def accounts(entries: Sequence[LedgerEntry]) -> dict[str, Fraction]:
    sums: dict[str, Fraction] = defaultdict(Fraction)
    for entry in entries:
        sums[entry.account] += Fraction(entry.amount)
    return sums


def test_the_ledger_says_where_each_grant_went() -> None:
    given = catalog(
        {"amount": "40", "expires": "2026-03-01T00:00:00Z"}, {"amount": "7", "kind": "promotional"}
    )
    found = bills(given)
    entries = ledger(given, found)
    invoices = [f"invoice:{each.invoice_id}" for each in found]
    assert accounts(entries) == {
        "funding:paid": -40,
        "funding:promotional": -7,
        "grant:g0": 0,
        "grant:g1": 0,
        invoices[0]: 15,  # 7.00 of credit and 8.00 prepaid
        "expired": 32,
    }
    kinds = [(entry.kind, entry.grant_id, entry.amount) for entry in entries[::2]]
    assert kinds == [
        ("grant", "g0", 40),
        ("burn", "g0", -8),
        ("grant", "g1", 7),
        ("burn", "g1", -7),
        ("expire", "g0", -32),
    ]


def test_a_grant_of_the_future_is_not_in_the_ledger() -> None:
    given = catalog({"amount": "40", "start": "2027-01-01T00:00:00Z"})
    assert ledger(given, bills(given)) == []


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        ("currency: USD, amount: 5", "currency: must be a currency that customer a is billed in,"),
        ("currency: EUR, amount: '5.005'", "amount: must have at most the 2 decimals of EUR"),
        ("currency: EUR, amount: 0", "amount: must be greater than 0 (got 0)"),
        (
            "currency: EUR, amount: 5, expires: 2026-01-01T00:00:00Z",
            "expires: must be after the start, 2026-01-01T00:00:00Z (got 2026-01-01T00:00:00Z)",
        ),
        ("currency: EUR, amount: 5, charges: [x]", "charges[0]: must be the id of a charge of one"),
        ("currency: EUR, amount: 5, plans: [x]", "plans[0]: must be the id of one of the plans"),
    ],
)
def test_a_grant_that_could_never_be_burnt_is_refused(
    grant: str, message: str, tmp_path: Any
) -> None:
    text = f"""
customers: [{{id: a}}]
plans: [{{id: p, currency: EUR, charges: [{{id: f, fee: 1}}]}}]
subscriptions: [{{id: s, customer: a, plan: p, start: 2026-01-01T00:00:00Z}}]
credits:
  - {{id: g, customer: a, start: 2026-01-01T00:00:00Z, {grant}}}
"""
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert f"credits[0].{message}" in str(problem)
    assert problem.line == 5


instants = st.integers(1, 7).map(lambda month: f"2026-{month:02}-01T00:00:00Z")


@st.composite
def granted(draw: st.DrawFn) -> Catalog:
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        start, end = draw(instants), draw(st.none() | instants)
        row = {
            "amount": Decimal(draw(st.integers(1, 6000))) / 100,
            "kind": draw(st.sampled_from(["paid", "promotional"])),
            "priority": draw(st.integers(0, 2)),
            "start": start,
            "charges": draw(st.sampled_from([[], ["a"], ["b"]])),
        }
        rows.append(row if end is None or end <= start else {**row, "expires": end})
    tax = draw(st.sampled_from([{}, {"tax": "vat"}, {"tax": "in"}]))
    taxes = [{"id": "vat", "rate": "8.25"}, {"id": "in", "rate": "19", "inclusive": True}]
    return catalog(*rows, subscriptions=draw(st.integers(1, 3)), customer=tax, taxes=taxes)


@settings(max_examples=60, deadline=None)
@given(granted(), st.randoms(use_true_random=False))
def test_grants_never_go_below_0_and_the_ledger_balances(
    given: Catalog, shuffle: random.Random
) -> None:
    slots = slots_of(given, usage="7.77")
    found = list(bill_customer(given, slots))
    for invoice in found:
        kinds: dict[str, Decimal] = defaultdict(Decimal)
        for burn in invoice.burns:
            assert burn.amount > 0
            kinds[burn.kind] += burn.amount
        assert invoice.credit == kinds["promotional"]
        assert invoice.prepaid == kinds["paid"]
        assert invoice.due >= 0
        assert all(line.credit <= line.amount + line.tax for line in invoice.lines)
    entries = ledger(given, found)
    sums = accounts(entries)
    assert sum(sums.values()) == 0
    assert all(sums[f"grant:{grant.id}"] >= 0 for grant in given.credits)
    assert len({entry.ledger_entry_id for entry in entries}) == len(entries)
    movements = [a.amount + b.amount for a, b in zip(entries[::2], entries[1::2], strict=True)]
    assert not any(movements)
    # Once more, in another order: the same invoices, burns and entries.
    shuffle.shuffle(slots)
    again = list(bill_customer(given, slots))
    assert again == found
    assert ledger(given, again) == entries


@settings(max_examples=30, deadline=None)
@given(granted(), st.integers(1, 6))
def test_a_later_run_burns_what_an_earlier_one_did_and_goes_on(given: Catalog, month: int) -> None:
    sooner = list(
        bill_customer(given, slots_of(given, as_of=instant(f"2026-{month:02}-01T00:00:00Z")))
    )
    assert bills(given)[: len(sooner)] == sooner


def test_without_grants_an_invoice_is_what_it_was() -> None:
    given = catalog()
    (first, *_) = bills(given)
    assert (first.burns, first.prepaid, first.credit) == ((), 0, 0)
    assert replace(first, status="preview") == next(
        iter(bill_customer(given, slots_of(given), status="preview"))
    )
