"""The commands around stored invoices: `invoice show|list|void|rebuild|verify`, `reconcile`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from billing.documents import render_csv
from billing.unbilled import Reason
from journal.journal import Journal
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError, JournalError
from meters.numbers import plain
from meters.periods import Span
from meters.timestamps import format_instant
from meters.zones import from_microseconds
from runners import tables
from runners.bills import Document
from runners.catalogs import timeline_for
from runners.commands import Url, check_names, check_span, open_warehouse
from runners.gate import Findings, examine
from runners.journals import JournalUrl, existing_journal, open_journal
from runners.output import Format, json_of, notice, print_csv, print_json, print_table
from transforms.projection import project, rebuild
from transforms.unbilled import NeverBilled, never_billed
from warehouse.client import Warehouse
from warehouse.invoices import list_invoices, read_invoices
from warehouse.leases import exclusive
from warehouse.ownership import read_owners
from warehouse.shared_ids import shared_ids

LISTED = (
    "invoice_id",
    "number",
    "status",
    "hold_reason",
    "customer",
    "subscription",
    "currency",
    "period_start",
    "period_end",
    "issue_date",
    "due_date",
    "total",
    "due",
)
FINDING = (
    "finding",
    "customer",
    "subscription",
    "meter",
    "start",
    "end",
    "group",
    "stored",
    "raw",
    "events",
    "reason",
    "detail",
)
_NEVER_BILLED: dict[Reason, str] = {
    "unknown_customer": "the catalog does not have the customer",
    "no_subscription": "no subscription of the customer charges the meter then",
    "unknown_subscription": "it belongs to no subscription that the customer has in the catalog",
    "before_start": "its subscription has not started yet",
    "after_end": "its subscription has ended",
    "not_charged": "its subscription does not pay for the meter then",
}
_NAMES_SHOWN = 3


def stored_document(
    warehouse: Warehouse, journal: Journal | None, tenant: str, invoice: str
) -> Document:
    """One invoice, by its id or number. Raises ConfigurationError where there is not one."""
    found: list[Document] = [] if journal is None else journal.documents(tenant, invoice=invoice)
    if not found:
        found = list(read_invoices(warehouse, tenant, [invoice]).values())
    if not found:
        raise ConfigurationError(f"invoice must be a stored one, by id or number (got {invoice!r})")
    if len(found) > 1:
        ids = ", ".join(str(each["invoice_id"]) for each in found)
        raise ConfigurationError(
            f"number {invoice!r} must be of one issuer, name the invoice by its id ({ids})"
        )
    return found[0]


def run_show(
    url: Url,
    journal: JournalUrl | None,
    invoice: str,
    *,
    catalog: str | None = None,
    output: Path | None = None,
    language: str | None = None,
    tenant: str,
    form: str,
) -> None:
    """One invoice, by its id or number, printed or written to a file."""
    from runners.explained import check_language, page, to_pdf

    check_language(language)
    if form == "pdf" and output is None:
        raise ConfigurationError("--output must be given with --format pdf")
    if form == "table" and output is not None:
        raise ConfigurationError("--output must be left out with --format table")
    with stored(url, journal, tenant) as (warehouse, opened):
        found = stored_document(warehouse, opened, tenant, invoice)
        html = ""
        if form in ("html", "pdf"):
            html = page(catalog, warehouse, opened, tenant, found, language)
    if form == "table":
        tables.show_invoices([found], "table")
    elif form == "pdf" and output is not None:
        output.write_bytes(to_pdf(html))
    else:
        texts = {
            "html": lambda: html,
            "csv": lambda: render_csv(found),
            "json": lambda: json_of(found),
        }
        text = texts[form]()
        if output is None:
            click.echo(text, nl=False)
        else:
            output.write_text(text, "utf-8")


def run_list(
    url: Url,
    journal: JournalUrl | None,
    *,
    customer: str | None,
    status: str | None,
    tenant: str,
    form: Format,
) -> None:
    """Stored invoices, one row each: those of the journal as it has them, and drafts."""
    with stored(url, journal, tenant) as (warehouse, opened):
        kept = [] if opened is None else opened.documents(tenant, customer=customer)
        drafts = list_invoices(warehouse, tenant, customer=customer, status=status)
    ids = {each["invoice_id"] for each in kept}
    invoices: list[Document] = [*kept, *(each for each in drafts if each["invoice_id"] not in ids)]
    rows = [
        {name: each.get(name) for name in LISTED}
        for each in sorted(
            invoices, key=lambda i: (i["customer"], i["period_end"], i["invoice_id"])
        )
        if status in (None, each["status"])
    ]
    _show(rows, LISTED, form, "no invoices", right=("total", "due"))


def run_void(
    url: Url,
    journal: JournalUrl | None,
    invoice: str,
    *,
    reason: str,
    actor: str,
    tenant: str,
    form: Format,
) -> None:
    """Make a finalized invoice void; a second time it changes nothing."""
    if not reason.strip():
        raise ConfigurationError("--reason must say why the invoice is void (got none)")
    with open_warehouse(url) as warehouse, open_journal(journal) as opened:
        project(opened, warehouse, tenant)
        found = opened.documents(tenant, invoice=invoice)
        if len(found) != 1:
            raise ConfigurationError(
                f"invoice must be a finalized one, by id or number (got {invoice!r}, "
                f"which is {len(found) or 'none'} of them)"
            )
        document = opened.void(
            tenant, str(found[0]["invoice_id"]), actor=actor, reason=reason.strip()
        )
        project(opened, warehouse, tenant)
    if form == "json":
        print_json(document)
    else:
        tables.show_invoices([document], form)


def run_rebuild(url: Url, journal: JournalUrl | None, tenant: str, form: Format) -> None:
    """Write invoices, lines, ledger and audit log of the warehouse anew."""
    with open_warehouse(url) as warehouse, open_journal(journal) as opened:
        project(opened, warehouse, tenant)
        tables.show_facts({"audit_entries": rebuild(opened, warehouse, tenant)}, form)


def run_verify(journal: JournalUrl | None, tenant: str, form: Format) -> None:
    """Check the journal; raises JournalError with everything that is wrong."""
    with open_journal(journal) as opened:
        problems = opened.problems(tenant)
        entries = opened.head(tenant)
    if problems:
        raise JournalError("the journal is not what was committed:\n" + "\n".join(problems))
    tables.show_facts({"audit_entries": entries, "problems": 0}, form)


def run_reconcile(
    path: str,
    url: Url,
    *,
    customer: str | None,
    from_time: datetime,
    to_time: datetime,
    tenant: str,
    runner: str,
    form: Format,
) -> None:
    """What the gate sees in a span, and what of its usage nobody will ever be billed for."""
    catalog = load_catalog(path)
    check_names(catalog, customer=customer)
    check_span(from_time, to_time)
    names = [customer] if customer is not None else [entry.id for entry in catalog.customers]
    with open_warehouse(url) as warehouse, exclusive(warehouse, tenant):
        timeline = timeline_for(warehouse, tenant, catalog)
        spans = [(name, from_time, to_time) for name in names]
        owners = read_owners(warehouse, tenant)
        findings = examine(
            timeline, warehouse, url[0], tenant, spans, runner, owners=owners, whole=False
        )
        shared = shared_ids(warehouse, tenant, from_time, to_time, customer)
        within = Span(from_time, to_time)
        unbilled = list(never_billed(catalog, timeline, warehouse, tenant, within, customer))
    rows = [
        *_findings(findings, from_time, to_time),
        *map(_shared, shared),
        *map(_unbilled, unbilled),
    ]
    if not rows:
        notice("no usage is open, dirty, other than the raw events say, or outside of all invoices")
    _show(rows, FINDING, form, "nothing found", right=("stored", "raw", "events"))


def _findings(findings: Findings, start: datetime, end: datetime) -> Iterator[dict[str, Any]]:
    for customer, closed in sorted(findings.closed_until.items()):
        at = from_microseconds(closed)
        if at < end:
            yield {
                "finding": "usage_open",
                "customer": customer,
                "start": format_instant(max(at, start)),
                "end": format_instant(end),
                "detail": "the stream owns what ends later",
            }
    for mark in findings.dirty.iter_rows(named=True) if findings.dirty.height else ():
        if mark["hour"] < end and start < mark["hour_end"]:
            yield {
                "finding": "dirty",
                "customer": mark["external_customer_id"],
                "start": format_instant(mark["hour"]),
                "end": format_instant(mark["hour_end"]),
                "detail": f"{mark['reason']}, event {mark['identity_hash'].hex()}",
            }
    for each in findings.differences:
        counts = f"{each['stored_events']} events stored, {each['raw_events']} in the raw events"
        yield {"finding": "usage_differs", **each, "detail": counts}


def _shared(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "finding": "shared_id",
        "customer": row["customer"],
        "start": row["first"],
        "end": row["last"],
        "detail": f"event_id {row['event_id']!r} is also an event of {', '.join(row['others'])}",
    }


def _unbilled(found: NeverBilled) -> dict[str, Any]:
    detail = _NEVER_BILLED[found.reason]
    if found.named:
        shown = ", ".join(map(repr, found.named[:_NAMES_SHOWN]))
        more = len(found.named) - _NAMES_SHOWN
        detail += f"; events name {shown}" + (f" and {more} more" if more > 0 else "")
    return {
        "finding": "never_billed",
        "customer": found.customer,
        "subscription": found.subscription,
        "meter": found.meter,
        "start": format_instant(found.start),
        "end": format_instant(found.end),
        "stored": None if found.value is None else plain(found.value),
        "events": found.events,
        "reason": found.reason,
        "detail": detail,
    }


@contextmanager
def stored(
    url: Url, journal: JournalUrl | None, tenant: str
) -> Iterator[tuple[Warehouse, Journal | None]]:
    """Warehouse and journal, to read from."""
    with (
        open_warehouse(url) as warehouse,
        existing_journal(journal, warehouse, tenant) as opened,
    ):
        yield warehouse, opened


def _show(
    rows: list[dict[str, Any]],
    columns: tuple[str, ...],
    form: Format,
    nothing: str,
    right: tuple[str, ...] = (),
) -> None:
    rows = [{name: row.get(name) for name in columns} for row in rows]
    if form == "json":
        print_json(rows)
    elif form == "csv":
        print_csv(rows, list(columns))
    elif not rows:
        notice(nothing)
    else:
        shown = [name for name in columns if any(row[name] not in (None, {}) for row in rows)]
        print_table(rows, {name: name.replace("_", " ") for name in shown}, right=right)
