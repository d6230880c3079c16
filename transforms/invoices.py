"""Rating: customers and their merged usage become invoices and documents.

    parts of the catalog -> due slots -> usage merged by ClickHouse -> bill_customer -> documents

A customer needs nothing but its own subscriptions, usage and history, so customers are
rated in any number of parts, in any number of processes (`transforms.rating_pool`), with
the same result. What the journal has of a customer is final, and not rated again.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Self

import msgspec

from billing.credits import LedgerEntry, postings
from billing.customer import SlotUsage, begun_slots, bill_customer, due_slots
from billing.invoice import Invoice, Status
from billing.money import format_amount
from billing.past import NO_PAST, Carried, Past, carried_from, carried_of
from billing.quantities import UsageOf
from billing.slots import Slot
from billing.thresholds import candidates, final_parts, usage_end
from journal.journal import Journal
from journal.records import NO_HISTORY, Document, History
from meters.catalog import Catalog, Charge, Subscription
from meters.collection import without_collection
from meters.currencies import currency_exponent
from meters.periods import Span
from meters.timestamps import format_instant
from transforms.catalogs import stored_timeline
from transforms.quantities import Quantities
from warehouse.client import Warehouse
from warehouse.invoice_columns import Rows
from warehouse.merging import UsageSpan

_ENCODER = msgspec.json.Encoder(decimal_format="number")

_OWN = ("customers", "subscriptions", "credits", "entitlements")
"""What a catalog has for each customer alone."""


@dataclass(frozen=True)
class Rating:
    """What all parts of a billing run are rated by.

    `shared` is the catalog without what belongs to single customers, `catalog_hash` that of
    the whole. Every period that ended by `as_of` is billed. `journal` is the URL of the
    journal, None where nothing is final yet. `proposals` asks for these in the results.
    """

    shared: Catalog
    catalog_hash: str
    tenant: str
    as_of: datetime
    status: Status
    journal: str | None = None
    proposals: bool = False


@dataclass(frozen=True)
class Part:
    """Some customers, with all that they are billed by, and the place among the parts.

    The catalog has no other customers, so that what a worker holds does not grow with
    their number.
    """

    index: int
    catalog: Catalog


@dataclass(frozen=True)
class PackedPart:
    """A part as it travels: what its customers have, in bytes that nothing on the way reads."""

    index: int
    content: bytes

    @classmethod
    def of(cls, index: int, own: Mapping[str, Any]) -> Self:
        """The part of a catalog that has these entries of its customers."""
        return cls(index, pickle.dumps([own[name] for name in _OWN], pickle.HIGHEST_PROTOCOL))

    def opened(self, shared: Catalog) -> Part:
        """The part, beside what all parts share."""
        own = zip(_OWN, pickle.loads(self.content), strict=True)  # noqa: S301 (of this pipeline)
        sections = {name: getattr(shared, name) for name in Catalog.model_fields}
        return Part(self.index, Catalog.model_construct(**{**sections, **dict(own)}))


def without_customers(catalog: Catalog) -> Catalog:
    """What all parts of a catalog share."""
    sections = {name: getattr(catalog, name) for name in Catalog.model_fields}
    return Catalog.model_construct(**{**sections, **{name: [] for name in _OWN}})


@dataclass(frozen=True)
class RatedPart:
    """The invoices of a part, by customer, billing date and subscription.

    `postings` has, for each of them, the entries of the ledger that would become final with
    it. `histories` is what they go on from, `final` the documents of due periods in it.
    """

    invoices: Sequence[Invoice]
    postings: Sequence[tuple[LedgerEntry, ...]] = ()
    histories: Mapping[str, int] = field(default_factory=dict)
    final: Sequence[Document] = ()


@dataclass(frozen=True)
class Documents:
    """What a part has become: `count` invoices.

    Drafts are the `rows` that they are stored as, in the order of the results; `lines` are
    the results behind them.
    """

    index: int
    tenant: str
    count: int
    rows: Rows | None
    lines: Sequence[str]

    @property
    def results(self) -> Iterator[str]:
        """The results of the part, as lines of JSON."""
        if self.rows is not None:
            yield from self.rows.documents
        yield from self.lines


class Rater:
    """Rates parts, one at a time."""

    def __init__(self, rating: Rating, warehouse: Warehouse) -> None:
        self._rating = rating
        self._warehouse = warehouse
        self._tenant = rating.tenant
        self._as_of = rating.as_of
        self._timeline = cache(lambda: stored_timeline(warehouse, rating.tenant))
        self._journal = None
        if rating.journal is not None:
            self._journal = Journal.connect_existing(rating.journal, from_environment=True)

    def rate(self, packed: PackedPart) -> Documents:
        """The documents of a part."""
        rating = self._rating
        with without_collection():
            part = self._rated(packed.opened(rating.shared))
            rows: Rows | None = None
            if rating.proposals:
                lines = list(to_proposals(part))
            else:
                found = Rows.of([invoice.to_dict() for invoice in part.invoices])
                lines = [_ENCODER.encode(document).decode() for document in part.final]
                if rating.status == "draft":
                    rows = found
                else:
                    lines = [*found.documents, *lines]
        return Documents(packed.index, rating.tenant, len(part.invoices), rows, lines)

    def close(self) -> None:
        """Close the journal; the warehouse belongs to whoever gave it."""
        if self._journal is not None:
            self._journal.close()

    def _rated(self, part: Part) -> RatedPart:
        histories: dict[str, History] = {}
        if self._journal is not None:
            names = [customer.id for customer in part.catalog.customers]
            histories = self._journal.histories(self._tenant, names)
        pasts = {name: past_of(history) for name, history in histories.items()}
        quantities = Quantities(part.catalog, self._warehouse, self._tenant, self._timeline)
        customers: dict[str, list[SlotUsage]] = {}
        for slot, used in slots_until(
            quantities,
            part.catalog,
            part.catalog.subscriptions,
            pasts,
            tenant=self._tenant,
            as_of=self._as_of,
        ):
            customers.setdefault(slot.customer, []).append((slot, used))
        invoices: list[Invoice] = []
        entries: list[tuple[LedgerEntry, ...]] = []
        finals: list[Document] = []
        for name, found in sorted(customers.items()):
            past = pasts.get(name, NO_PAST)
            billed = bill_customer(
                part.catalog,
                found,
                tenant=self._tenant,
                status=self._rating.status,
                catalog_hash=self._rating.catalog_hash,
                past=past,
            )
            grants = part.catalog.grants_by_customer.get(name, ())
            for invoice, moved in postings(self._tenant, grants, billed, past.balances):
                invoices.append(invoice)
                entries.append(moved)
            if name in histories:
                finals += final_documents(histories[name], past, found, self._tenant)
        versions = {name: history.version for name, history in histories.items()}
        return RatedPart(invoices, entries, versions, finals)


def history_now(journal: Journal | None, tenant: str, customer: str) -> History:
    """What is final of a customer; a `journal` of None stands for one without documents."""
    found = {} if journal is None else journal.histories(tenant, [customer])
    return found.get(customer, NO_HISTORY)


def past_of(history: History) -> Past:
    """What rating needs of a customer's history."""
    final: dict[str, Carried] = {}
    void: set[str] = set()
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    parts: dict[tuple[str, datetime], list[tuple[datetime, int]]] = {}
    for name, each in history.documents.items():
        if each.void:
            void.add(name)
            continue
        final[name] = carried_from(each.carried)
        owner = str(each.document["subscription"])
        start, end = (_instant(each.document, key) for key in ("period_start", "period_end"))
        if final[name].within:
            sequence: Any = each.document["sequence"]
            parts.setdefault((owner, start), []).append((end, int(sequence)))
        else:
            spans.setdefault(owner, []).append((start, end))
    ordered = {period: sorted(ends) for period, ends in parts.items()}
    return Past(final, frozenset(void), spans, ordered, history.balances, history.granted)


def _instant(document: Document, name: str) -> datetime:
    return datetime.fromisoformat(str(document[name]))


def final_documents(
    history: History, past: Past, slots: Sequence[SlotUsage], tenant: str
) -> Iterator[Document]:
    """The final documents of due slots."""
    for slot, _ in slots:
        found = history.documents.get(past.slot(slot, tenant).invoice_id(tenant))
        if found is not None:
            yield found.document


def slots_until(
    quantities: Quantities,
    catalog: Catalog,
    subscriptions: Iterable[Subscription],
    pasts: Mapping[str, Past],
    *,
    tenant: str,
    as_of: datetime,
) -> list[SlotUsage]:
    """All slots of some subscriptions until `as_of`, as `bill_customer` takes them.

    What is final in the past of its customer comes without usage, and goes first.
    """
    final: list[Slot] = []
    open_slots: list[Slot] = []
    begun: list[Slot] = []
    for entry in subscriptions:
        past = pasts.get(entry.customer, NO_PAST)
        for slot in due_slots(catalog, entry.id, as_of):
            (final if past.is_final(slot, tenant) else open_slots).append(slot)
        for slot in begun_slots(catalog, entry.id, as_of):
            final += final_parts(slot, past, as_of)
            if not past.is_final(slot, tenant):
                begun.append(slot)
    return [*((slot, ()) for slot in final), *read_slots(quantities, open_slots, begun, as_of)]


def read_slots(
    quantities: Quantities, slots: Sequence[Slot], begun: Sequence[Slot], as_of: datetime
) -> list[SlotUsage]:
    """The slots with the usage of each of their segments by meter.

    Of periods that may be billed at thresholds, every hour with usage is a slot as well.
    """
    slots = list(slots)
    for slot, ends in zip(begun, quantities.hours(begun), strict=True):
        slots += candidates(slot, (end for end in ends if end <= as_of))
    return list(zip(slots, _usage_of(quantities, slots), strict=True))


def _usage_of(quantities: Quantities, slots: Sequence[Slot]) -> list[list[dict[str, UsageOf]]]:
    spans: list[UsageSpan] = []
    charges: list[tuple[Charge, ...]] = []
    wholes: list[Span] = []
    for slot in slots:
        for cut in slot.cuts:
            spans.append((slot.customer, slot.subscription, cut.part.start, usage_end(slot, cut)))
            wholes.append(cut.whole)
            charges.append(() if cut.tariff is None else cut.tariff.charges)
    found = iter(quantities.of(spans, charges, wholes))
    return [[next(found) for _ in slot.cuts] for slot in slots]


def place(invoice: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """What documents are ordered by: customer, billing date, subscription and id."""
    names = ("customer", "billing_date", "subscription", "invoice_id")
    customer, billing_date, subscription, invoice_id = (invoice[name] for name in names)
    return customer, billing_date, subscription, invoice_id


def to_proposals(part: RatedPart) -> Iterator[str]:
    """The results of a part: for each customer what could become final, and what is.

    A line is `{customer, version, final, invoices}`; an invoice `{document, entries,
    redemptions, carried}`, as `journal.records.Posting` has them.
    """
    customers: dict[str, dict[str, Any]] = {}

    def of(name: str) -> dict[str, Any]:
        version = part.histories.get(name, 0)
        new = {"customer": name, "version": version, "final": [], "invoices": []}
        return customers.setdefault(name, new)

    for document in part.final:
        of(str(document["customer"]))["final"].append(document)
    for invoice, entries in zip(part.invoices, part.postings, strict=True):
        exponent = currency_exponent(invoice.currency)
        posting = {
            "document": invoice.to_dict(),
            "entries": [_entry(entry) for entry in entries],
            "redemptions": {
                each.coupon: format_amount(each.amount, exponent) for each in invoice.redemptions
            },
            "carried": carried_of(invoice),
        }
        of(str(invoice.customer))["invoices"].append(posting)
    for line in customers.values():
        yield _ENCODER.encode(line).decode()


def _entry(entry: LedgerEntry) -> dict[str, str | None]:
    """An entry of the ledger in texts, as the journal keeps it."""
    return {
        "ledger_entry_id": entry.ledger_entry_id,
        "customer": entry.customer,
        "kind": entry.kind,
        "account": entry.account,
        "grant_id": entry.grant_id,
        "invoice_id": entry.invoice_id or "",
        "currency": entry.currency,
        "amount": format_amount(entry.amount, currency_exponent(entry.currency)),
        "at": format_instant(entry.at),
        "expires_at": None if entry.expires_at is None else format_instant(entry.expires_at),
    }
