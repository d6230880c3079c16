"""The command `bill`: drafts, previews, and what becomes final.

rate --> drafts, previews
rate --> gate --> journal --> projections      (`runners.finalize`)
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from meters.scalars import parse_json
from meters.timestamps import format_instant
from runners import tables
from runners.commands import Url, check_names, open_warehouse, remember
from runners.journals import JournalUrl, existing_journal, up_to_date
from runners.output import Format, notice
from transforms.invoices import place
from warehouse.client import Warehouse
from warehouse.invoice_columns import TABLES
from warehouse.invoices import count_drafts, drafts_before, withdraw

Document = dict[str, Any]

_WITHDRAWN_AT_ONCE = 1000


def run_bill(
    path: str,
    url: Url,
    journal: JournalUrl | None,
    *,
    as_of: datetime,
    customer: str | None,
    preview: bool,
    finalize: bool,
    accept_open: str | None,
    issue_date: date | None,
    actor: str,
    tenant: str,
    runner: str,
    form: Format,
) -> None:
    """Bill every period that ended by `as_of`."""
    from runners.finalize import Finalizing, each_final

    if preview and finalize:
        raise ConfigurationError("--preview and --finalize must not be given together")
    for name, given in (("--accept-open", accept_open), ("--issue-date", issue_date)):
        if given is not None and not finalize:
            raise ConfigurationError(f"{name} must be given with --finalize alone")
    catalog = load_catalog(path)
    check_names(catalog, customer=customer)
    invoices: Iterator[Document]
    if finalize:
        if as_of > datetime.now(UTC):
            notice(
                f"--as-of is in the future ({format_instant(as_of)}): what comes until then for "
                "a period that is made final now will be on no invoice"
            )
        finalizing = Finalizing(actor, accept_open, issue_date)
        invoices = each_final(
            catalog,
            url,
            journal,
            finalizing,
            as_of=as_of,
            customer=customer,
            tenant=tenant,
            runner=runner,
        )
    else:
        invoices = each_bill(
            catalog,
            url,
            journal,
            as_of=as_of,
            customer=customer,
            preview=preview,
            tenant=tenant,
            runner=runner,
        )
    tables.show_invoices(invoices, form)


def each_bill(
    catalog: Catalog,
    url: Url,
    journal: JournalUrl | None = None,
    *,
    as_of: datetime,
    tenant: str,
    customer: str | None = None,
    preview: bool = False,
    runner: str = "direct",
) -> Iterator[Document]:
    """Drafts or previews of every period that ended, beside what is final, in a stable order.

    All is written before the first one comes, and few are in memory. After the last one drafts
    that no longer result are withdrawn.
    """
    began = datetime.now(UTC)
    with open_warehouse(url) as warehouse:
        with existing_journal(journal, warehouse, tenant) as opened:
            if not preview:
                remember(warehouse, tenant, catalog)
                if opened is not None:
                    up_to_date(opened, warehouse, tenant)
        found = rate(
            catalog,
            url,
            None if opened is None else journal,
            customers=None if customer is None else [customer],
            as_of=as_of,
            tenant=tenant,
            preview=preview,
            runner=runner,
        )
        with warehouse.loading(*(() if preview else TABLES)):
            first = list(islice(found, 1))
        invoices: Iterator[Document] = chain(first, found)
        if not preview:
            invoices = withdrawing(
                invoices, warehouse, tenant, catalog, as_of=as_of, customer=customer, began=began
            )
        yield from invoices


def withdrawing(
    invoices: Iterable[Document],
    warehouse: Warehouse,
    tenant: str,
    catalog: Catalog,
    *,
    as_of: datetime,
    customer: str | None,
    began: datetime,
) -> Iterator[Document]:
    """All that is billed until `as_of`, passed on; then drafts that are not among it are withdrawn.

    Of the customers of the catalog alone, or of the one that was billed. What somebody else has
    written since this run `began` stays.
    """
    ids = array("q")
    drafts = 0
    for invoice in invoices:
        ids.append(hash(invoice["invoice_id"]))
        drafts += invoice["status"] in ("draft", "held")
        yield invoice
    if count_drafts(warehouse, tenant, as_of, customer) == drafts:
        return
    stored = drafts_before(warehouse, tenant, as_of, customer, began)
    resulting = set(ids)
    lost = [
        invoice_id
        for invoice_id, owner in stored.items()
        if hash(invoice_id) not in resulting and owner in catalog.customers_by_id
    ]
    for start in range(0, len(lost), _WITHDRAWN_AT_ONCE):
        withdraw(warehouse, tenant, lost[start : start + _WITHDRAWN_AT_ONCE])


def rate(
    catalog: Catalog,
    url: Url,
    journal: JournalUrl | None,
    *,
    customers: Sequence[str] | None,
    as_of: datetime,
    tenant: str,
    runner: str,
    preview: bool = False,
    proposals: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run the billing pipeline; yields documents, or customers with their `proposals`.

    Customers come in their order, the documents of each as `in_order` says.
    """
    from pipelines.billing import Billing
    from runners import launch

    chosen = None if customers is None else set(customers)
    subscriptions = sorted(
        entry.id
        for entry in catalog.subscriptions
        if (chosen is None or entry.customer in chosen) and entry.start <= as_of
    )
    options = launch.options(runner)
    with tempfile.TemporaryDirectory() as folder:
        job = Billing(
            catalog=catalog,
            subscriptions=subscriptions,
            tenant=tenant,
            warehouse=url[0],
            as_of=as_of,
            status="preview" if preview else "draft",
            results=str(Path(folder) / "invoices"),
            journal=None if journal is None else journal[0],
            proposals=proposals,
        )
        with launch.reported(("invoices",)):
            launch.run(job.build, options)
        for file in sorted(Path(folder).glob("invoices-*")):
            with file.open("rb") as lines:
                found: list[Any] = [parse_json(line) for line in lines]
            yield from found if proposals else in_order(found)
            file.unlink()


def in_order(invoices: list[Document]) -> list[Document]:
    """Invoices as `transforms.invoices.place` has them."""
    return sorted(invoices, key=place)
