"""Usage of one meter over any span, and by windows of it.

span -> buckets that it touches, each as a whole -> one merged value
                                                 -> one for each window: hours, days, ... or
                                                    months from an anchor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import cast

from meters.catalog import Catalog
from meters.numbers import EXACT
from meters.periods import Periods
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

    A bucket is in the window in which it starts. With `group` the values of each group of
    that property are added up. Months begin at `anchor` where one is given: one that begins at
    or before the span has the bucket that reaches into it as well, and what starts before an
    anchor within the span is in no window. Raises 400 where there would be too many windows.
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
        assert selection.since is not None
        assert selection.end is not None
        months = Periods(anchor, zone, "month").between(selection.since, selection.end)
        if len(months) > _MOST_MONTHS:
            raise wrong("window_size", window, f"so that there are at most {_MOST_MONTHS} months")
        windows = []
        for month in months:
            start = month.start if month.start > selection.since else None
            last = min(month.end, selection.end)
            found = _sum(values(replace(selection, start=start, end=last), ()))
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
