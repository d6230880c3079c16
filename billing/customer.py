"""All invoices of one customer, in the order in which they burn credits.

    slots with their usage --by (billing date, currency, subscription)--> invoices
                                     what is final already is left out

Balances go from invoice to invoice, so the same catalog and usage give the same
invoices and burns, whatever the order of the slots, and however often they are built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from billing.allowances import Allowances
from billing.builder import build_invoice
from billing.commitments import Commitments
from billing.credits import after, opening
from billing.invoice import NOTHING_COMMITTED, Chain, Committed, Invoice, Line, Status
from billing.past import NO_PAST, Past
from billing.quantities import UsageOf
from billing.slots import Slot, begun, due
from billing.tariffs import Tariffs
from billing.terms import terms_of
from billing.thresholds import reached
from meters.catalog import Catalog

SlotUsage = tuple[Slot, Sequence[Mapping[str, UsageOf]]]
"""A slot, and the usage of each of its segments by meter."""


def bill_customer(
    catalog: Catalog,
    slots: Iterable[SlotUsage],
    *,
    tenant: str = "default",
    status: Status = "draft",
    catalog_hash: str | None = None,
    past: Past = NO_PAST,
) -> Iterator[Invoice]:
    """The invoices of one customer that are not final yet.

    `slots` must be all of the customer's until some date, with their tariffs: what an
    invoice finds of coupons and credits depends on those before it. Slots of a period
    that goes on (`billing.thresholds.candidates`; of one whose invoice is not final yet) give
    an invoice only where a threshold is reached. Slots whose invoice is final in the `past`,
    and those of its `billing.thresholds.final_parts`, need no usage and give no invoice;
    others go on from there. One that cannot become final, beside what it was finalized
    with, is held.
    """
    tariffs: dict[str, Tariffs] = {}
    committed: dict[str, Committed] = {}
    dates: dict[str, list[datetime]] = {}
    balances: dict[str, Decimal] | None = None
    allowances: Allowances | None = None
    numbers: dict[str, int] = {}
    for slot, usage in sorted(slots, key=lambda each: _order(each[0])):
        grants = catalog.grants_by_customer.get(slot.customer, ())
        if balances is None:
            balances = {**opening(grants), **past.balances}
        if allowances is None:
            shared = catalog.entitlements_by_customer.get(slot.customer, ())
            allowances = Allowances(shared, slot.time_zone)
        earlier = dates.setdefault(slot.subscription, [])
        if slot.until is not None and not slot.sequence:
            if past.is_billed(slot):
                continue
            slot = replace(slot, sequence=1 + numbers.get(slot.subscription, 0))
        slot = past.slot(slot, tenant)
        final = past.final.get(slot.invoice_id(tenant)) if past.final else None
        if final is not None:
            committed[slot.subscription] = final.committed
            allowances.restore(final.allowances, slot.subscription)
            if slot.until is not None:
                numbers[slot.subscription] = slot.sequence
            else:
                numbers.pop(slot.subscription, None)
                earlier.append(slot.billing_date)
            continue
        if slot.subscription not in tariffs:
            tariffs[slot.subscription] = tariffs_of(catalog, slot.subscription)
        invoice = build_invoice(
            slot,
            catalog.plans_by_id[slot.plan],
            usage,
            tenant=tenant,
            status=status,
            catalog_hash=catalog_hash,
            terms=terms_of(catalog, slot, earlier, balances),
            tariffs=tariffs[slot.subscription],
            commitments=commitments_of(catalog, slot.subscription),
            committed=committed.get(slot.subscription, NOTHING_COMMITTED),
            allowances=allowances,
        )
        if slot.until is not None:
            thresholds = catalog.plans_by_id[slot.plan].thresholds
            lines = [_as_priced(catalog, line) for line in invoice.lines]
            before = allowances.billed_in_all(slot.subscription)
            cost = sum((line.amount for line in lines), before)
            if reached(thresholds, cost) <= reached(thresholds, before):
                continue
            numbers[slot.subscription] = slot.sequence
            for line in lines:
                allowances.bill(line)
        elif slot.arrears is not None:
            numbers.pop(slot.subscription, None)
        left = allowances.state()
        chain = _chain(catalog, slot, invoice)
        if left or chain:
            within = slot.until is not None
            invoice = replace(invoice, allowances=left, chain=chain, within=within)
        committed[slot.subscription] = invoice.committed
        if slot.until is None:
            earlier.append(slot.billing_date)
        balances = after(balances, invoice)
        held = past.hold_reason(slot, grants) if past is not NO_PAST else None
        if held is not None and invoice.hold_reason is None:
            was = "held" if status == "draft" else status
            invoice = replace(invoice, status=was, hold_reason=held)
        yield invoice


def _chain(catalog: Catalog, slot: Slot, invoice: Invoice) -> Chain:
    """Which later invoices go on from what an invoice has left."""
    if catalog.entitlements_by_customer.get(slot.customer):
        return "customer"
    commitment = catalog.commitment_of(slot.subscription)
    goes_on = invoice.committed != NOTHING_COMMITTED
    if commitment is not None and (commitment.period == "year" or goes_on):
        return "subscription"
    if any(cut.tariff is not None and cut.tariff.rolls_over for cut in slot.cuts):
        return "subscription"
    return "" if slot.until is None else "period"


def _as_priced(catalog: Catalog, line: Line) -> Line:
    """The line with its amount as the price model said, an inclusive tax put back."""
    tax = None if line.tax_code is None else catalog.taxes_by_id[line.tax_code]
    if tax is None or not tax.inclusive:
        return line
    return line.replaced(amount=line.amount + line.tax)


def tariffs_of(catalog: Catalog, subscription: str) -> Tariffs:
    """The tariffs of one subscription of a catalog."""
    return Tariffs(catalog.subscriptions_by_id[subscription], catalog.plans_by_id)


def commitments_of(catalog: Catalog, subscription: str) -> Commitments | None:
    """How far a subscription is in its commitment, its own or its plan's."""
    entry, commitment = (
        catalog.subscriptions_by_id[subscription],
        catalog.commitment_of(subscription),
    )
    if commitment is None:
        return None
    return Commitments(entry.start, entry.trial_end or entry.start, entry.end, commitment)


def due_slots(catalog: Catalog, subscription: str, as_of: datetime) -> list[Slot]:
    """The slots of one subscription of a catalog until `as_of`, with their tariffs."""
    entry = catalog.subscriptions_by_id[subscription]
    customer = catalog.customers_by_id[entry.customer]
    plan = catalog.plans_by_id[entry.plan]
    return due(entry, plan, customer, as_of, tariffs_of(catalog, subscription))


def begun_slots(catalog: Catalog, subscription: str, as_of: datetime) -> list[Slot]:
    """The periods of a subscription whose usage may be billed at thresholds before `as_of`."""
    entry = catalog.subscriptions_by_id[subscription]
    plan = catalog.plans_by_id[entry.plan]
    if not plan.thresholds:
        return []
    customer = catalog.customers_by_id[entry.customer]
    return list(begun(entry, plan, customer, as_of, tariffs_of(catalog, subscription)))


def _order(slot: Slot) -> tuple[datetime, str, bytes, bool, int]:
    owner, whole = slot.subscription.encode(), slot.until is None
    return slot.billing_date, slot.currency, owner, whole, slot.sequence
