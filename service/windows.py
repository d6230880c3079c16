"""Usage of one meter over any span, and by windows of it.

span -> whole buckets that it touches -> one merged value
                                      -> one for each window: hours, days, ... or
                                         months from an anchor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import cast

from meters.buckets import HOUR_US, hour_of
from meters.catalog import Catalog
from meters.numbers import EXACT
from meters.periods import Periods
from meters.zones import from_microseconds, microseconds
from service.reader import wrong
from service.summaries import Figure, summarize
from warehouse.client import Warehouse
from warehouse.overview import Dimension
from warehouse.usage_series import Selection

MOST_WINDOWS = 50_000
_MOST_MONTHS = 120


@dataclass(frozen=True)
class Windowed:
    """A value, the number of its events, and the windows that have some, by their start."""

    value: Decimal
    events: int
    windows: Sequence[tuple[datetime, Decimal, int]]


def bucket_start(catalog: Catalog, customer: str | None, at: datetime) -> datetime:
    """The start of the bucket around an instant: whole hours of the customer, else of UTC."""
    known = catalog.customers_by_id.get(customer or "")
    if known is not None:
        return hour_of(at, known.time_zone).start
    return from_microseconds(microseconds(at) // HOUR_US * HOUR_US)


def windowed_usage(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    *,
    window: str | None = None,
    zone: str = "UTC",
    anchor: datetime | None = None,
    group: str | None = None,
) -> Windowed:
    """The usage of the one meter of a selection, and of its windows (hours, days ... of `zone`).

    With `group` the values of each group of that property are added up. Months begin at
    `anchor` where one is given. Raises 400 where there would be too many windows.
    """

    def values(chosen: Selection, by: Sequence[Dimension]) -> list[Figure]:
        dimensions: list[Dimension] = [*by, *(("group",) if group else ())]
        found = summarize(catalog, warehouse, tenant, chosen, dimensions, zone=zone, group=group)
        if len(found) > MOST_WINDOWS:
            raise wrong("window_size", window, f"so that there are at most {MOST_WINDOWS} values")
        return found

    value, events = _sum(values(selection, ()))
    if window is None:
        return Windowed(value, events, ())
    if window == "MONTH" and anchor is not None:
        assert selection.start is not None
        assert selection.end is not None
        months = Periods(anchor, zone, "month").between(selection.start, selection.end)
        if len(months) > _MOST_MONTHS:
            raise wrong("window_size", window, f"so that there are at most {_MOST_MONTHS} months")
        windows = []
        for month in months:
            first, last = max(month.start, selection.start), min(month.end, selection.end)
            found = _sum(values(replace(selection, start=first, end=last), ()))
            if found[1]:
                windows.append((month.start, *found))
        return Windowed(value, events, windows)
    name = cast(Dimension, window.lower())
    by_start: dict[datetime, list[Figure]] = {}
    for figure in values(selection, (name,)):
        keys: Mapping[str, datetime] = figure.keys
        by_start.setdefault(keys[name], []).append(figure)
    return Windowed(value, events, [(at, *_sum(by_start[at])) for at in sorted(by_start)])


def _sum(figures: Sequence[Figure]) -> tuple[Decimal, int]:
    value = Decimal(0)
    for figure in figures:
        value = EXACT.add(value, figure.value or Decimal(0))
    return value, sum(figure.events for figure in figures)
