"""Commands from usage to invoices: bill, quote."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import click

from meters.errors import ConfigurationError, Rejected
from meters.numbers import parse_number
from runners.cli_options import Instant, ManyValues, catalog_path, common, warehouse_url


@click.command()
@common
@click.option(
    "--as-of", "as_of", type=Instant(), required=True, help="Bill every period that ended by then."
)
@click.option("--customer", help="Only this customer.")
@click.option("--preview", is_flag=True, help="Show what would be billed and write nothing.")
@click.option("--runner", default="direct", show_default=True, help="Where the pipeline runs.")
def bill(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Write draft invoices for the periods that have ended."""
    from runners.commands import run_bill

    run_bill(catalog_path(catalog), warehouse_url(clickhouse), **options)


@click.command(cls=type("ManyUsages", (ManyValues,), {"MANY": ("--usage",)}))
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
