"""Rating: subscriptions and their merged usage become invoices.

    customers -> due slots -> usage merged by ClickHouse -> bill_customer -> documents

A customer needs nothing but its own subscriptions and usage, so customers are rated in
any number of batches, on any number of workers, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import apache_beam as beam
import msgspec

from billing.customer import SlotUsage, bill_customer, due_slots
from billing.invoice import Invoice, Status
from billing.quantities import UsageOf
from billing.slots import Slot
from meters.catalog import Catalog, Charge
from meters.catalog_file import catalog_hash
from transforms import progress
from transforms.connection import connect
from transforms.quantities import Quantities
from warehouse.invoices import write_invoices
from warehouse.merging import UsageSpan

_ENCODER = msgspec.json.Encoder(decimal_format="number")


class RateSubscriptions(beam.DoFn):  # type: ignore[misc]
    """Ids of subscriptions -> `Invoice`s of every period that ended by `as_of`.

    A batch has all subscriptions of each of its customers.
    """

    def __init__(
        self, catalog: Catalog, *, tenant: str, warehouse: str, as_of: datetime, status: Status
    ) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse
        self._as_of = as_of
        self._status = status

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._quantities = Quantities(self._catalog, connect(self._url), self._tenant)
        self._hash = catalog_hash(self._catalog)

    def process(self, subscriptions: Sequence[str]) -> Iterator[Invoice]:
        """Rate one batch with one query."""
        slots = [
            slot for name in subscriptions for slot in due_slots(self._catalog, name, self._as_of)
        ]
        customers: dict[str, list[SlotUsage]] = {}
        for slot, usage in zip(slots, self._usage(slots), strict=True):
            customers.setdefault(slot.customer, []).append((slot, usage))
        for found in customers.values():
            yield from bill_customer(
                self._catalog,
                found,
                tenant=self._tenant,
                status=self._status,
                catalog_hash=self._hash,
            )
        progress.advance("invoices", len(slots))

    def _usage(self, slots: list[Slot]) -> list[list[dict[str, UsageOf]]]:
        """The usage of each segment of each slot by meter."""
        spans: list[UsageSpan] = []
        charges: list[tuple[Charge, ...]] = []
        for slot in slots:
            for cut in slot.cuts:
                spans.append((slot.customer, slot.subscription, cut.part.start, cut.part.end))
                charges.append(() if cut.tariff is None else cut.tariff.charges)
        found = iter(self._quantities.of(spans, charges))
        return [[next(found) for _ in slot.cuts] for slot in slots]


class WriteDrafts(beam.DoFn):  # type: ignore[misc]
    """Batches of `Invoice`s -> `invoices` and `invoice_lines`, idempotently."""

    def __init__(self, *, warehouse: str) -> None:
        self._url = warehouse

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect(self._url)

    def process(self, invoices: Sequence[Invoice]) -> None:
        """Write one batch."""
        write_invoices(
            self._warehouse, invoices[0].tenant, [invoice.to_dict() for invoice in invoices]
        )


def to_json(invoice: Invoice) -> str:
    """One invoice as a line of JSON, decimals as strings or exact numbers."""
    return _ENCODER.encode(invoice.to_dict()).decode()
