"""Usage page by page, in the rows of `beammeter usage`.

    selection -> series of the next customers -> rows of some -> merged cells -> a page
                                                                                  |
                                              cursor: the key of its last cell <--'

A page begins behind the key that its cursor names, not after a number of rows. So what is
written between two pages moves nothing: no cell comes twice, and none that was there is
left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import polars as pl

from meters.catalog import Aggregation, Catalog
from meters.reading import Granularity, UsageCell, read_usage
from meters.usage import KEY, USAGE_VALUES, from_stored
from meters.zones import from_microseconds, microseconds
from service.cursors import no_cursor, read_cursor, write_cursor
from warehouse.client import Warehouse
from warehouse.usage_series import (
    Selection,
    Series,
    rows_of_series,
    usage_series,
    values_of_series,
)

# A page reads at first what it shows where every second hour has usage. Where that was not enough,
# it goes on by how many rows a cell had.
_ROWS_OF_A_CELL: dict[Granularity, int] = {"hour": 1, "day": 14, "period": 14 * 31}
_SPARE = 1.25
_FIRST_ROWS = 4_000
_MOST_ROWS = 128_000
_FIRST_SERIES = 64
_FIRST_OF_A_METER = 32
_MOST_SERIES = 4_096
_GROWTH = 8


@dataclass
class _Room:
    """How many rows the next batch may have."""

    rows: int


@dataclass(frozen=True, order=True)
class Place:
    """The key of a cell, in the order in which cells are listed."""

    series: Series
    start: datetime
    end: datetime
    group: str


@dataclass(frozen=True)
class UsagePage:
    """Some cells, and the cursor of the page behind them; None where nothing follows."""

    cells: tuple[UsageCell, ...]
    next_cursor: str | None


def usage_page(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    *,
    granularity: Granularity,
    group_by: Sequence[str] | None = None,
    limit: int,
    cursor: str | None = None,
) -> UsagePage:
    """At most `limit` cells behind `cursor`, sorted as `read_usage` sorts them.

    Raises `Rejected` (`invalid_cursor`) for a cursor that no page has given.
    """
    after = None if cursor is None else place_behind(cursor)
    found: list[UsageCell] = []
    counted = {meter.id for meter in catalog.meters if meter.aggregation == "unique_count"}
    carrying = {meter.id for meter in catalog.meters if meter.carries}
    ever = replace(selection, start=None)
    listed = ever if carrying and selection.meter in (None, *carrying) else selection
    room = _Room(_within(limit * _ROWS_OF_A_CELL[granularity]))
    read = 0
    for series, size in _batches(warehouse, tenant, listed, after, room):
        # What was carried into the span comes from rows before it.
        old, new = series, list[Series]()
        if selection.start is not None:
            old = [each for each in series if each.meter in carrying]
            new = [each for each in series if each.meter not in carrying]
        aggregations = _aggregations(catalog, series)
        rows, values = [], [USAGE_VALUES.to_frame()]
        for chosen, each in ((ever, old), (selection, new)):
            if not each:
                continue
            table = rows_of_series(warehouse, tenant, chosen, each, aggregations=aggregations)
            rows.append(from_stored(table))
            if distinct := [one for one in each if one.meter in counted]:
                stored = from_stored(values_of_series(warehouse, tenant, chosen, distinct))
                owners = rows[-1].filter(pl.col("meter").is_in(counted))
                own = stored.join(owners, on=[*KEY, "revision"], how="semi")
                values.append(own.select(USAGE_VALUES.names()))
        kept, belonging = pl.concat(rows), pl.concat(values)
        since = selection.start
        cells = read_usage(catalog, kept, belonging, granularity, group_by, since=since)
        found += [cell for cell in cells if after is None or place_of(cell) > after]
        if len(found) > limit:
            page = tuple(found[:limit])
            return UsagePage(page, cursor_of(place_of(page[-1])))
        read += size
        missing = limit + 1 - len(found)
        room.rows = _within(int(_SPARE * missing * read / len(found)) if found else _MOST_ROWS)
    return UsagePage(tuple(found), None)


def _aggregations(catalog: Catalog, series: Sequence[Series]) -> set[Aggregation] | None:
    """What the meters of these series do; None where one of them is read over spans."""
    names = {each.meter for each in series}
    meters = [meter for meter in catalog.meters if meter.id in names]
    if any(meter.over_spans for meter in meters):
        return None
    return {meter.aggregation for meter in meters}


def _within(rows: int) -> int:
    return max(_FIRST_ROWS, min(_MOST_ROWS, rows))


def _batches(
    warehouse: Warehouse, tenant: str, selection: Selection, after: Place | None, room: _Room
) -> Iterator[tuple[list[Series], int]]:
    """Series from that of the cursor on, in order, in batches for which there is room.

    Each batch with the number of its rows, as `usage_series` has it.
    """
    customer, more = "" if after is None else after.series.customer, True
    limit = _FIRST_SERIES if selection.meter is None else _FIRST_OF_A_METER
    while more:
        found, more = usage_series(
            warehouse, tenant, selection, from_customer=customer, limit=limit
        )
        limit = min(limit * _GROWTH, _MOST_SERIES)
        batch: list[Series] = []
        size = 0
        for series, rows in found:
            if after is not None and series < after.series:
                continue
            if batch and size + rows > room.rows:
                yield batch, size
                batch, size = [], 0
            batch.append(series)
            size += rows
        if batch:
            yield batch, size
        if found:
            customer = found[-1][0].customer + "\0"


def place_of(cell: UsageCell) -> Place:
    """The key of a cell."""
    series = Series(cell.customer, cell.subscription or "", cell.meter)
    return Place(series, cell.start, cell.end, cell.group)


def cursor_of(place: Place) -> str:
    """The cursor that begins behind `place`."""
    series = place.series
    key = [series.customer, series.subscription, series.meter]
    return write_cursor(
        [*key, str(microseconds(place.start)), str(microseconds(place.end)), place.group]
    )


def place_behind(cursor: str) -> Place:
    """The place that a cursor names. Raises `Rejected`."""
    customer, subscription, meter, start, end, group = read_cursor(cursor, 6)
    try:
        since, until = from_microseconds(int(start)), from_microseconds(int(end))
    except (ValueError, OverflowError):
        raise no_cursor(cursor) from None
    return Place(Series(customer, subscription, meter), since, until, group)
