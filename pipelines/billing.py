"""The billing pipeline: usage rows and plan prices become invoices.

    customers -> parts -> merged usage x prices -> documents -> drafts (not in a preview)
                                                        |
                                                     results -> journal (runners.finalize)

Rating is pure and repeatable; ids are hashes of what an invoice is for, so a second
run writes the same rows again. What is final is read from the journal and not rated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import apache_beam as beam

from meters.catalog import Catalog, Subscription
from meters.catalog_file import catalog_hash
from transforms.invoice_stages import RateParts, WriteDrafts, WriteResults, store_parts
from transforms.invoices import Documents, PackedPart, Rating, without_customers
from transforms.rating_pool import processors

BATCH = 1000
"""Subscriptions that are rated with one query, or those of one customer where it has more."""

PARTS_EACH = 3
"""A process that rates takes a second to start; it is started for so many parts."""


@dataclass(frozen=True)
class Billing:
    """One billing run over some subscriptions.

    `subscriptions` names all of each customer's. Every period that ended by `as_of` is
    billed. A `preview` writes nothing to the warehouse, and neither does a run for
    `proposals`. The invoices are written as lines of JSON to files that begin with
    `results`: in the order of their names they are sorted by customer, billing date,
    currency and subscription, final ones behind those of their part. Proposals have a
    line for each customer instead (`transforms.invoices.to_proposals`). `journal` is the
    journal's URL, None where nothing is final yet. `workers` processes rate at the same
    time (None: as many as there are processors, where that many have enough to do), and
    whatever their number, the results are the same.
    """

    catalog: Catalog
    subscriptions: Sequence[str]
    tenant: str
    warehouse: str
    as_of: datetime
    status: Literal["draft", "preview"]
    results: str
    journal: str | None = None
    proposals: bool = False
    workers: int | None = None

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        # Beside the results, and not one of them.
        parts = f"{self.results}.part"
        count = store_parts(_parts(self.catalog, self.subscriptions), parts)
        rating = Rating(
            shared=without_customers(self.catalog),
            catalog_hash=catalog_hash(self.catalog),
            tenant=self.tenant,
            as_of=self.as_of,
            status=self.status,
            journal=self.journal,
            proposals=self.proposals,
        )
        workers = self.workers or min(processors(), count // PARTS_EACH)
        rate = RateParts(rating, parts=parts, warehouse=self.warehouse, workers=workers)
        documents = (
            pipeline
            | "Parts" >> beam.Create(range(count))
            | "Spread" >> beam.Reshuffle()
            | "Rate" >> beam.ParDo(rate).with_output_types(Documents)
        )
        if self.status == "draft" and not self.proposals:
            _ = documents | "Write" >> beam.ParDo(WriteDrafts(warehouse=self.warehouse))
        _ = documents | "Results" >> beam.ParDo(WriteResults(self.results))


def _parts(catalog: Catalog, subscriptions: Sequence[str]) -> Iterator[PackedPart]:
    """The catalog in parts that never part what one customer has."""
    chosen: dict[str, list[Subscription]] = {}
    for name in subscriptions:
        entry = catalog.subscriptions_by_id[name]
        chosen.setdefault(entry.customer, []).append(entry)
    index = count = 0
    customers: list[str] = []
    for name in sorted(chosen):
        if customers and count + len(chosen[name]) > BATCH:
            yield PackedPart.of(index, _own(catalog, customers, chosen))
            index, count, customers = index + 1, 0, []
        customers.append(name)
        count += len(chosen[name])
    if customers:
        yield PackedPart.of(index, _own(catalog, customers, chosen))


def _own(
    catalog: Catalog, customers: Sequence[str], chosen: Mapping[str, Sequence[Subscription]]
) -> dict[str, list[Any]]:
    """What the catalog has for these customers."""
    return {
        "customers": [catalog.customers_by_id[name] for name in customers],
        "subscriptions": [entry for name in customers for entry in chosen[name]],
        "credits": [g for name in customers for g in catalog.grants_by_customer.get(name, ())],
        "entitlements": [
            each for name in customers for each in catalog.entitlements_by_customer.get(name, ())
        ],
    }
