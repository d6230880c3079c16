"""Rating: customers and their merged usage become invoices, documents and stored drafts.

    parts of the catalog -> due slots -> usage merged by ClickHouse -> bill_customer -> documents

A customer needs nothing but its own subscriptions, usage and history, so customers are
rated in any number of parts, on any number of workers, with the same result. While a part
is rated, the usage of the next one is read and the drafts of the one before are written.
What the journal has of a customer is final, and not rated again.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import Coder
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from billing.credits import LedgerEntry, postings
from billing.customer import SlotUsage, begun_slots, bill_customer, due_slots
from billing.invoice import Invoice, Status
from billing.money import format_amount
from billing.past import NO_PAST, Carried, Past, carried_from, carried_of
from billing.quantities import UsageOf
from billing.slots import Slot
from billing.thresholds import candidates, final_parts, usage_end
from journal.journal import Journal
from journal.records import Document, History
from meters.catalog import Catalog, Charge
from meters.collection import without_collection
from meters.currencies import currency_exponent
from meters.periods import Span
from meters.timestamps import format_instant
from transforms import progress
from transforms.background import Background
from transforms.catalogs import stored_timeline
from transforms.connection import connect
from transforms.quantities import Quantities
from warehouse.invoices import Texts, write_texts
from warehouse.merging import UsageSpan

_ENCODER = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class Part:
    """All that some customers are billed by, and its place among the parts.

    The catalog has no other customers, so that what a worker holds does not grow with
    their number.
    """

    index: int
    catalog: Catalog
    catalog_hash: str
    """The hash of the whole catalog."""


@dataclass(frozen=True)
class RatedPart:
    """The invoices of a part, by customer, billing date and subscription.

    `postings` has, for each of them, the entries of the ledger that would become final with
    it. `histories` is what they go on from, `final` the documents of due periods in it.
    """

    index: int
    tenant: str
    invoices: Sequence[Invoice]
    postings: Sequence[tuple[LedgerEntry, ...]] = ()
    histories: Mapping[str, int] = field(default_factory=dict)
    final: Sequence[Document] = ()


@dataclass(frozen=True)
class Documents:
    """The documents of a part, in the order of its invoices, and the lines of its results."""

    index: int
    tenant: str
    texts: Sequence[Texts]
    lines: Sequence[str]


class PartCoder(Coder):  # type: ignore[misc]
    """Codes what travels between stages, where a runner does not fuse them."""

    def encode(self, value: RatedPart | Documents) -> bytes:
        """The pickled value."""
        return pickle.dumps(value)

    def decode(self, encoded: bytes) -> RatedPart | Documents:
        """The value; from a worker of this pipeline alone."""
        found: RatedPart | Documents = pickle.loads(encoded)  # noqa: S301
        return found

    def estimate_size(self, value: RatedPart | Documents) -> int:
        """About the bytes in memory; Beam's own estimate would code the value once more."""
        if isinstance(value, RatedPart):
            return sum(1000 * len(invoice.lines) for invoice in value.invoices)
        return sum(2 * len(texts.text) for texts in value.texts)

    def is_deterministic(self) -> bool:
        """It is no key."""
        return False


beam.coders.registry.register_coder(RatedPart, PartCoder)
beam.coders.registry.register_coder(Documents, PartCoder)


class RateParts(beam.DoFn):  # type: ignore[misc]
    """`Part` -> `RatedPart` with every period that ended by `as_of`.

    `journal` is the URL of the journal; None where nothing is final yet.
    """

    def __init__(
        self,
        *,
        tenant: str,
        warehouse: str,
        as_of: datetime,
        status: Status,
        journal: str | None = None,
    ) -> None:
        self._tenant = tenant
        self._url = warehouse
        self._as_of = as_of
        self._status = status
        self._journal_url = journal

    def setup(self) -> None:
        """Open warehouse and journal once a worker."""
        self._warehouse = connect(self._url)
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._timeline = cache(lambda: stored_timeline(self._warehouse, self._tenant))
        self._journal = None
        if self._journal_url is not None:
            self._journal = Journal.connect_existing(self._journal_url, from_environment=True)

    def start_bundle(self) -> None:
        """Nothing is being read yet."""
        self._reading: deque[_Reading] = deque()

    def process(self, part: Part) -> Iterator[RatedPart]:
        """Begin to read the usage of a part, and rate the one before."""
        with without_collection():
            slots = [
                slot
                for entry in part.catalog.subscriptions
                for slot in due_slots(part.catalog, entry.id, self._as_of)
            ]
        histories: dict[str, History] = {}
        if self._journal is not None:
            names = [customer.id for customer in part.catalog.customers]
            histories = self._journal.histories(self._tenant, names)
        pasts = {name: past_of(history) for name, history in histories.items()}
        final: list[Slot] = []
        open_slots: list[Slot] = []
        for slot in slots:
            past = pasts.get(slot.customer, NO_PAST)
            (final if past.is_final(slot, self._tenant) else open_slots).append(slot)
        quantities = Quantities(part.catalog, self._warehouse, self._tenant, self._timeline)
        begun: list[Slot] = []
        for entry in part.catalog.subscriptions:
            past = pasts.get(entry.customer, NO_PAST)
            for slot in begun_slots(part.catalog, entry.id, self._as_of):
                final += final_parts(slot, past, self._as_of)
                if not past.is_final(slot, self._tenant):
                    begun.append(slot)
        usage = self._reader.submit(read_slots, quantities, open_slots, begun, self._as_of)
        self._reading.append(_Reading(part, final, histories, pasts, usage))
        if len(self._reading) > 1:
            yield self._rated()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Rate what is left."""
        while self._reading:
            rated = self._rated()
            yield WindowedValue(rated, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def teardown(self) -> None:
        """End the thread, and close the journal."""
        self._reader.shutdown(cancel_futures=True)
        if self._journal is not None:
            self._journal.close()

    def _rated(self) -> RatedPart:
        reading = self._reading.popleft()
        part, histories = reading.part, reading.histories
        customers: dict[str, list[SlotUsage]] = {}
        for slot in reading.final:
            customers.setdefault(slot.customer, []).append((slot, ()))
        for slot, used in reading.usage.result():
            customers.setdefault(slot.customer, []).append((slot, used))
        invoices: list[Invoice] = []
        entries: list[tuple[LedgerEntry, ...]] = []
        final: list[Document] = []
        with without_collection():
            for name, found in sorted(customers.items()):
                past = reading.pasts.get(name, NO_PAST)
                billed = bill_customer(
                    part.catalog,
                    found,
                    tenant=self._tenant,
                    status=self._status,
                    catalog_hash=part.catalog_hash,
                    past=past,
                )
                grants = part.catalog.grants_by_customer.get(name, ())
                for invoice, moved in postings(self._tenant, grants, billed, past.balances):
                    invoices.append(invoice)
                    entries.append(moved)
                if name in histories:
                    final += _final(histories[name], past, found, self._tenant)
        progress.advance("invoices", len(invoices))
        versions = {name: history.version for name, history in histories.items()}
        return RatedPart(part.index, self._tenant, invoices, entries, versions, final)


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


def _final(
    history: History, past: Past, slots: Sequence[SlotUsage], tenant: str
) -> Iterator[Document]:
    """The final documents of due slots."""
    for slot, _ in slots:
        found = history.documents.get(past.slot(slot, tenant).invoice_id(tenant))
        if found is not None:
            yield found.document


@dataclass(frozen=True)
class _Reading:
    """A part whose usage is being read; `final` slots need none."""

    part: Part
    final: list[Slot]
    histories: Mapping[str, History]
    pasts: Mapping[str, Past]
    usage: Future[list[SlotUsage]]


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


def to_documents(part: RatedPart) -> Documents:
    """The JSON documents of a part: those that are open, and in the results the final ones."""
    with without_collection():
        texts = [Texts.of(invoice.to_dict()) for invoice in part.invoices]
        lines = [each.text for each in texts]
        lines += [_ENCODER.encode(document).decode() for document in part.final]
    return Documents(part.index, part.tenant, texts, lines)


def to_proposals(part: RatedPart) -> Documents:
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
    lines = [_ENCODER.encode(line).decode() for line in customers.values()]
    return Documents(part.index, part.tenant, (), lines)


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


class WriteDrafts(beam.DoFn):  # type: ignore[misc]
    """`Documents` -> `invoices` and `invoice_lines`, idempotently."""

    def __init__(self, *, warehouse: str) -> None:
        self._url = warehouse

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect(self._url)
        self._background = Background()

    def process(self, part: Documents) -> None:
        """Begin to write the documents of a part."""

        def write() -> None:
            write_texts(self._warehouse, part.tenant, part.texts)

        self._background.submit(write)

    def finish_bundle(self) -> None:
        """Wait until all is written: a bundle that is done is durable."""
        self._background.finish()

    def teardown(self) -> None:
        """End the thread."""
        self._background.close()


class WriteResults(beam.DoFn):  # type: ignore[misc]
    """`Documents` -> a file of JSON lines for each part, `PREFIX-INDEX`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def process(self, part: Documents) -> None:
        """Write the file of one part; a part that is done again writes the same."""
        with FileSystems.create(f"{self._prefix}-{part.index:08}", "application/json") as file:
            for line in part.lines:
                file.write(line.encode() + b"\n")
