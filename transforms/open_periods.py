"""The bill of a period that is still open: what has been used so far, and where it leads.

    customer -> slots that are due, and those of the periods that hold `at`
             -> usage so far -> bill_customer -> spend to date
             -> additive usage, stretched to the whole period -> bill_customer -> projection
    final in the journal -----------^

What is not final before it is billed along with it, as credits and commitments go from
invoice to invoice. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from typing import Any

from msgspec import structs

from billing.customer import SlotUsage, bill_customer
from billing.invoice import NOTHING_COMMITTED, Committed, Invoice
from billing.money import round_amount
from billing.past import Past
from billing.quantities import UsageOf
from billing.slots import Slot
from journal.journal import Journal
from journal.records import History
from meters.catalog import Catalog, Commitment, Subscription
from meters.catalog_file import catalog_hash
from meters.currencies import currency_exponent
from meters.numbers import PLACES
from meters.periods import Periods
from meters.zones import MICROSECOND
from transforms.invoices import history_now, past_of, slots_until
from transforms.quantities import Quantities
from warehouse.client import Warehouse

_ADDITIVE = ("count", "sum")


@dataclass(frozen=True)
class OpenPeriod:
    """One subscription's open period at an instant.

    `to_date` is the bill at the end of the period if nothing more were used, `projected` if
    the rest of the period were like its beginning; both without what thresholds bill before.
    `spent` is what counts towards the commitment: rounded lines before coupons, credits and
    tax, from the start of the commitment's span on.
    """

    to_date: Invoice
    projected: Invoice
    spent: Decimal
    commitment: Commitment | None


def open_periods(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    customer: str,
    at: datetime,
    journal: Journal | None = None,
) -> list[OpenPeriod]:
    """The open periods of a customer's subscriptions at `at`, by subscription.

    One whose invoice is final already is not open. `journal` None stands for one in which
    nothing is final.
    """
    history = history_now(journal, tenant, customer)
    past = past_of(history)
    quantities = Quantities.in_time(catalog, warehouse, tenant)
    to_date: list[SlotUsage] = []
    for entry in catalog.subscriptions:
        if entry.customer == customer and entry.start <= at:
            until = _until(catalog, entry, at)
            to_date += slots_until(
                quantities, catalog, [entry], {customer: past}, tenant=tenant, as_of=until
            )
    projected = [
        (slot, [_stretched(catalog, each, slot, at) for each in found]) for slot, found in to_date
    ]
    before = _Before(to_date, past, history, tenant)
    bills = [_bills(catalog, tenant, found, past) for found in (to_date, projected)]
    return [
        OpenPeriod(
            to_date=invoice,
            projected=_open(bills[1], at)[name],
            spent=_spent(invoice, before.of(invoice, bills[0], commitment), commitment),
            commitment=commitment,
        )
        for name, invoice in sorted(_open(bills[0], at).items())
        for commitment in (catalog.commitment_of(name),)
    ]


def _until(catalog: Catalog, entry: Subscription, at: datetime) -> datetime:
    """The end of the subscription's period that holds `at`; `at` where none does."""
    zone = catalog.customers_by_id[entry.customer].time_zone
    period = catalog.plans_by_id[entry.plan].period
    current = Periods(entry.start, zone, period, entry.end).containing(at)
    return at if current is None else current.end


def _bills(catalog: Catalog, tenant: str, slots: Sequence[SlotUsage], past: Past) -> list[Invoice]:
    return list(
        bill_customer(
            catalog,
            slots,
            tenant=tenant,
            status="preview",
            catalog_hash=catalog_hash(catalog),
            past=past,
        )
    )


def _open(invoices: Sequence[Invoice], at: datetime) -> dict[str, Invoice]:
    """The invoices of whole periods that are open at `at`, by subscription."""
    return {
        str(each.subscription): each
        for each in invoices
        if not each.within and each.billing_date is not None and each.billing_date > at
    }


class _Before:
    """What counts in a period before its invoice: carried over, and billed at thresholds."""

    def __init__(
        self, slots: Sequence[SlotUsage], past: Past, history: History, tenant: str
    ) -> None:
        self._carried: dict[str, tuple[datetime, Committed]] = {}
        for slot, _ in sorted(slots, key=lambda each: each[0].billing_date):
            carried = past.final.get(past.slot(slot, tenant).invoice_id(tenant))
            if carried is not None and slot.until is None:
                self._carried[slot.subscription] = slot.billing_date, carried.committed
        self._parts = [
            dict[str, Any](each.document)
            for name, each in history.documents.items()
            if name in past.final and past.final[name].within
        ]

    def of(
        self, invoice: Invoice, invoices: Sequence[Invoice], commitment: Commitment | None
    ) -> Fraction:
        """The exact sum of what counts beside the lines of an invoice."""
        name = str(invoice.subscription)
        latest, committed = self._carried.get(name, (None, NOTHING_COMMITTED))
        parts: list[Mapping[str, Any]] = []
        for each in invoices:
            if each.subscription != name or each is invoice:
                continue
            assert each.billing_date is not None
            if each.within:
                if each.period_start == invoice.period_start:
                    parts.append(each.to_dict())
            elif latest is None or each.billing_date > latest:
                latest, committed = each.billing_date, each.committed
        for document in self._parts:
            start = datetime.fromisoformat(str(document["period_start"]))
            if document["subscription"] == name and start == invoice.period_start:
                parts.append(document)
        lines = (line for document in parts for line in document["lines"])
        own = None if commitment is None else commitment.id
        billed = (Fraction(str(line["amount"])) for line in lines if line["charge"] != own)
        return sum(billed, committed.spent + committed.ahead)


def _spent(invoice: Invoice, before: Fraction, commitment: Commitment | None) -> Decimal:
    """The lines of this period that are no fees of the next one, and what was spent before."""
    assert invoice.billing_date is not None
    now = (
        Fraction(line.amount)
        for line in invoice.lines
        if (commitment is None or line.charge != commitment.id)
        and (line.service_start is None or line.service_start < invoice.billing_date)
    )
    return round_amount(sum(now, before), currency_exponent(invoice.currency))


def _stretched(
    catalog: Catalog, usage: Mapping[str, UsageOf], slot: Slot, at: datetime
) -> dict[str, UsageOf]:
    """Usage as it would be at the end of the slot's period, where it adds up."""
    if slot.until is not None or slot.billing_date <= at or at <= slot.period_start:
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
