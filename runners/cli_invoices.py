"""Commands around stored invoices: invoice show, list, void, rebuild, verify; reconcile."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from runners.cli_options import (
    Instant,
    actor_option,
    catalog_path,
    common,
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


@invoice.command()
@common
@journal_option
@click.argument("invoice_id", metavar="ID")
def show(clickhouse: str | None, journal: str | None, invoice_id: str, **options: Any) -> None:
    """Show one invoice, by its id or number."""
    from runners.invoices import run_show

    run_show(*_places(clickhouse, journal), invoice_id, options["tenant"], options["form"])


@invoice.command("list")
@common
@journal_option
@click.option("--customer", help="Only this customer.")
@click.option("--status", type=click.Choice(["draft", "held", "finalized", "void"]))
def list_(clickhouse: str | None, journal: str | None, **options: Any) -> None:
    """List stored invoices."""
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
    """Compare usage with the raw events, and show what keeps a span from being final."""
    from runners.invoices import run_reconcile

    run_reconcile(
        catalog_path(catalog),
        warehouse_url(clickhouse),
        from_time=from_time,
        to_time=to_time,
        **options,
    )
