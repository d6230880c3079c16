"""Commands around stored invoices: explain, reconcile, invoice show and what goes with it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click

from runners.cli_options import (
    Instant,
    actor_option,
    catalog_path,
    common,
    common_with,
    journal_option,
    warehouse_url,
)


@click.group()
def invoice() -> None:
    """Show, list and void invoices; look after the journal."""


def _places(clickhouse: str | None, journal: str | None) -> tuple[Any, Any]:
    """Warehouse and journal."""
    from runners.journals import journal_url

    url = warehouse_url(clickhouse)
    return url, journal_url(journal, url[0])


_language = click.option("--language", help="Such as en, de or de-CH. Default: the customer's.")


@invoice.command()
@common_with("html", "pdf")
@journal_option
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; needed for pdf.",
)
@_language
@click.argument("invoice_id", metavar="ID")
def show(clickhouse: str | None, journal: str | None, invoice_id: str, **options: Any) -> None:
    """Show one invoice, by its id or number: as a table, JSON, CSV, a page or a PDF.

    A page has charts of usage and says how the amounts came about.
    """
    from runners.invoices import run_show

    run_show(*_places(clickhouse, journal), invoice_id, **options)


@click.command()
@common
@journal_option
@click.option("--invoice", "invoice_id", required=True, metavar="ID", help="Its id or number.")
@click.option("--line", "lines", multiple=True, metavar="ID", help="Only this line. Repeatable.")
@click.option(
    "--events",
    "events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the events behind the lines to a .jsonl, .csv or .parquet file.",
)
@_language
def explain(
    catalog: str | None, clickhouse: str | None, journal: str | None, **options: Any
) -> None:
    """Show how each amount of an invoice came about.

    From events to buckets, quantity, price, rounding, discount, credit and tax. The
    catalog is the one that the invoice was made with, unless --catalog is given.
    """
    from runners.explained import run_explain

    run_explain(catalog, *_places(clickhouse, journal), **options)


@invoice.command("list")
@common
@journal_option
@click.option("--customer", help="Only this customer.")
@click.option("--status", type=click.Choice(["draft", "held", "finalized", "void", "withdrawn"]))
def list_(clickhouse: str | None, journal: str | None, **options: Any) -> None:
    """List stored invoices; drafts that no longer result only with --status withdrawn."""
    from runners.invoices import run_list

    del options["catalog"]
    run_list(*_places(clickhouse, journal), **options)


@invoice.command()
@common
@journal_option
@actor_option
@click.option("--reason", required=True, help="Why it is void, for the audit log.")
@click.argument("invoice_id", metavar="ID")
def void(
    clickhouse: str | None,
    journal: str | None,
    actor: str | None,
    invoice_id: str,
    **options: Any,
) -> None:
    """Make a finalized invoice void. It keeps its number; its period can be billed again."""
    from runners.invoices import run_void
    from runners.journals import actor_name

    del options["catalog"]
    run_void(*_places(clickhouse, journal), invoice_id, actor=actor_name(actor), **options)


@invoice.command()
@common
@journal_option
def rebuild(clickhouse: str | None, journal: str | None, **options: Any) -> None:
    """Write the warehouse's invoices, ledger and audit log anew from the journal."""
    from runners.invoices import run_rebuild

    run_rebuild(*_places(clickhouse, journal), options["tenant"], options["form"])


@invoice.command()
@common
@journal_option
def verify(clickhouse: str | None, journal: str | None, **options: Any) -> None:
    """Check the journal's chain, numbers, ledger and documents; exit code 1 where one is wrong."""
    from runners.invoices import run_verify

    run_verify(_places(clickhouse, journal)[1], options["tenant"], options["form"])


@click.command()
@common
@click.option("--customer", help="Only this customer.")
@click.option("--from", "from_time", type=Instant(), required=True, help="From this time on.")
@click.option("--to", "to_time", type=Instant(), required=True, help="Before this time.")
@click.option("--runner", default="direct", show_default=True, help="Where the pipeline runs.")
def reconcile(
    catalog: str | None,
    clickhouse: str | None,
    from_time: datetime,
    to_time: datetime,
    **options: Any,
) -> None:
    """Compare usage with the raw events, and show what keeps a span from being final.

    Also what is used and never billed: outside the dates of its subscription, for one.
    """
    from runners.invoices import run_reconcile

    run_reconcile(
        catalog_path(catalog),
        warehouse_url(clickhouse),
        from_time=from_time,
        to_time=to_time,
        **options,
    )
