"""Commands about what was refused: show it, and try it again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from runners.cli_options import Instant, catalog_path, common, warehouse_url

F = TypeVar("F", bound=Callable[..., Any])


def _ids(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    from warehouse.quarantine import ID_FORM

    for name in given:
        if not ID_FORM.fullmatch(name):
            raise click.BadParameter(
                f"must be an id that `beammeter quarantine` shows (got {name!r})"
            )
    return given


def selecting(function: F) -> F:
    """The options that choose among what was refused."""
    for option in (
        click.option("--to", "to_time", type=Instant(), help="Refused before this time."),
        click.option("--from", "from_time", type=Instant(), help="Refused from this time on."),
        click.option("--customer", help="Only of this customer."),
        click.option("--origin", help="Only of this file or partition, or of a folder or topic."),
        click.option("--meter", help="Only what this meter refused; '' is what was no event."),
        click.option("--reason", help="Only for this reason."),
        click.option(
            "--id", "ids", multiple=True, callback=_ids, help="Only this row; repeatable."
        ),
    ):
        function = option(function)
    return function


@click.command()
@common
@selecting
@click.option("--counts", is_flag=True, help="How many rows for each reason and meter.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="At most so many rows, those refused last first.",
)
def quarantine(
    catalog: str | None,  # noqa: ARG001 (common option: what was refused needs no catalog)
    clickhouse: str | None,
    counts: bool,
    limit: int,
    tenant: str,
    form: Any,
    **chosen: Any,
) -> None:
    """Show what was refused, why, and where it came from."""
    from runners.quarantine import run_quarantine

    run_quarantine(
        warehouse_url(clickhouse),
        _selection(**chosen),
        counts=counts,
        limit=limit,
        tenant=tenant,
        form=form,
    )


@click.command()
@common
@selecting
@click.option(
    "--fix",
    metavar="FILE",
    help="Corrected payloads: rows as `beammeter quarantine --format json` prints them.",
)
@click.option("--runner", default="direct", show_default=True, help="Where the repair runs.")
def replay(
    catalog: str | None,
    clickhouse: str | None,
    fix: str | None,
    runner: str,
    tenant: str,
    form: Any,
    **chosen: Any,
) -> None:
    """Try again what was refused, after a correction of catalog, program or payloads.

    What is accepted now is counted, once, and leaves the quarantine; the rest stays.
    """
    from runners.quarantine import run_replay

    run_replay(
        catalog_path(catalog),
        warehouse_url(clickhouse),
        _selection(**chosen),
        fix=fix,
        runner=runner,
        tenant=tenant,
        form=form,
    )


def _selection(
    *,
    reason: str | None,
    meter: str | None,
    origin: str | None,
    customer: str | None,
    from_time: datetime | None,
    to_time: datetime | None,
    ids: tuple[str, ...],
) -> Any:
    from warehouse.quarantine import Selection

    return Selection(reason, meter, origin, customer, from_time, to_time, ids)
