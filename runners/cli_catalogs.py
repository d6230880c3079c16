"""Commands about catalogs in time: announce one, list them."""

from __future__ import annotations

from typing import Any

import click

from runners.cli_options import Instant, catalog_path, common, warehouse_url


@click.group()
def catalog() -> None:
    """Catalogs in time: announce a new one to running streams, list them."""


@catalog.command()
@common
@click.option(
    "--from",
    "from_time",
    type=Instant(),
    required=True,
    help="A whole hour, ahead of the events: hours that start then or later are metered by it.",
)
@click.option(
    "--replaces",
    metavar="PATH",
    help="The catalog that holds until then, for a tenant that had no stream yet.",
)
def announce(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Announce a catalog to the streams that run: they take it without a restart."""
    from runners.catalogs import run_announce

    run_announce(catalog_path(catalog), warehouse_url(clickhouse), **options)


@catalog.command("list")
@common
def list_catalogs(catalog: str | None, clickhouse: str | None, **options: Any) -> None:  # noqa: ARG001
    """Show which catalog holds from when on."""
    from runners.catalogs import run_list

    run_list(warehouse_url(clickhouse), **options)
