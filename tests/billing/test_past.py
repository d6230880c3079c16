"""What is final is not rated again, and everything after it comes out as if it had been."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.credits import postings
from billing.customer import SlotUsage, begun_slots, bill_customer
from billing.invoice import Invoice
from billing.past import Past, carried_from, carried_of
from billing.thresholds import final_parts
from meters.catalog import Catalog
from meters.scalars import canonical_json, parse_json
from tests.billing.test_credits import bills, catalog, granted, slots_of
from tests.billing.test_customer_laws import UNTIL, customers


def past_of(world: Catalog, invoices: Sequence[Invoice], void: Sequence[Invoice] = ()) -> Past:
    """What the journal would know after it has finalized these."""
    balances: dict[str, Decimal] = {}
    seen: set[str] = set()
    spans: dict[str, Any] = defaultdict(list)
    parts: dict[Any, Any] = defaultdict(list)
    for invoice, entries in postings("default", world.credits, invoices):
        owner = invoice.subscription or ""
        if invoice.within:
            parts[owner, invoice.period_start].append((invoice.period_end, invoice.sequence))
        else:
            spans[owner].append((invoice.period_start, invoice.period_end))
        for entry in entries:
            if entry.account.startswith("grant:") and entry.ledger_entry_id not in seen:
                seen.add(entry.ledger_entry_id)
                left = balances.get(entry.grant_id, Decimal(0))
                balances[entry.grant_id] = left + entry.amount
    final = {}
    for invoice in invoices:
        kept: Any = parse_json(canonical_json(carried_of(invoice)))
        final[invoice.invoice_id] = carried_from(kept)
    amounts = {grant.id: grant.amount for grant in world.credits if grant.id in balances}
    ids = frozenset(invoice.invoice_id for invoice in void)
    return Past(final, ids, dict(spans), parts, balances, amounts)


@settings(max_examples=60, deadline=None)
@given(granted(), st.data())
def test_after_any_invoice_the_rest_is_what_it_would_have_been(
    world: Catalog, data: st.DataObject
) -> None:
    whole = bills(world, usage="7.77")
    cut = data.draw(st.integers(0, len(whole)))
    rest = list(
        bill_customer(world, slots_of(world, usage="7.77"), past=past_of(world, whole[:cut]))
    )
    assert rest == whole[cut:]


def going_on(
    world: Catalog, slots: Sequence[SlotUsage], past: Past, as_of: datetime
) -> list[Invoice]:
    """What is not final yet."""
    known: list[SlotUsage] = []
    begun = [s for entry in world.subscriptions for s in begun_slots(world, entry.id, as_of)]
    for slot in begun:
        known += [(part, ()) for part in final_parts(slot, past, as_of)]
    closed = {(s.subscription, s.period_start) for s in begun if past.is_final(s, "default")}
    for slot, usage in slots:
        if slot.until is None or (slot.subscription, slot.period_start) not in closed:
            known.append((slot, usage))
    return list(bill_customer(world, known, past=past))


@settings(max_examples=60, deadline=None)
@given(customers(), st.data())
def test_free_units_and_thresholds_go_on_where_the_last_final_invoice_left_them(
    case: tuple[Catalog, list[SlotUsage]], data: st.DataObject
) -> None:
    world, slots = case
    whole = list(bill_customer(world, slots))
    cut = data.draw(st.integers(0, len(whole)))
    assert going_on(world, slots, past_of(world, whole[:cut]), UNTIL) == whole[cut:]


def subscribed(given: Catalog, **keys: Any) -> Catalog:
    """The catalog with other keys of its one subscription."""
    [entry] = given.subscriptions
    row = {**entry.model_dump(exclude_defaults=True, by_alias=True), **keys}
    content = given.model_dump(exclude_defaults=True, by_alias=True)
    return Catalog.model_validate({**content, "subscriptions": [row]})


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.sampled_from(["20", "100.05", "3000"]))
def test_a_commitment_goes_on_where_the_last_final_invoice_left_it(cut: int, amount: str) -> None:
    commitment = {"amount": amount, "period": "year", "overage_factor": "1.5"}
    given = subscribed(catalog(), commitment=commitment)
    whole = bills(given)
    assert (len({line.charge for each in whole for line in each.lines}) > 2) == (amount == "20")
    rest = list(bill_customer(given, slots_of(given), past=past_of(given, whole[:cut])))
    assert rest == whole[cut:]


ROLLING = {
    "id": "b",
    "meter": "m",
    "included": 2,
    "rollover": {},
    "price": {"model": "flat", "amount": 1},
}
POOL = {
    "id": "pool",
    "customer": "acme",
    "meter": "m",
    "units": 15,
    "start": "2026-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("more", "chain"),
    [
        ({}, ""),
        ({"plan": {"commitment": {"amount": 5}}}, ""),
        ({"plan": {"commitment": {"amount": 5, "period": "year"}}}, "subscription"),
        ({"plan": {"charges": [ROLLING]}}, "subscription"),
        ({"entitlements": [POOL]}, "customer"),
    ],
)
def test_an_invoice_says_which_later_ones_are_computed_from_it(
    more: dict[str, Any], chain: str
) -> None:
    content = catalog().model_dump(exclude_defaults=True, by_alias=True)
    given = {**content, **more}
    given["plans"] = [{**content["plans"][0], **given.pop("plan", {})}]
    found = bills(Catalog.model_validate(given))
    assert {invoice.chain for invoice in found} == {chain}


def test_a_void_invoice_is_billed_again_with_the_next_sequence() -> None:
    given = catalog()
    first, *_ = bills(given)
    again, *_ = bill_customer(given, slots_of(given), past=past_of(given, [], void=[first]))
    assert (again.sequence, again.lines[0].amount) == (1, first.lines[0].amount)
    assert again.invoice_id != first.invoice_id
    third, *_ = bill_customer(given, slots_of(given), past=past_of(given, [], void=[first, again]))
    assert third.sequence == 2


def test_a_grant_that_is_not_what_was_booked_holds_what_is_not_final() -> None:
    before = catalog({"amount": "40"})
    first, *_ = bills(before)
    raised = catalog({"amount": "50"})
    rest = list(bill_customer(raised, slots_of(raised), past=past_of(before, [first])))
    assert {each.status for each in rest} == {"held"}
    assert {each.hold_reason for each in rest} == {"credit_changed"}
    previews = bill_customer(
        raised, slots_of(raised), past=past_of(before, [first]), status="preview"
    )
    assert {(each.status, each.hold_reason) for each in previews} == {("preview", "credit_changed")}


def test_a_period_that_another_final_invoice_covers_is_held() -> None:
    given = catalog()
    first, second, *_ = bills(given)
    moved = subscribed(given, start="2026-01-15T00:00:00Z")
    past = past_of(given, [first, second])
    held = [each.hold_reason for each in bill_customer(moved, slots_of(moved), past=past)]
    assert held[:3] == ["period_billed", "period_billed", None]
