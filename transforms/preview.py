"""What `bill --preview` says of one customer, without a pipeline.

    customer -> slots -> usage of those that are not final -> bill_customer -> documents
                  `-- final in the journal --------------------------------------^

Nothing is written. The documents are those of the billing pipeline, since they are made by
the same rules from the same usage and history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from billing.customer import bill_customer
from journal.journal import Journal
from meters.catalog import Catalog
from meters.catalog_file import catalog_hash
from transforms.invoices import final_documents, history_now, past_of, place, slots_until
from transforms.quantities import Quantities
from warehouse.client import Warehouse


def preview_invoices(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    customer: str,
    as_of: datetime,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """Every period of a customer that ended by `as_of`, by billing date and subscription.

    A finalized period has its finalized document, others a preview with the id that the
    draft will have. `journal` None stands for one in which nothing is final.
    """
    history = history_now(journal, tenant, customer)
    past = past_of(history)
    quantities = Quantities.in_time(catalog, warehouse, tenant)
    own = [entry for entry in catalog.subscriptions if entry.customer == customer]
    slots = slots_until(quantities, catalog, own, {customer: past}, tenant=tenant, as_of=as_of)
    invoices = bill_customer(
        catalog,
        slots,
        tenant=tenant,
        status="preview",
        catalog_hash=catalog_hash(catalog),
        past=past,
    )
    documents: list[dict[str, Any]] = [invoice.to_dict() for invoice in invoices]
    documents += map(dict, final_documents(history, past, slots, tenant))
    return sorted(documents, key=place)
