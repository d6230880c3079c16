"""`beammeter demo`: a month of events, from files through usage to invoices.

    write catalog and events -> backfill -> usage -> bill, finalize, document -> what to try next

Everything is in one folder, and runs in this process on the embedded warehouse. The
events are the same each time, so a second run in the same folder prints the same and
changes nothing.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from journal.address import BESIDE
from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from meters.mapping import Mapping as ColumnMapping
from meters.reading import UsageCell, read_usage
from meters.usage import from_stored
from runners import tables
from runners.backfill import backfill_counts
from runners.bills import Document, each_bill
from runners.cli_options import EMBEDDED
from runners.commands import Url, open_warehouse
from runners.demo_events import demo_files
from runners.explained import page, to_pdf
from runners.finalize import Finalizing, each_final
from runners.journals import JournalUrl, journal_url, open_journal
from runners.output import Format, notice, print_json, print_table
from warehouse import queries

TENANT = "default"
CATALOG = "catalog.yaml"
EVENTS = "events"
INVOICES = "invoices"
AS_OF = datetime(2026, 11, 1, 4, tzinfo=UTC)
"""When October 2026 has ended for every customer: midnight in New York."""

FINAL = "northwind"
"""The customer whose invoice the demo finalizes."""
ACTOR = "demo"

COUNTS = {
    "read": "rows in the three files",
    "accepted": "events that count, each once",
    "duplicate": "came again: counted once",
    "conflict": "of these with other content: the first arrival counts",
    "quarantined": "refused as a whole",
    "meter_errors": "accepted, but refused by one meter",
    "unattributed": "of a customer who is not in the catalog: kept",
    "rows": "usage rows: customer, meter, hour and group",
}
TRY = (
    (
        "Usage by local day, and by another key than time",
        "beammeter usage --catalog catalog.yaml --granularity day --customer sakura",
        "beammeter usage --catalog catalog.yaml --meter api_calls --group-by region",
    ),
    (
        "The same files again: the same counts, and not one row changes",
        "beammeter backfill --catalog catalog.yaml --input 'events/*'",
    ),
    (
        "What a plan would charge, without any events",
        "beammeter quote --catalog catalog.yaml --plan scale --usage api_calls=60000",
    ),
    (
        "The bill of the next month as it stands, without writing it",
        "beammeter bill --catalog catalog.yaml --as-of 2026-12-01T05:00:00Z --preview"
        " --customer acme",
    ),
    (
        "How each amount of the final invoice came about",
        "beammeter explain --invoice US-2026-0001",
    ),
    (
        "All invoices; and whether what is final is what was committed",
        "beammeter invoice list",
        "beammeter invoice verify",
    ),
    (
        "Change a price in catalog.yaml, check it, and bill again",
        "beammeter validate --catalog catalog.yaml",
        "beammeter bill --catalog catalog.yaml --as-of 2026-11-01T04:00:00Z",
    ),
    (
        "Events over HTTP and a dashboard; the key to sign in is in beammeter-keys.json.first",
        "beammeter serve --catalog catalog.yaml",
    ),
)


def run_demo(folder: Path, form: Format) -> None:
    """Run the demo in `folder`, which is made where it is missing.

    Raises ConfigurationError for the format `csv`, and for a folder that is in use for
    something else.
    """
    if form == "csv":
        raise ConfigurationError("--format must be table or json for the demo (got 'csv')")
    _write_files(folder)
    url: Url = (f"chdb://{folder.resolve() / EMBEDDED}", False)
    catalog = load_catalog(str(folder / CATALOG))
    counts = backfill_counts(
        catalog, url, inputs=[str(folder / EVENTS)], mapping=ColumnMapping(), tenant=TENANT
    )
    usage = _usage(catalog, url)
    notice(f"billing as of {AS_OF:%Y-%m-%d %H:%M} UTC")
    journal = journal_url(None, url[0])
    finalizing = Finalizing(ACTOR, issue_date=AS_OF.date())
    list(each_final(catalog, url, journal, finalizing, as_of=AS_OF, tenant=TENANT, customer=FINAL))
    invoices = list(each_bill(catalog, url, journal, as_of=AS_OF, tenant=TENANT))
    invoices.sort(key=lambda each: each["status"] == "finalized")
    written = _write_documents(folder, url, journal, invoices[-1])
    if form == "json":
        rows = [cell.to_dict() for cell in usage]
        print_json({"counts": counts, "usage": rows, "invoices": invoices})
        return
    _show_counts(counts, _refused(url))
    _show_usage(catalog, usage)
    _heading("Invoices: every period that had ended by 1 November 2026, the last one finalized")
    tables.show_invoices(invoices, form)
    _show_next(folder, written)


def _write_files(folder: Path) -> None:
    """Write catalog and events, where they are not there yet as they must be."""
    if folder.exists() and any(folder.iterdir()) and not (folder / CATALOG).exists():
        raise ConfigurationError(f"--folder must be empty or hold an earlier demo (got {folder})")
    catalog = resources.files("examples").joinpath("demo", CATALOG).read_bytes()
    files = {CATALOG: catalog, **{f"{EVENTS}/{k}": v for k, v in demo_files().items()}}
    (folder / EVENTS).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        if path.exists() and path.read_bytes() == content:
            continue
        if path.exists():
            notice(f"{path} was changed: the demo writes it anew")
        path.write_bytes(content)


def _write_documents(
    folder: Path, url: Url, journal: JournalUrl | None, invoice: Document
) -> list[str]:
    """Write an invoice as a page and, where PDF can be made here, as PDF; returns their names."""
    with open_warehouse(url) as warehouse, open_journal(journal) as opened:
        html = page(str(folder / CATALOG), warehouse, opened, TENANT, invoice, None)
    written = {f"{INVOICES}/{invoice['number']}.html": html.encode()}
    try:
        written[f"{INVOICES}/{invoice['number']}.pdf"] = to_pdf(html)
    except ConfigurationError as error:
        notice(f"the invoice is written as a page alone: {error}")
    (folder / INVOICES).mkdir(exist_ok=True)
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return list(written)


def _usage(catalog: Catalog, url: Url) -> list[UsageCell]:
    """The usage of each billing period, all groups merged."""
    with open_warehouse(url) as warehouse:
        rows = from_stored(queries.usage_rows(warehouse, TENANT))
        values = from_stored(queries.values_of(warehouse, TENANT))
    return read_usage(catalog, rows, values, "period", [])


def _refused(url: Url) -> list[dict[str, Any]]:
    with open_warehouse(url) as warehouse:
        rows: list[dict[str, Any]] = queries.quarantine_rows(warehouse, TENANT).to_pylist()
    return sorted(rows, key=lambda row: (row["origin"], row["origin_row"]))


def _show_counts(counts: Mapping[str, int], refused: Iterable[Mapping[str, Any]]) -> None:
    _heading("Backfill: October 2026 of four customers, from JSON Lines, Parquet and CSV")
    shown = [
        {"name": name.replace("_", " "), "number": f"{counts[name]:,}", "meaning": meaning}
        for name, meaning in COUNTS.items()
    ]
    print_table(shown, {"name": "", "number": "count", "meaning": ""}, right=["number"])
    _heading("Quarantine: what was refused, with its file and row")
    entries = [
        {
            "place": f"{Path(row['origin']).name}:{row['origin_row']}",
            "reason": row["reason"],
            "meter": row["meter"],
            "description": row["detail"],
        }
        for row in refused
    ]
    print_table(
        entries, {"place": "where", "reason": "reason", "meter": "meter", "description": "why"}
    )


def _show_usage(catalog: Catalog, usage: Iterable[UsageCell]) -> None:
    _heading("Usage: by customer and meter, in each customer's own time zone")
    rows = []
    for cell in usage:
        zone = catalog.customers_by_id[cell.customer].time_zone
        start, end = (at.astimezone(ZoneInfo(zone)) for at in (cell.start, cell.end))
        period = f"{start.day} {start:%b} until {end.day} {end:%b}"
        rows.append({**cell.to_dict(), "time zone": zone, "period": period})
    columns = ("customer", "time zone", "period", "meter", "value")
    print_table(rows, {name: name for name in columns}, right=["value"])


def _show_next(folder: Path, documents: Iterable[str]) -> None:
    _heading("What to try next")
    if shutil.which("beammeter") is None:
        click.echo(f"  export PATH={_shown(Path(sys.executable).parent)}:$PATH")
    click.echo(f"  cd {shlex.quote(str(folder))}")
    for what, *commands in TRY:
        click.echo(f"\n  # {what}")
        for command in commands:
            click.echo(f"  {command}")
    _heading("Where to look")
    places = {
        CATALOG: "meters, customers, plans and subscriptions",
        f"{EVENTS}/": "the events as they came",
        f"{EMBEDDED}/": "the embedded ClickHouse: events, usage, quarantine, invoices",
        f"{EMBEDDED}{BESIDE}": "the journal of final invoices",
        **dict.fromkeys(documents, "the final invoice, for its customer"),
    }
    width = max(len(str(folder / name)) for name in places) + 2
    for name, what in places.items():
        click.echo(f"  {folder / name!s:<{width}}{what}")


def _shown(path: Path) -> str:
    """A path below the working folder as `$PWD/...`, which still holds after a `cd`."""
    if path.is_relative_to(Path.cwd()):
        return f'"$PWD/{path.relative_to(Path.cwd())}"'
    return shlex.quote(str(path))


def _heading(text: str) -> None:
    click.secho(f"\n{text}", bold=True)
