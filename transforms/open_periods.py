"""The bill of a period that is still open: what has been used so far, and where it leads.

    customer -> slots that are due, and those of the periods that hold `at`
             -> usage so far -> bill_customer -> spend to date
             -> additive usage, stretched to the whole period -> bill_customer -> projection

Everything before is billed along with it, as credits and commitments go from invoice to
invoice. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

from msgspec import structs

from billing.customer import SlotUsage, bill_customer, due_slots
from billing.invoice import NOTHING_COMMITTED, Committed, Invoice
from billing.money import add_amounts, round_amount
from billing.quantities import UsageOf
from billing.slots import Slot
from meters.catalog import Catalog, Charge, Commitment
from meters.catalog_file import catalog_hash
from meters.currencies import currency_exponent
from meters.numbers import PLACES
from meters.periods import Periods, Span
from meters.zones import MICROSECOND
from transforms.quantities import Quantities
from warehouse.client import Warehouse
from warehouse.merging import UsageSpan

_ADDITIVE = ("count", "sum")


@dataclass(frozen=True)
class OpenPeriod:
    """One subscription's open period at an instant.

    `to_date` is the bill if nothing more were used, `projected` the bill if the rest of the
    period were like its beginning. `spent` is what counts towards the commitment: rounded
    lines before coupons, credits and tax, from the start of the commitment's span on.
    """

    to_date: Invoice
    projected: Invoice
    spent: Decimal
    commitment: Commitment | None


def open_periods(
    catalog: Catalog, warehouse: Warehouse, tenant: str, customer: str, at: datetime
) -> list[OpenPeriod]:
    """The open periods of a customer's subscriptions at `at`, by subscription."""
    slots = [
        slot
        for entry in catalog.subscriptions
        if entry.customer == customer and entry.start <= at
        for slot in _slots(catalog, entry.id, at)
    ]
    usage = _usage(catalog, warehouse, tenant, slots)
    to_date = list(zip(slots, usage, strict=True))
    projected = [
        (slot, [_stretched(catalog, each, slot, at) for each in found]) for slot, found in to_date
    ]
    bills = [_bills(catalog, tenant, found, at) for found in (to_date, projected)]
    return [
        OpenPeriod(
            to_date=bills[0][name][0],
            projected=bills[1][name][0],
            spent=_spent(*bills[0][name], _commitment(catalog, name)),
            commitment=_commitment(catalog, name),
        )
        for name in sorted(bills[0])
    ]


def _slots(catalog: Catalog, subscription: str, at: datetime) -> list[Slot]:
    entry = catalog.subscriptions_by_id[subscription]
    zone = catalog.customers_by_id[entry.customer].time_zone
    period = catalog.plans_by_id[entry.plan].period
    current = Periods(entry.start, zone, period, entry.end).containing(at)
    return due_slots(catalog, subscription, at if current is None else current.end)


def _usage(
    catalog: Catalog, warehouse: Warehouse, tenant: str, slots: Sequence[Slot]
) -> list[list[dict[str, UsageOf]]]:
    spans: list[UsageSpan] = []
    charges: list[tuple[Charge, ...]] = []
    wholes: list[Span] = []
    for slot in slots:
        for cut in slot.cuts:
            spans.append((slot.customer, slot.subscription, cut.part.start, cut.part.end))
            charges.append(() if cut.tariff is None else cut.tariff.charges)
            wholes.append(cut.whole)
    found = iter(Quantities(catalog, warehouse, tenant).of(spans, charges, wholes))
    return [[next(found) for _ in slot.cuts] for slot in slots]


def _bills(
    catalog: Catalog, tenant: str, slots: Sequence[SlotUsage], at: datetime
) -> dict[str, tuple[Invoice, Committed]]:
    """The invoices of open periods, by subscription, and how far each was committed before."""
    invoices = bill_customer(
        catalog, slots, tenant=tenant, status="preview", catalog_hash=catalog_hash(catalog)
    )
    before: dict[str, Committed] = {}
    found: dict[str, tuple[Invoice, Committed]] = {}
    for invoice in invoices:
        name = str(invoice.subscription)
        if invoice.billing_date is not None and invoice.billing_date > at:
            found[name] = invoice, before.get(name, NOTHING_COMMITTED)
        before[name] = invoice.committed
    return found


def _spent(invoice: Invoice, before: Committed, commitment: Commitment | None) -> Decimal:
    """The lines of this period that are no fees of the next one, and what was spent before."""
    assert invoice.billing_date is not None
    now = (
        line.amount
        for line in invoice.lines
        if (commitment is None or line.charge != commitment.id)
        and (line.service_start is None or line.service_start < invoice.billing_date)
    )
    exponent = currency_exponent(invoice.currency)
    return round_amount(
        Fraction(add_amounts(now, exponent)) + before.spent + before.ahead, exponent
    )


def _stretched(
    catalog: Catalog, usage: Mapping[str, UsageOf], slot: Slot, at: datetime
) -> dict[str, UsageOf]:
    """Usage as it would be at the end of the slot's period, where it adds up."""
    if slot.billing_date <= at or at <= slot.period_start:
        return dict(usage)
    whole, done = slot.billing_date - slot.period_start, at - slot.period_start
    factor = Fraction(whole // MICROSECOND, done // MICROSECOND)
    return {
        name: _times(each, factor) if catalog.meters_by_id[name].aggregation in _ADDITIVE else each
        for name, each in usage.items()
    }


def _times(usage: UsageOf, factor: Fraction) -> UsageOf:
    if usage.value is None:
        return usage
    with localcontext(prec=76):
        value = Decimal(usage.value) * factor.numerator / factor.denominator
        value = value.quantize(Decimal(1).scaleb(-PLACES), ROUND_HALF_EVEN)
    groups = {
        keys: {group: _times(each, factor) for group, each in found.items()}
        for keys, found in usage.groups.items()
    }
    return structs.replace(usage, value=value, groups=groups)


def _commitment(catalog: Catalog, subscription: str) -> Commitment | None:
    entry = catalog.subscriptions_by_id[subscription]
    return entry.commitment or catalog.plans_by_id[entry.plan].commitment
