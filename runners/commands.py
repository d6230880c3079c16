"""What the commands do: read the catalog, launch a pipeline or a query, print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

import polars as pl

from billing.builder import quote
from meters.attribution import Attribution
from meters.catalog import Catalog
from meters.catalog_file import catalog_content, catalog_hash, load_catalog
from meters.errors import ConfigurationError
from meters.reading import Granularity, read_usage
from meters.timestamps import format_instant
from meters.usage import from_stored
from runners import tables
from runners.output import Format, notice
from warehouse import queries, writes
from warehouse.client import Warehouse

Url = tuple[str, bool]
"""A warehouse URL, and whether it comes from the environment."""

_OVERLAPS_SHOWN = 10


def run_validate(path: str, form: Format) -> None:
    """Load the catalog and print what is in it."""
    catalog = load_catalog(path)
    found = {
        "catalog_hash": catalog_hash(catalog),
        "meters": len(catalog.meters),
        "customers": len(catalog.customers),
        "plans": len(catalog.plans),
        "subscriptions": len(catalog.subscriptions),
    }
    report_overlaps(catalog)
    tables.show_facts(found, form)


def report_overlaps(catalog: Catalog) -> None:
    """Say on stderr where several subscriptions of a customer charge one meter at a time."""
    overlaps = Attribution(catalog).overlaps()
    for each in overlaps[:_OVERLAPS_SHOWN]:
        until = "on" if each.end is None else f"until {format_instant(each.end)}"
        notice(
            f"customer {each.customer!r}: meter {each.meter!r} is charged by "
            f"{', '.join(each.subscriptions)} from {format_instant(each.start)} {until}; "
            f"events that name no subscription belong to {each.chosen!r}"
        )
    if (more := len(overlaps) - _OVERLAPS_SHOWN) > 0:
        notice(f"{more} more spans in which several subscriptions charge one meter")


def run_usage(
    path: str,
    url: Url,
    *,
    granularity: Granularity,
    customer: str | None,
    subscription: str | None,
    meter: str | None,
    from_time: datetime | None,
    to_time: datetime | None,
    group_by: Sequence[str],
    tenant: str,
    form: Format,
) -> None:
    """Stored usage, merged and printed."""
    from runners.catalogs import catalog_to_read

    catalog = load_catalog(path)
    check_names(catalog, customer=customer, subscription=subscription, meter=meter)
    _check_groups(catalog, meter, group_by)
    selection: dict[str, Any] = {
        "customer": customer,
        "subscription": subscription,
        "meter": meter,
        "start": from_time,
        "end": to_time,
    }
    with open_warehouse(url) as warehouse:
        catalog = catalog_to_read(warehouse, tenant, catalog)
        rows, values = usage_before(warehouse, tenant, catalog, selection)
    cells = read_usage(catalog, rows, values, granularity, group_by or None, since=from_time)
    tables.show_usage([cell.to_dict() for cell in cells], form)


def usage_before(
    warehouse: Warehouse, tenant: str, catalog: Catalog, selection: Mapping[str, Any]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Selected rows and their values; of meters that carry something, also earlier ones."""
    asked = [selection]
    if selection["start"] is not None:
        chosen = selection["meter"]
        asked += [
            {**selection, "meter": meter.id, "start": None, "end": selection["start"]}
            for meter in catalog.meters
            if meter.carries and chosen in (None, meter.id)
        ]
    rows = [from_stored(queries.usage_rows(warehouse, tenant, **each)) for each in asked]
    values = [from_stored(queries.values_of(warehouse, tenant, **each)) for each in asked]
    return pl.concat(rows), pl.concat(values)


def run_quote(path: str, plan: str, quantities: dict[str, Decimal], form: Format) -> None:
    """Price a plan for given quantities."""
    catalog = load_catalog(path)
    entry = catalog.plans_by_id.get(plan)
    if entry is None:
        known = ", ".join(sorted(catalog.plans_by_id)) or "no plan"
        raise ConfigurationError(f"--plan must be one of {known} (got {plan!r})")
    invoice = quote(entry, catalog.meters_by_id, quantities, catalog_hash=catalog_hash(catalog))
    tables.show_quote(invoice.to_dict(), plan, form)


def open_warehouse(url: Url) -> Warehouse:
    """Connect, with a secret in the URL only where the environment gave it."""
    return Warehouse.connect(url[0], from_environment=url[1])


def remember(warehouse: Warehouse, tenant: str, catalog: Catalog) -> None:
    """Keep the catalog that this run uses, once, by its hash."""
    writes.insert_catalog(warehouse, tenant, catalog_hash(catalog), catalog_content(catalog))


def check_span(from_time: datetime | None, to_time: datetime | None) -> None:
    """Raises ConfigurationError where `--to` is not after `--from`."""
    if from_time is not None and to_time is not None and to_time <= from_time:
        raise ConfigurationError(
            f"--to must be after --from {format_instant(from_time)} (got {format_instant(to_time)})"
        )


def check_names(
    catalog: Catalog,
    *,
    customer: str | None = None,
    subscription: str | None = None,
    meter: str | None = None,
) -> None:
    """Raises ConfigurationError for a name that the catalog does not have."""
    for option, name, known in (
        ("--customer", customer, catalog.customers_by_id),
        ("--subscription", subscription, catalog.subscriptions_by_id),
        ("--meter", meter, catalog.meters_by_id),
    ):
        if name is not None and name not in known:
            raise ConfigurationError(
                f"{option} must be in the catalog (got {name!r}{did_you_mean(name, known)})"
            )


def _check_groups(catalog: Catalog, meter: str | None, group_by: Sequence[str]) -> None:
    meters = catalog.meters if meter is None else [catalog.meters_by_id[meter]]
    known = {name for entry in meters for name in entry.group_by}
    for name in group_by:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(
                f"--group-by must be a group_by property of the meters: {listed} (got {name!r})"
            )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is nearly right."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
