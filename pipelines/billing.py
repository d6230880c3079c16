"""The billing pipeline: usage rows and plan prices become invoices.

    subscriptions -> batches -> merged usage x prices -> invoices -> drafts (not in a preview)
                                                             |
                                                          results

Rating is pure and repeatable; ids are hashes of what an invoice is for, so a second
run writes the same rows again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import apache_beam as beam

from billing.invoice import Invoice
from meters.catalog import Catalog
from transforms.invoices import RateSubscriptions, WriteDrafts, to_json

BATCH = 500
"""Subscriptions that are rated with one query, or those of one customer where it has more."""


@dataclass(frozen=True)
class Billing:
    """One billing run over some subscriptions.

    `subscriptions` names all of each customer's. Every period that ended by `as_of` is
    billed. A `preview` writes nothing to the
    warehouse. The invoices are written as lines of JSON to files that begin with
    `results`.
    """

    catalog: Catalog
    subscriptions: Sequence[str]
    tenant: str
    warehouse: str
    as_of: datetime
    status: Literal["draft", "preview"]
    results: str

    def build(self, pipeline: beam.Pipeline) -> None:
        """Compose the pipeline."""
        rate = RateSubscriptions(
            self.catalog,
            tenant=self.tenant,
            warehouse=self.warehouse,
            as_of=self.as_of,
            status=self.status,
        )
        batches = list(_batches(self.catalog, self.subscriptions))
        invoices = (
            pipeline
            | "Subscriptions" >> beam.Create(batches)
            | "Spread" >> beam.Reshuffle()
            | "Rate" >> beam.ParDo(rate).with_output_types(Invoice)
        )
        if self.status == "draft":
            _ = (
                invoices
                | "Batch" >> beam.BatchElements(min_batch_size=1, max_batch_size=BATCH)
                | "Write" >> beam.ParDo(WriteDrafts(warehouse=self.warehouse))
            )
        _ = (
            invoices
            | "ToJson" >> beam.Map(to_json).with_output_types(str)
            | "Results" >> beam.io.WriteToText(self.results)
        )


def _batches(catalog: Catalog, subscriptions: Sequence[str]) -> Iterator[list[str]]:
    """Subscriptions in batches that never part those of one customer."""
    customers: dict[str, list[str]] = {}
    for name in subscriptions:
        customers.setdefault(catalog.subscriptions_by_id[name].customer, []).append(name)
    batch: list[str] = []
    for names in customers.values():
        if batch and len(batch) + len(names) > BATCH:
            yield batch
            batch = []
        batch += names
    if batch:
        yield batch
