"""Explanations: how each amount of an invoice came about, in numbers that add up.

    line of a document + its charge and usage --explain_line--> steps
    steps --sum--> amount_exact + rounding = amount - discount - credit + tax = total

A line is rated again by the exact fractions of `billing.prices`, whose steps are shown.
Where usage or the catalog have changed since, the line says so (`matches` false) and its
steps are those of today. Amounts and quantities are decimal strings; one that no decimal
can write is cut after 30 digits, as on invoices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from msgspec import structs

from billing.invoice import Invoice, Line
from billing.lines import is_unpriced, rate_usage
from billing.money import decimal_text, format_amount, round_amount
from billing.prices import Rated
from billing.quantities import NO_USAGE, UsageOf, parts_of
from billing.steps import Step
from meters.catalog import Catalog, Fee, UsageCharge
from meters.currencies import currency_exponent
from meters.numbers import plain
from meters.scalars import canonical_json

Document = Mapping[str, Any]
COUNTED = ("measured", "shares", "converted")
"""Steps that say the quantity of a line, the last one of them as it stands there."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a line comes from: its charge, the usage of its segment, and its part of a period.

    `charge` is None for what is no charge of a plan (a commitment), `used` for a fee.
    `buckets` are the measured values by bucket, as in `beammeter usage`, `days` those of all
    local days, or parts of them, that make up the segment; `trial` says that nothing is
    charged.
    """

    charge: Fee | UsageCharge | None
    used: UsageOf | None
    factor: Fraction
    buckets: Sequence[Mapping[str, object]] = ()
    days: Sequence[Mapping[str, object]] = ()
    trial: bool = False


def explain_invoice(
    document: Document,
    origins: Sequence[Origin],
    catalog: Catalog,
    replayed: Invoice | None = None,
) -> dict[str, Any]:
    """The explanation of a document, one origin for each of its lines.

    `replayed` is the invoice as it would be built now: where its sums are the document's,
    the explanation says what each coupon and credit grant took.
    """
    exponent = currency_exponent(document["currency"])
    again = {} if replayed is None else {_key(x.to_dict(exponent)): x for x in replayed.lines}
    lines = [
        explain_line(line, origin, catalog, exponent, again.get(_key(line)))
        for line, origin in zip(document["lines"], origins, strict=True)
    ]
    found: dict[str, Any] = {
        name: document.get(name)
        for name in (
            *("invoice_id", "status", "number", "customer", "subscription", "currency"),
            *("billing_date", "period_start", "period_end"),
        )
    }
    found["lines"] = lines
    found["subtotal"] = document["subtotal"]
    same = replayed is not None and _sums(replayed.to_dict()) == _sums(document)
    found["coupons"] = _coupons(replayed, exponent) if replayed is not None and same else None
    found["credits"] = _credits(replayed, exponent) if replayed is not None and same else None
    found["taxes"] = list(_taxes(document, exponent))
    for name in ("discount", "credit", "tax", "total", "prepaid", "due"):
        found[name] = document[name]
    found["matches"] = same and all(line["matches"] for line in lines)
    return found


def explain_line(
    line: Document, origin: Origin, catalog: Catalog, exponent: int, replayed: Line | None = None
) -> dict[str, Any]:
    """How one line came about.

    The `amount`s of its `steps` sum to `amount_exact`; with `rounding`, and less a tax that
    the price contains (`tax_contained`), that is `amount`. `replayed` is the line as it would
    be built now, which knows what beside its own usage counts: units that are rolled over or
    shared, tiers that go on, and what was billed before at thresholds.
    """
    charge, used = origin.charge, None
    if isinstance(charge, Fee):
        steps = list(_fee_steps(charge, line, origin.factor))
    elif charge is not None:
        used = _part(charge, origin.used or NO_USAGE, line)
        rated = None if replayed is None else replayed.rated
        steps = list(_usage_steps(charge, used, line, origin, exponent, rated))
        if replayed is not None and replayed.billed:
            steps.append({"step": "billed", "amount": -Fraction(replayed.billed)})
    else:
        amount = line["amount_exact"]
        steps = [{"step": "commitment", "words": line["description"], "amount": amount}]
    exact = sum((_number(step) for step in steps), Fraction(0))
    tax = catalog.taxes_by_id.get(line["tax_code"] or "")
    contained = Fraction(line["tax"]) if tax is not None and tax.inclusive else Fraction(0)
    amount = Fraction(line["amount"])
    rounding = amount + contained - exact
    total = amount - Fraction(line["discount"]) - Fraction(line["credit"]) + Fraction(line["tax"])
    same = Fraction(round_amount(exact, exponent)) == amount + contained
    counted = [step["quantity"] for step in steps if step["step"] in COUNTED]
    same = same and (not counted or decimal_text(counted[-1]) == line["quantity"])
    return {
        **{name: line[name] for name in ("line_id", "charge", "meter", "group")},
        "title": (charge.description if charge is not None else "") or line["charge"],
        "description": line["description"],
        "service_start": line["service_start"],
        "service_end": line["service_end"],
        "events": None if used is None else used.events,
        "days": list(origin.days),
        "buckets": list(origin.buckets),
        "quantity": line["quantity"],
        "steps": [_written(step) for step in steps],
        "amount_exact": decimal_text(exact),
        "rounding": decimal_text(rounding),
        "tax_contained": format_amount(Decimal(line["tax"]), exponent) if contained else None,
        "amount": line["amount"],
        "discount": line["discount"],
        "credit": line["credit"],
        "tax_code": line["tax_code"],
        "tax_rate": line["tax_rate"],
        "tax": line["tax"],
        "total": format_amount(round_amount(total, exponent), exponent),
        "matches": same,
    }


def _part(charge: UsageCharge, used: UsageOf, line: Document) -> UsageOf:
    """The usage of a line's group, its events those of its own span alone."""
    group = canonical_json(line["group"])
    found = dict(parts_of(charge, used)).get(group, NO_USAGE)
    carried = sum(not single.event_id for single in found.singles)
    return structs.replace(found, events=found.events - carried) if carried else found


def _fee_steps(fee: Fee, line: Document, factor: Fraction) -> Iterator[dict[str, Any]]:
    units = Fraction(line["quantity"])
    amount = Fraction(fee.fee) * units
    yield {"step": "fee", "quantity": units, "unit_amount": fee.fee, "amount": amount}
    if factor != 1:
        yield {"step": "prorated", "factor": str(factor), "amount": amount * factor - amount}


def _usage_steps(
    charge: UsageCharge,
    used: UsageOf,
    line: Document,
    origin: Origin,
    exponent: int,
    rated: Rated | None,
) -> Iterator[dict[str, Any]]:
    yield {"step": "measured", "quantity": used.quantity, "events": used.events}
    price, factor = charge.price_of(line["group"]), origin.factor
    if origin.trial or price is None or is_unpriced(price, used):
        yield {"step": "trial" if origin.trial else "no_price"}
        return
    rated = rated or rate_usage(charge, price, used, factor, exponent)
    yield from _quantity_steps(charge, rated)
    for step in rated.priced.steps:
        yield _price_step(step)
    before = rated.priced.amount
    if charge.round == "tier":
        rounded = [Fraction(round_amount(step.amount, exponent)) for step in rated.priced.steps]
        cents = sum(rounded, Fraction(0))
        yield {"step": "tier_rounding", "amount": cents - before}
        before = cents
    if rated.earlier:
        # Tiers that go on from an earlier segment: what their first units cost is not due again.
        yield {"step": "earlier", "amount": -rated.earlier}
    before -= rated.earlier + rated.discount
    if charge.discount is not None:
        yield {
            "step": "discount",
            "percent": charge.discount.percent,
            "amount": -rated.discount,
        }
    if rated.bound is not None:
        yield {"step": rated.bound, "limit": rated.exact, "amount": rated.exact - before}


def _quantity_steps(charge: UsageCharge, rated: Rated) -> Iterator[dict[str, Any]]:
    if charge.prorate_events:
        yield {"step": "shares", "quantity": rated.quantity}
    if charge.convert is not None:
        yield {
            "step": "converted",
            "divide_by": charge.convert.divide_by,
            "round": charge.convert.round,
            "quantity": rated.quantity,
        }
    free = max(rated.quantity - rated.billable - rated.more, Fraction(0))
    if charge.included or free > 0:
        left = rated.billable + rated.more
        yield {"step": "included", "included": free, "quantity": left}
    if rated.more:
        yield {"step": "more_free", "included": rated.more, "quantity": rated.billable}


def _price_step(step: Step) -> dict[str, Any]:
    found: dict[str, Any] = {"step": step.kind, "quantity": step.quantity}
    if step.kind == "percent":
        found["rate"] = step.unit_amount * 100
    else:
        found["unit_amount"] = step.unit_amount
    if step.flat_amount:
        found["flat_amount"] = step.flat_amount
    if step.tier is not None:
        found["tier"] = step.tier
    if step.limit is not None:
        found["limit"] = step.limit
    found["amount"] = step.amount
    return found


def _number(step: Mapping[str, Any]) -> Fraction:
    return Fraction(step.get("amount", 0))


def _written(step: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: decimal_text(value) if isinstance(value, Fraction | Decimal) else value
        for name, value in step.items()
    }


def _key(line: Document) -> tuple[str, ...]:
    """What a line is for, whatever the id of its invoice."""
    span = line["service_start"], line["service_end"]
    return line["charge"], canonical_json(line["group"]), *map(str, span)


def _sums(document: Document) -> list[str]:
    names = ("subtotal", "discount", "credit", "tax", "total", "prepaid")
    return [document[name] for name in names]


def _coupons(invoice: Invoice, exponent: int) -> list[dict[str, str]]:
    return [
        {"coupon": each.coupon, "amount": format_amount(each.amount, exponent)}
        for each in invoice.redemptions
    ]


def _credits(invoice: Invoice, exponent: int) -> list[dict[str, str]]:
    return [
        {"grant": each.grant, "kind": each.kind, "amount": format_amount(each.amount, exponent)}
        for each in invoice.burns
    ]


def _taxes(document: Document, exponent: int) -> Iterator[dict[str, str]]:
    """Each tax with the net sum that it is on."""
    groups: dict[tuple[str, str], list[Document]] = {}
    for line in document["lines"]:
        if line["tax_code"] is not None:
            groups.setdefault((line["tax_code"], line["tax_rate"]), []).append(line)
    for (code, rate), lines in groups.items():
        net = sum(
            (
                Fraction(line["amount"]) - Fraction(line["discount"]) - Fraction(line["credit"])
                for line in lines
            ),
            Fraction(0),
        )
        tax = sum((Fraction(line["tax"]) for line in lines), Fraction(0))
        yield {
            "tax": code,
            "rate": plain(Decimal(rate)),
            "net": format_amount(round_amount(net, exponent), exponent),
            "amount": format_amount(round_amount(tax, exponent), exponent),
        }
