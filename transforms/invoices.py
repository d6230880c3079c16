"""Rating: customers and their merged usage become invoices, documents and stored drafts.

    parts of the catalog -> due slots -> usage merged by ClickHouse -> bill_customer -> documents

A customer needs nothing but its own subscriptions and usage, so customers are rated in
any number of parts, on any number of workers, with the same result. While a part is
rated, the usage of the next one is read and the drafts of the one before are written.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import apache_beam as beam
from apache_beam.coders import Coder
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from billing.customer import SlotUsage, begun_slots, bill_customer, due_slots
from billing.invoice import Invoice, Status
from billing.quantities import UsageOf
from billing.slots import Slot
from billing.thresholds import candidates, usage_end
from meters.catalog import Catalog, Charge
from meters.collection import without_collection
from meters.periods import Span
from transforms import progress
from transforms.background import Background
from transforms.catalogs import stored_timeline
from transforms.connection import connect
from transforms.quantities import Quantities
from warehouse.invoices import Texts, write_texts
from warehouse.merging import UsageSpan


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
    """The invoices of a part, by customer, billing date and subscription."""

    index: int
    tenant: str
    invoices: Sequence[Invoice]


@dataclass(frozen=True)
class Documents:
    """The documents of a part, in the order of its invoices."""

    index: int
    tenant: str
    texts: Sequence[Texts]


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
    """`Part` -> `RatedPart` with every period that ended by `as_of`."""

    def __init__(self, *, tenant: str, warehouse: str, as_of: datetime, status: Status) -> None:
        self._tenant = tenant
        self._url = warehouse
        self._as_of = as_of
        self._status = status

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect(self._url)
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._timeline = cache(lambda: stored_timeline(self._warehouse, self._tenant))

    def start_bundle(self) -> None:
        """Nothing is being read yet."""
        self._reading: deque[tuple[Part, Future[list[SlotUsage]]]] = deque()

    def process(self, part: Part) -> Iterator[RatedPart]:
        """Begin to read the usage of a part, and rate the one before."""
        with without_collection():
            slots = [
                slot
                for entry in part.catalog.subscriptions
                for slot in due_slots(part.catalog, entry.id, self._as_of)
            ]
        quantities = Quantities(part.catalog, self._warehouse, self._tenant, self._timeline)
        begun = [
            slot
            for entry in part.catalog.subscriptions
            for slot in begun_slots(part.catalog, entry.id, self._as_of)
        ]
        usage = self._reader.submit(_read, quantities, slots, begun, self._as_of)
        self._reading.append((part, usage))
        if len(self._reading) > 1:
            yield self._rated()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Rate what is left."""
        while self._reading:
            rated = self._rated()
            yield WindowedValue(rated, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def teardown(self) -> None:
        """End the thread."""
        self._reader.shutdown(cancel_futures=True)

    def _rated(self) -> RatedPart:
        part, usage = self._reading.popleft()
        customers: dict[str, list[SlotUsage]] = {}
        for slot, used in usage.result():
            customers.setdefault(slot.customer, []).append((slot, used))
        invoices: list[Invoice] = []
        with without_collection():
            for _, found in sorted(customers.items()):
                invoices += bill_customer(
                    part.catalog,
                    found,
                    tenant=self._tenant,
                    status=self._status,
                    catalog_hash=part.catalog_hash,
                )
        progress.advance("invoices", len(invoices))
        return RatedPart(part.index, self._tenant, invoices)


def _read(
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
    """The JSON documents of a part."""
    with without_collection():
        texts = [Texts.of(invoice.to_dict()) for invoice in part.invoices]
    return Documents(part.index, part.tenant, texts)


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
            for text in part.texts:
                file.write(text.text.encode() + b"\n")
