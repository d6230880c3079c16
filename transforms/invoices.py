"""Rating: subscriptions and their merged usage become invoices.

    subscriptions -> due slots -> usage merged by ClickHouse -> build_invoice -> documents

A slot needs nothing but its own subscription and usage, so subscriptions are rated in
any number of batches, on any number of workers, with the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

import apache_beam as beam
import msgspec

from billing.builder import UsageOf, build_invoice
from billing.invoice import Invoice, Status
from billing.slots import Slot, due
from meters.aggregators import State, extract
from meters.catalog import Catalog
from meters.catalog_file import catalog_hash
from meters.numbers import to_scaled
from transforms import progress
from transforms.connection import connect
from warehouse.invoices import write_invoices
from warehouse.merging import merged_usage

_ENCODER = msgspec.json.Encoder(decimal_format="number")


class RateSubscriptions(beam.DoFn):  # type: ignore[misc]
    """Ids of subscriptions -> `Invoice`s of every period that ended by `as_of`."""

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
        self._warehouse = connect(self._url)
        self._hash = catalog_hash(self._catalog)

    def process(self, subscriptions: Sequence[str]) -> Iterator[Invoice]:
        """Rate one batch with one query."""
        slots = [slot for name in subscriptions for slot in self._due(name)]
        usage = self._usage(slots)
        for index, slot in enumerate(slots):
            yield build_invoice(
                slot,
                self._catalog.plans_by_id[slot.plan],
                usage.get(index, {}),
                tenant=self._tenant,
                status=self._status,
                catalog_hash=self._hash,
            )
        progress.advance("invoices", len(slots))

    def _due(self, name: str) -> list[Slot]:
        subscription = self._catalog.subscriptions_by_id[name]
        plan = self._catalog.plans_by_id[subscription.plan]
        customer = self._catalog.customers_by_id[subscription.customer]
        return due(subscription, plan, customer, self._as_of)

    def _usage(self, slots: list[Slot]) -> dict[int, dict[str, UsageOf]]:
        """The usage of each slot's segment by meter, all groups merged."""
        spans = [
            (slot.customer, slot.subscription, slot.arrears.part.start, slot.arrears.part.end)
            for slot in slots
            if slot.arrears is not None
        ]
        positions = [index for index, slot in enumerate(slots) if slot.arrears is not None]
        usage: dict[int, dict[str, UsageOf]] = {}
        if not spans:
            return usage
        meters = self._catalog.meters_by_id
        table = merged_usage(self._warehouse, self._tenant, spans, by_group=False)
        for row in table.to_pylist():
            meter = meters.get(row["meter"])
            if meter is None:
                continue
            value = (
                row["distinct"]
                if meter.aggregation == "unique_count"
                else extract(meter.aggregation, _state(row))
            )
            usage.setdefault(positions[row["span"]], {})[meter.id] = UsageOf(
                value, row["events"], row["revision"]
            )
        return usage


def _state(row: dict[str, object]) -> State:
    def scaled(name: str) -> int | None:
        value = row[name]
        return None if value is None else to_scaled(value)  # type: ignore[arg-type]

    latest = scaled("latest_value")
    return State(
        events=int(row["events"]),  # type: ignore[call-overload]
        sum=scaled("sum") or 0,
        min=scaled("min"),
        max=scaled("max"),
        latest=None if latest is None else (0, b"", latest),
    )


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
