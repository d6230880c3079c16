"""What routes that read are given: the caller, its catalog and warehouse; and their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends

from journal.journal import Journal
from meters.catalog import Catalog
from meters.errors import ConfigurationError, Rejected
from meters.scalars import canonical_json, is_json, parse_json
from meters.timestamps import END_OF_TIME, FIRST_INSTANT, parse_timestamp
from meters.zones import zone_info
from service.access import Caller, allowed
from service.catalogs import InTime, ServedCatalogs
from service.context import Service, now, service_of
from service.errors import ApiError, Fault, invalid
from warehouse.client import Warehouse
from warehouse.sums import Sums
from warehouse.usage_series import Selection

MOST_TEXT = 1024
"""Characters of a name in a query; ids have at most as many bytes."""


@dataclass(frozen=True)
class Reader:
    """Who reads, and what: a tenant's catalogs and warehouse."""

    caller: Caller
    catalogs: ServedCatalogs
    warehouse: Warehouse
    sums: Sums | None
    open_journal: Callable[[], AbstractContextManager[Journal | None]]

    @property
    def tenant(self) -> str:
        """Whose data is read."""
        return self.caller.tenant

    @property
    def in_time(self) -> InTime:
        """The catalogs as they are now."""
        return self.catalogs.at(now())

    @property
    def catalog(self) -> Catalog:
        """What usage is read by."""
        return self.in_time.reading

    @property
    def billing(self) -> Catalog:
        """What is billed by."""
        return self.in_time.billing

    @contextmanager
    def journal(self) -> Iterator[Journal | None]:
        """The journal while the body runs; None where nothing is final. Raises 503."""
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(self.open_journal())
            except ConfigurationError:
                detail = "this server must know the journal of the warehouse's final invoices"
                raise ApiError(503, "no_journal", detail) from None
            yield opened


async def reader(
    caller: Annotated[Caller, Depends(allowed("read"))],
    service: Annotated[Service, Depends(service_of)],
) -> Reader:
    """The dependency of routes that read; another tenant than the served one gets 403."""
    return _reader(caller, service)


async def admin(
    caller: Annotated[Caller, Depends(allowed("admin"))],
    service: Annotated[Service, Depends(service_of)],
) -> Reader:
    """The dependency of routes that change things."""
    return _reader(caller, service)


def _reader(caller: Caller, service: Service) -> Reader:
    caller.check_tenant(service.settings.tenant)
    if service.catalogs is None or service.warehouse is None:
        raise ApiError(503, "no_warehouse", "this server takes events and has no warehouse")
    return Reader(caller, service.catalogs, service.warehouse, service.sums, service.journal)


Reads = Annotated[Reader, Depends(reader)]
Administers = Annotated[Reader, Depends(admin)]


def wrong(path: str, value: object, expected: str) -> ApiError:
    """400 for one parameter."""
    text = None if value is None else str(value)[: Rejected.MAX_VALUE]
    return invalid([Fault(path, "invalid_parameter", text, expected)], code="invalid_parameter")


def instant(name: str, text: str | None) -> datetime | None:
    """An RFC 3339 time, or None where none is given. Raises 400."""
    if text is None:
        return None
    try:
        found = parse_timestamp(text, name)
    except Rejected as error:
        raise wrong(name, text, error.expected) from None
    if not FIRST_INSTANT <= found < END_OF_TIME:
        raise wrong(name, text, "within the years 1970 to 2299")
    return found


def span(start: datetime | None, end: datetime | None, path: str = "to") -> None:
    """Raises 400 where a span ends before it begins."""
    if start is not None and end is not None and end <= start:
        raise wrong(path, end.isoformat(), f"after {start.isoformat()}")


def zone(text: str, path: str = "zone") -> str:
    """The name of a time zone. Raises 400."""
    try:
        return zone_info(text).key or text
    except ValueError:
        raise wrong(path, text, "an IANA name such as Europe/Berlin") from None


def known(path: str, name: str | None, names: Iterable[str]) -> str | None:
    """A name that the catalog has. Raises 400."""
    if name is not None and name not in names:
        raise wrong(path, name, "in the catalog")
    return name


def groups(
    catalog: Catalog, given: Mapping[str, list[str]], path: str = "filter"
) -> dict[str, list[str]]:
    """Conditions on group values, as `Selection` takes them. Raises 400 for an unknown key.

    A value stands for the text, and for the JSON number, boolean or null that it writes.
    """
    keys = {name for meter in catalog.meters for name in meter.group_by}
    found: dict[str, list[str]] = {}
    for name, values in given.items():
        known(f"{path}.{name}", name, keys)
        found[name] = [text for value in values for text in scalars(value)]
    return found


def scalars(value: str) -> list[str]:
    """The canonical JSON scalars that a value in a request stands for."""
    texts = [canonical_json(value)]
    if is_json(value) and not isinstance(scalar := parse_json(value), dict | list | str):
        texts.append(canonical_json(scalar))
    return texts


def selection(
    catalog: Catalog,
    *,
    customer: str | None = None,
    subscription: str | None = None,
    meter: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    filters: Mapping[str, list[str]] | None = None,
) -> Selection:
    """What of the usage is asked for, its names checked against the catalog. Raises 400."""
    known("customer", customer, catalog.customers_by_id)
    if subscription:
        known("subscription", subscription, catalog.subscriptions_by_id)
    known("meter", meter, catalog.meters_by_id)
    span(start, end)
    return Selection(customer, subscription, meter, start, end, groups(catalog, filters or {}))


def ago(**lengths: float) -> datetime:
    """The instant that is so long ago."""
    return now() - timedelta(**lengths)
