"""Our answers to the cases of peers about periods and invoices: shares, coupons, taxes, credits."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.commitments import Commitments, commit
from billing.coupons import redeem
from billing.credits import burn_paid, opening
from billing.invoice import NO_GROUP, Committed, Line
from billing.lines import LineContext, fee_line
from billing.money import from_minor_units, minor_units
from billing.prices import rate
from billing.slots import Segment, Slot
from billing.taxes import add_taxes
from meters.catalog import (
    Commitment,
    Coupon,
    CreditGrant,
    Fee,
    GraduatedPrice,
    Tax,
)
from meters.periods import Span, proration_factor
from tests.billing.given import instant
from tests.billing.peer_prices import CENTS, number, optional, percentage, tier_list, unit


def span(start: str, end: str, *, last_day_included: bool = False) -> Span:
    last = date.fromisoformat(end) + timedelta(days=int(last_day_included))
    return Span(instant(f"{start}T00:00:00Z"), instant(f"{last}T00:00:00Z"))


def factor(part: Span, whole: Span) -> Fraction:
    return proration_factor(part, whole, "UTC", "day")


def whole_factor(_: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"factor": factor(span(*given["partial"]), span(*given["full"]))}


def termination_proration(_: str, given: dict[str, Any]) -> dict[str, Any]:
    part = span(*given["active"], last_day_included=True)
    whole = span(*given["period"], last_day_included=True)
    return {"amount_cents": minor_units(given["plan_cents"] * factor(part, whole), 0)}


def leading_proration(_: str, given: dict[str, Any]) -> dict[str, Any]:
    cut_at = f"2011-02-{given['billing_day']}"
    whole = span(f"2011-01-{given['billing_day']}", cut_at)
    return {"cycles": factor(span(given["start"], cut_at), whole)}


def unused_days(_: str, given: dict[str, Any]) -> dict[str, Any]:
    share = Fraction(given["unused_days"], given["period_days"])
    net = minor_units(given["plan_cents"] * share, 0)
    (line,) = add_taxes([fee_of(net)], lambda _: tax_of(given["tax_percent"]), CENTS)
    cents = {"net_cents": line.amount * 100, "tax_cents": line.tax * 100}
    return {**cents, "total_cents": sum(cents.values())}


def prorated_minimum(_: str, given: dict[str, Any]) -> dict[str, Any]:
    used = sum(given["usage_cents_by_filter"])
    share = Fraction(given["active_days"], given["period_days"])
    rated = rate(unit("1"), used, exponent=0, minimum=given["charge_minimum_cents"] * share)
    lines = [fee_of(int(rated.amount))]
    (line,) = add_taxes(lines, lambda _: tax_of(given["tax_percent"]), CENTS)
    return {
        "fees_cents": rated.amount,
        "true_up_cents": rated.amount - used,
        "tax_cents": line.tax * 100,
    }


def fee_of(cents: int, charge: str = "fee", plan: str = "plan") -> Line:
    """A rounded line, as coupons and taxes take it."""
    amount = from_minor_units(cents, CENTS)
    return Line(
        line_id=charge,
        subscription="s",
        charge=charge,
        plan_version=None,
        meter=None,
        group=NO_GROUP,
        service_start=None,
        service_end=None,
        quantity=Decimal(1),
        unit_amount=None,
        amount_exact=Fraction(amount),
        amount=amount,
        description="",
        plan=plan,
    )


def tax_of(percent: str | int) -> Tax:
    return Tax(id=f"{percent}", rate=number(str(percent)))


def coupons(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    found = []
    for position, text in enumerate(given["coupons"]):
        value, _, unit = text.partition(" ")
        percent = text.removesuffix("%") if text.endswith("%") else None
        found.append(
            Coupon(
                id=f"{position}",
                percent=optional(percent),
                amount=None if percent else number(value),
                currency=unit or None,
            )
        )
    lines, _ = redeem([fee_of(given["subtotal_cents"])], found, CENTS)
    return {"discount_cents": lines[0].discount * 100}


def discount_then_tax(_: str, given: dict[str, Any]) -> dict[str, Any]:
    coupon = Coupon(id="c", percent=number(given["discount_percent"]))
    lines, _redeemed = redeem([fee_of(given["subtotal_cents"])], [coupon], CENTS)
    (line,) = add_taxes(lines, lambda _: tax_of(given["tax_percent"]), CENTS)
    return {"discount_cents": line.discount * 100, "tax_cents": line.tax * 100}


def coupons_and_taxes(_: str, given: dict[str, Any]) -> dict[str, Any]:
    plan_of = {name: plan for plan, names in given["plan_of"].items() for name in names}
    lines = [fee_of(cents, name, plan_of[name]) for name, cents in given["fees_cents"].items()]
    found = [
        Coupon(
            id=f"{position}",
            amount=number(row["cents"]) / 100,
            currency="EUR",
            charges=row.get("limited_to", []),
            plans=[row["limited_to_plan"]] if "limited_to_plan" in row else [],
        )
        for position, row in enumerate(given["coupons_in_order"])
    ]
    discounted, _redeemed = redeem(lines, found, CENTS)
    taxed = add_taxes(discounted, lambda line: tax_of(given["tax_percent"][line.charge]), CENTS)
    fees, off, tax = (
        sum(getattr(line, name) for line in taxed) * 100 for name in ("amount", "discount", "tax")
    )
    return {
        "coupon_per_fee": {line.charge: line.discount * 100 for line in taxed},
        "tax_cents_per_fee": {line.charge: line.tax * 100 for line in taxed},
        "fees_cents": fees,
        "coupons_cents": off,
        "net_cents": fees - off,
        "invoice_tax_cents": tax,
        "total_cents": fees - off + tax,
    }


def partial_note(_: str, given: dict[str, Any]) -> dict[str, Any]:
    """What lines gave, a note for them gives back: discount and tax are on the lines."""
    coupon = Coupon(id="c", amount=number(given["discount_cents"]) / 100, currency="EUR")
    lines = [fee_of(cents, f"{n}") for n, cents in enumerate(given["lines_cents"])]
    discounted, _redeemed = redeem(lines, [coupon], CENTS)
    taxed = add_taxes(discounted, lambda _: tax_of(given["tax_percent"]), CENTS)
    totals = [(line.amount - line.discount + line.tax) * 100 for line in taxed]
    return {
        "invoice_total_cents": sum(totals),
        "cn_lines_1_2_total_cents": -sum(totals[:2]),
        "cn_lines_3_4_total_cents": -sum(totals[2:]),
        "sum_equals_invoice": True,
    }


def commitment_true_up(_: str, given: dict[str, Any]) -> dict[str, Any]:
    """The last days of a period, with a fee in arrears of the same share."""
    end = instant("2023-04-01T00:00:00Z")
    whole = Span(end - timedelta(days=given["period_days"]), end)
    part = Span(end - timedelta(days=given["active_days"]), end)
    period = Segment(part, whole)
    slot = Slot("c", "s", "p", "EUR", "UTC", end, part.start, end, arrears=period, advance=None)
    commitment = Commitment(amount=from_minor_units(given["commitment_cents"], CENTS))
    context = LineContext("inv", "s", "UTC", CENTS)
    fee = fee_line(
        Fee(id="fee", fee=from_minor_units(given["base_fee_cents"], CENTS)), period, context
    )
    terms = Commitments(part.start, part.start, None, commitment)
    lines, _state = commit(terms, slot, [fee], Committed(), context)
    return {"true_up_cents": sum(line.amount for line in lines) * 100}


def plan_change(_: str, given: dict[str, Any]) -> dict[str, Any]:
    """What is given back and added for the rest of a period that was billed in advance."""
    whole = span(*given["period"])
    rest = Segment(Span(instant(f"{given['change_date']}T00:00:00Z"), whole.end), whole)
    if "added_annual_cents" in given:
        year = Span(whole.start, whole.start.replace(year=whole.start.year + 1))
        rest = Segment(rest.part, year)
    context = LineContext("inv", "s", "UTC", CENTS)

    def moved(cents: int, quantity: int) -> Fraction:
        fee = Fee(id="fee", fee=from_minor_units(cents, CENTS), when="advance")
        return Fraction(fee_line(fee, rest, context, quantity=Decimal(quantity)).amount) * 100

    back = moved(given.get("old_cents", 0), -1)
    added = moved(given.get("new_cents", given.get("added_annual_cents")), 1)
    lines = [cents for cents in (back, added) if cents]
    return {
        "credit_cents": back,
        "charge_cents": added,
        "net_cents": back + added,
        "lines": lines,
    }


def credit_of(name: str, amount: str) -> CreditGrant:
    return CreditGrant(
        id=name,
        customer="c",
        amount=number(amount),
        currency="EUR",
        start=instant("2026-01-01T00:00Z"),
    )


def burnt(cents: int, amounts: list[str]) -> tuple[list[Decimal], Decimal]:
    """What paid grants, one after the other, pay of a line, and what stays due."""
    grants = [credit_of(f"{position}", amount) for position, amount in enumerate(amounts)]
    burns = burn_paid([fee_of(cents)], grants, opening(grants), CENTS)
    taken = [burn.amount for burn in burns]
    return taken, from_minor_units(cents, CENTS) - sum(taken)


def credits_burndown(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    price = GraduatedPrice(model="graduated", tiers=tier_list(given["tiers"]))
    minimum = optional(given.get("minimum_spend"))
    gross = rate(price, number(given["quantity"]), exponent=CENTS, minimum=minimum).amount
    taken, due = burnt(int(gross * 100), given["credits"])
    return {"amount_due": due, "applied_total": sum(taken), "gross_total": gross}


def prepaid_wallet(_: str, given: dict[str, Any]) -> dict[str, Any]:
    """Paid credit pays invoices one after the other, tax included."""
    grant = credit_of("wallet", given["wallet"])
    left, gross, after_each, due = grant.amount, [], [], []
    for fee in given["fees"]:
        lines = [fee_of(int(number(fee) * 100))]
        taxed = add_taxes(lines, lambda _: tax_of(given["tax_percent"]), CENTS)
        total = sum((line.amount + line.tax for line in taxed), Decimal(0))
        paid = sum(
            (burn.amount for burn in burn_paid(taxed, [grant], {"wallet": left}, CENTS)), Decimal(0)
        )
        left -= paid
        gross.append(total)
        after_each.append(left)
        due.append(total - paid)
    return {"gross_with_tax": gross, "wallet_after": after_each, "due": due}


def percentage_invoice(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    billed = minor_units(percentage(kind, given)["amount"] * 100, 0)
    (line,) = add_taxes([fee_of(billed)], lambda _: tax_of(given["tax_percent"]), CENTS)
    three = percentage(kind, {**given, "events": given["events"][: given["free_events"]]})
    return {
        "amount_cents": billed,
        "total_cents": (line.amount + line.tax) * 100,
        "after_3_events_cents": three["amount"],
    }
