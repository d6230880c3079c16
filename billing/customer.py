"""All invoices of one customer, in the order in which they burn credits.

    slots with their usage --by (billing date, currency, subscription)--> invoices

Balances go from invoice to invoice, so the same catalog and usage give the same
invoices and burns, whatever the order of the slots, and however often they are built.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal

from billing.allowances import Allowances
from billing.builder import build_invoice
from billing.commitments import Commitments
from billing.credits import after, opening
from billing.invoice import NOTHING_COMMITTED, Committed, Invoice, Status
from billing.quantities import UsageOf
from billing.slots import Slot, due
from billing.tariffs import Tariffs
from billing.terms import terms_of
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
) -> Iterator[Invoice]:
    """The invoices of one customer.

    `slots` must be all of the customer's until some date, with their tariffs: what an
    invoice finds of coupons and credits depends on those before it.
    """
    tariffs: dict[str, Tariffs] = {}
    committed: dict[str, Committed] = {}
    dates: dict[str, list[datetime]] = {}
    balances: dict[str, Decimal] | None = None
    allowances: Allowances | None = None
    for slot, usage in sorted(slots, key=lambda each: _order(each[0])):
        grants = catalog.grants_by_customer.get(slot.customer, ())
        if balances is None:
            balances = opening(grants)
        if allowances is None:
            shared = catalog.entitlements_by_customer.get(slot.customer, ())
            allowances = Allowances(shared, slot.time_zone)
        earlier = dates.setdefault(slot.subscription, [])
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
        committed[slot.subscription] = invoice.committed
        earlier.append(slot.billing_date)
        balances = after(balances, invoice)
        yield invoice


def tariffs_of(catalog: Catalog, subscription: str) -> Tariffs:
    """The tariffs of one subscription of a catalog."""
    return Tariffs(catalog.subscriptions_by_id[subscription], catalog.plans_by_id)


def commitments_of(catalog: Catalog, subscription: str) -> Commitments | None:
    """The commitment of a subscription, its own or its plan's."""
    entry = catalog.subscriptions_by_id[subscription]
    commitment = entry.commitment or catalog.plans_by_id[entry.plan].commitment
    if commitment is None:
        return None
    return Commitments(entry.start, entry.trial_end or entry.start, entry.end, commitment)


def due_slots(catalog: Catalog, subscription: str, as_of: datetime) -> list[Slot]:
    """The slots of one subscription of a catalog until `as_of`, with their tariffs."""
    entry = catalog.subscriptions_by_id[subscription]
    customer = catalog.customers_by_id[entry.customer]
    plan = catalog.plans_by_id[entry.plan]
    return due(entry, plan, customer, as_of, tariffs_of(catalog, subscription))


def _order(slot: Slot) -> tuple[datetime, str, bytes, int]:
    return slot.billing_date, slot.currency, slot.subscription.encode(), slot.sequence
