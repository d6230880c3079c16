"""Catalogs in time: which ones a command meters by, and how a new one is announced."""

from __future__ import annotations

from datetime import datetime

from meters.buckets import HOUR_US
from meters.catalog import Catalog, Meter
from meters.catalog_file import catalog_content, catalog_from_content, catalog_hash, load_catalog
from meters.errors import ConfigurationError, OtherCatalog
from meters.timeline import Timeline
from meters.timestamps import format_instant
from meters.zones import from_microseconds, microseconds
from runners import tables
from runners.commands import Url, open_warehouse
from runners.output import Format
from transforms.catalogs import stored_timeline
from warehouse.catalogs import Version, announce, reached, read_versions
from warehouse.client import Warehouse
from warehouse.leases import exclusive
from warehouse.ownership import read_progress

_CHANGEABLE = {"description", "event_name", "property", "expression", "filters", "group_by"}
"""What a meter may change; the rest says how its hours are merged."""

_COLUMNS = ("from", "catalog_hash", "announced_at", "meters", "customers", "plans", "subscriptions")


def timeline_for(warehouse: Warehouse, tenant: str, catalog: Catalog) -> Timeline:
    """The catalogs that a command which was given `catalog` meters by.

    That one alone, until others were announced. Then it must be one of those, and they
    hold, each in its time. Raises OtherCatalog where it is none of them.
    """
    versions = read_versions(warehouse, tenant)
    if len(versions) < 2:
        return Timeline.of(catalog)
    if catalog_hash(catalog) not in {version.hash for version in versions}:
        raise OtherCatalog(
            f"--catalog must be one of the {len(versions)} catalogs of tenant {tenant!r} in time, "
            f"whose hashes `beammeter catalog list` shows (got {catalog_hash(catalog)}): "
            "announce it first with `beammeter catalog announce`"
        )
    return _timeline(versions)


def catalog_to_read(warehouse: Warehouse, tenant: str, catalog: Catalog) -> Catalog:
    """What reads usage: the given catalog, with all that only other ones in time have."""
    stored = stored_timeline(warehouse, tenant)
    if stored is None:
        return catalog
    return stored.with_last(catalog)


def begin(warehouse: Warehouse, tenant: str, catalog: Catalog) -> Timeline:
    """The timeline of a stream that starts; its catalog is the first one where none is.

    To be called under `warehouse.leases.exclusive`.
    """
    timeline = timeline_for(warehouse, tenant, catalog)
    known = read_versions(warehouse, tenant)
    if len(known) < 2 and (not known or known[0].hash != catalog_hash(catalog)):
        announce(warehouse, tenant, 0, catalog_hash(catalog), catalog_content(catalog))
    return timeline


def run_announce(
    path: str,
    url: Url,
    *,
    from_time: datetime,
    replaces: str | None,
    tenant: str,
    form: Format,
) -> None:
    """Announce a catalog: it meters every hour that starts at `from_time` or later."""
    catalog = load_catalog(path)
    before = None if replaces is None else load_catalog(replaces)
    at = microseconds(from_time)
    if at % HOUR_US:
        raise ConfigurationError(
            f"--from must be a whole hour in UTC (got {format_instant(from_time)})"
        )
    with open_warehouse(url) as warehouse, exclusive(warehouse, tenant):
        known = read_versions(warehouse, tenant)
        if not known and before is None:
            raise ConfigurationError(
                f"--replaces must name the catalog that holds until then: tenant {tenant!r} has "
                "had no stream that would have told"
            )
        if known and before is not None and catalog_hash(before) not in {v.hash for v in known}:
            raise ConfigurationError(
                "--replaces must be a catalog of `beammeter catalog list`, or be left out "
                f"(got {catalog_hash(before)})"
            )
        _check_ahead(warehouse, tenant, at)
        others = [catalog_from_content(version.content) for version in known if version.at != at]
        for other in (*others, *([before] if before is not None else [])):
            _check_compatible(other, catalog)
        if not known and before is not None:
            announce(warehouse, tenant, 0, catalog_hash(before), catalog_content(before))
        announce(warehouse, tenant, at, catalog_hash(catalog), catalog_content(catalog))
        tables.show_rows(_rows(read_versions(warehouse, tenant)), _COLUMNS, form)


def run_list(url: Url, *, tenant: str, form: Format) -> None:
    """Show the catalogs of a tenant in time."""
    with open_warehouse(url) as warehouse:
        tables.show_rows(_rows(read_versions(warehouse, tenant)), _COLUMNS, form)


def _check_ahead(warehouse: Warehouse, tenant: str, at: int) -> None:
    """Raises ConfigurationError where hours from `at` on may be metered already."""
    closed = max((row.closed_until for row in read_progress(warehouse, tenant)), default=0)
    before = max(reached(warehouse, tenant), closed)
    if at <= before:
        raise ConfigurationError(
            f"--from must be ahead of the events that are stored (got "
            f"{format_instant(from_microseconds(at))}, events reach "
            f"{format_instant(from_microseconds(before))}); what changes the past is a corrected "
            "catalog and `beammeter repair`"
        )


def _check_compatible(old: Catalog, new: Catalog) -> None:
    """Raises ConfigurationError where usage of both could not be merged into one bill."""
    for meter in new.meters:
        other = old.meters_by_id.get(meter.id)
        if other is None:
            continue
        for name in sorted(Meter.model_fields.keys() - _CHANGEABLE):
            mine, theirs = getattr(meter, name), getattr(other, name)
            if mine != theirs:
                raise ConfigurationError(
                    f"meter {meter.id!r} must keep its {name} {theirs!r} (got {mine!r}): "
                    "hours of both would be merged; give the new meter an id of its own"
                )
    for customer in new.customers:
        known = old.customers_by_id.get(customer.id)
        if known is not None and known.time_zone != customer.time_zone:
            raise ConfigurationError(
                f"customer {customer.id!r} must keep its time zone {known.time_zone} (got "
                f"{customer.time_zone}): hours of both would overlap; start the stream with the "
                "new zone, and repair"
            )


def _timeline(versions: list[Version]) -> Timeline:
    return Timeline.from_stored([(version.at, version.content) for version in versions])


def _rows(versions: list[Version]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number, version in enumerate(versions):
        catalog = catalog_from_content(version.content)
        counts = {section: len(getattr(catalog, section)) for section in _COLUMNS[3:]}
        found.append(
            {
                "from": format_instant(from_microseconds(version.at)) if number else None,
                "catalog_hash": version.hash,
                "announced_at": format_instant(from_microseconds(version.announced_at)),
                **counts,
            }
        )
    return found
