"""Commands from usage to invoices: bill, quote."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import click

from meters.errors import ConfigurationError, Rejected
from meters.numbers import parse_number
from runners.cli_options import (
    Day,
    Instant,
    ManyValues,
    actor_option,
    catalog_path,
    common,
    journal_option,
    warehouse_url,
)


@click.command()
@common
@click.option(
    "--as-of", "as_of", type=Instant(), required=True, help="Bill every period that ended by then."
)
@click.option("--customer", help="Only this customer.")
@click.option("--preview", is_flag=True, help="Show what would be billed and write nothing.")
@click.option("--finalize", is_flag=True, help="Make final what is settled; hold the rest.")
@click.option(
    "--accept-open", metavar="REASON", help="Make final also what is open, dirty or different."
)
@click.option(
    "--issue-date", type=Day(), help="Date of issue.  [default: today, in the issuer's time zone]"
)
@actor_option
@journal_option
@click.option("--runner", default="direct", show_default=True, help="Where the pipeline runs.")
def bill(
    catalog: str | None,
    clickhouse: str | None,
    journal: str | None,
    actor: str | None,
    **options: Any,
) -> None:
    """Write draft invoices for the periods that have ended, or make them final."""
    from runners.bills import run_bill
    from runners.journals import actor_name, journal_url

    url = warehouse_url(clickhouse)
    found = journal_url(journal, url[0])
    run_bill(catalog_path(catalog), url, found, actor=actor_name(actor), **options)


@click.command(cls=ManyValues)
@common
@click.option("--plan", required=True, help="The plan to price.")
@click.option(
    "--usage", "usages", multiple=True, metavar="METER=QUANTITY...", help="How much of a meter."
)
def quote(catalog: str | None, plan: str, usages: Sequence[str], **options: Any) -> None:
    """Show what a plan would charge for given quantities, without a warehouse."""
    from runners.commands import run_quote

    run_quote(catalog_path(catalog), plan, _quantities(usages), form=options["form"])


def _quantities(pairs: Sequence[str]) -> dict[str, Decimal]:
    quantities: dict[str, Decimal] = {}
    for pair in pairs:
        meter, equals, number = pair.partition("=")
        if not equals or not meter:
            raise ConfigurationError(f"--usage must be METER=QUANTITY (got {pair!r})")
        if meter in quantities:
            raise ConfigurationError(f"--usage must name a meter once (got {meter!r} twice)")
        try:
            quantities[meter] = parse_number(number, f"--usage {meter}")
        except Rejected as error:
            raise ConfigurationError(error.detail) from None
    return quantities
