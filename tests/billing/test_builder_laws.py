"""Laws of invoices over any plan, slot and usage."""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from billing.builder import UsageOf, build_invoice
from billing.invoice import Invoice
from billing.slots import Slot
from meters.catalog import Plan
from meters.currencies import currency_exponent
from tests.billing.documents import slots, written
from tests.billing.given import plan, prices

quantities = st.decimals(min_value=-(10**6), max_value=10**15, places=12)
currencies = st.sampled_from(["EUR", "JPY", "KWD", "CLF"])


@st.composite
def billed(draw: st.DrawFn) -> tuple[Slot, Plan, dict[str, UsageOf]]:
    """A plan of up to six charges, one of its slots (whole, cut or at the start), and usage."""
    charges: list[dict[str, Any]] = []
    usage: dict[str, UsageOf] = {}
    mode = st.sampled_from(["day", "second", "none"])
    for index in range(draw(st.integers(1, 6))):
        common = {"id": f"charge {index}", "proration": draw(mode)}
        if draw(st.booleans()):
            when = draw(st.sampled_from(["advance", "arrears"]))
            charges.append({**common, "fee": draw(st.integers(0, 10**6)), "when": when})
        else:
            meter = f"meter {index}"
            priced = {"meter": meter, "price": draw(prices), "included": draw(st.integers(0, 100))}
            charges.append({**common, **priced})
            usage[meter] = UsageOf(draw(quantities), draw(st.integers(0, 1000)))
    tariff = plan(charges, currency=draw(currencies))
    end = draw(st.sampled_from([None, "2026-11-16T00:00:00Z", "2026-12-09T13:00:00Z"]))
    found = slots(tariff, "2026-11-01T00:00:00Z", "2027-01-01T00:00:00Z", end)
    return draw(st.sampled_from(found)), tariff, usage


def totals(invoice: Invoice) -> dict[str, Decimal]:
    return {
        name: getattr(invoice, name)
        for name in ("subtotal", "discount", "credit", "tax", "total", "prepaid", "due")
    }


@given(billed())
def test_lines_sum_to_the_total_to_the_last_unit(
    case: tuple[Slot, Plan, dict[str, UsageOf]],
) -> None:
    document = written(build_invoice(*case))
    lines = document["lines"]
    total = sum((Fraction(line["amount"]) for line in lines), Fraction())
    assert total == Fraction(document["total"]) == Fraction(document["due"])
    assert len({line["line_id"] for line in lines}) == len(lines)


@given(billed())
def test_each_amount_is_its_exact_amount_rounded_once(
    case: tuple[Slot, Plan, dict[str, UsageOf]],
) -> None:
    invoice = build_invoice(*case)
    half = Fraction(1, 2 * 10 ** currency_exponent(invoice.currency))
    for line in invoice.lines:
        assert line.amount >= 0
        assert abs(Fraction(line.amount) - Fraction(line.amount_exact)) <= half


@given(billed(), st.randoms(use_true_random=False))
def test_an_invoice_does_not_depend_on_the_order_of_usage_or_of_charges(
    case: tuple[Slot, Plan, dict[str, UsageOf]], shuffle: random.Random
) -> None:
    slot, tariff, usage = case
    invoice = build_invoice(slot, tariff, usage)
    items = list(usage.items())
    shuffle.shuffle(items)
    assert build_invoice(slot, tariff, dict(items)) == invoice
    charges = list(tariff.charges)
    shuffle.shuffle(charges)
    shuffled = build_invoice(slot, tariff.model_copy(update={"charges": charges}), usage)
    assert sorted(shuffled.lines, key=lambda line: line.charge) == sorted(
        invoice.lines, key=lambda line: line.charge
    )
    assert totals(shuffled) == totals(invoice)


@given(billed(), st.decimals(0, 100, places=2), st.decimals(0, 100, places=2))
def test_the_header_keeps_its_equations_with_discount_credit_tax_and_prepayment(
    case: tuple[Slot, Plan, dict[str, UsageOf]], one: Decimal, other: Decimal
) -> None:
    invoice = build_invoice(*case)
    changed = replace(
        invoice,
        currency="EUR",
        lines=tuple(
            line.replaced(amount=Decimal("100.00"), discount=one, credit=other, tax=one + other)
            for line in invoice.lines
        ),
        prepaid=other,
    )
    sums = totals(changed)
    assert sums["total"] == sums["subtotal"] - sums["discount"] - sums["credit"] + sums["tax"]
    assert sums["due"] == sums["total"] - other
