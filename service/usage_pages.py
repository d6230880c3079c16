"""Usage page by page, in the rows of `beammeter usage`.

    selection -> series of the next customers -> rows of some -> merged cells -> a page
                                                                                  |
                                              cursor: the key of its last cell <--'

A page begins behind the key that its cursor names, not after a number of rows. So what is
written between two pages moves nothing: no cell comes twice, and none that was there is
left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

import polars as pl

from meters.catalog import Aggregation, Catalog
from meters.reading import Granularity, UsageCell, cuts, read_usage
from meters.usage import KEY, USAGE_VALUES, from_stored
from meters.zones import from_microseconds, microseconds
from service.cursors import no_cursor, read_cursor, write_cursor
from warehouse.client import Warehouse
from warehouse.usage_series import (
    Listed,
    Merging,
    Selection,
    Series,
    Stretch,
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
# They are searched for each row, and sent with each statement.
_MOST_CUTS = 2_000


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
    spanned = {meter.id for meter in catalog.meters if meter.over_spans}
    ever = replace(selection, start=None)
    listed = ever if carrying and selection.meter in (None, *carrying) else selection
    # What was carried into the span comes from rows before it.
    before = set() if selection.start is None else carrying
    room = _Room(_within(limit * _ROWS_OF_A_CELL[granularity]))
    read = 0
    for batch, exact in _batches(warehouse, tenant, listed, after, room):
        series = {each.series for each in batch}
        names = {each.meter for each in series}
        rows, values = [], [USAGE_VALUES.to_frame()]
        for chosen, meters in (
            (ever, names & before),
            (selection, names & spanned - before),
            (selection, names - spanned),
        ):
            if not meters:
                continue
            ends = batch[0].series, batch[-1].series
            stretch = Stretch(*ends, meters=None if meters == names else meters, exact=exact)
            table = rows_of_series(
                warehouse,
                tenant,
                chosen,
                stretch,
                aggregations=None if meters & spanned else _aggregations(catalog, meters),
                merging=None if meters & spanned else _merging(catalog, batch, granularity),
            )
            rows.append(from_stored(table))
            if meters & counted:
                stored = from_stored(values_of_series(warehouse, tenant, chosen, stretch))
                owners = rows[-1].filter(pl.col("meter").is_in(counted))
                own = stored.join(owners, on=[*KEY, "revision"], how="semi")
                values.append(own.select(USAGE_VALUES.names()))
        kept, belonging = pl.concat(rows, how="diagonal"), pl.concat(values)
        since = selection.start
        for cell in read_usage(catalog, kept, belonging, granularity, group_by, since=since):
            place = place_of(cell)
            # What was written after the series were listed may be of an owner whose days and
            # periods were not asked for.
            if place.series in series and (after is None or place > after):
                found.append(cell)
        if len(found) > limit:
            page = tuple(found[:limit])
            return UsagePage(page, cursor_of(place_of(page[-1])))
        read += _rows(batch)
        missing = limit + 1 - len(found)
        room.rows = _within(int(_SPARE * missing * read / len(found)) if found else _MOST_ROWS)
    return UsagePage(tuple(found), None)


def _aggregations(catalog: Catalog, meters: Collection[str]) -> set[Aggregation]:
    """What these meters do."""
    return {meter.aggregation for meter in catalog.meters if meter.id in meters}


def _merging(catalog: Catalog, batch: Sequence[Listed], granularity: Granularity) -> Merging | None:
    """What ClickHouse merges of these series; None where nothing is to be gained.

    Distinct values belong to rows as they are stored, a meter with a bucket adds up the results
    of its buckets, and one that is read over spans needs each of its rows.
    """
    names = {each.series.meter for each in batch}
    meters = [
        meter.id
        for meter in catalog.meters
        if meter.id in names
        and not meter.over_spans
        and meter.bucket is None
        and meter.aggregation != "unique_count"
    ]
    if granularity == "hour" or not meters:
        return None
    owners = {(each.series.customer, each.series.subscription) for each in batch}
    first, last = min(each.first_us for each in batch), max(each.last_us for each in batch)
    found = cuts(catalog, owners, granularity, first, last)
    latest = [each for each in meters if catalog.meters_by_id[each].aggregation == "latest"]
    return Merging(meters, latest, found, last) if len(found) <= _MOST_CUTS else None


def _within(rows: int) -> int:
    return max(_FIRST_ROWS, min(_MOST_ROWS, rows))


def _batches(
    warehouse: Warehouse, tenant: str, selection: Selection, after: Place | None, room: _Room
) -> Iterator[tuple[list[Listed], bool]]:
    """Series from that of the cursor on, in order, in batches for which there is room.

    They are of whole customers, but for the cursor's and for one for which there is no room. Each
    comes with whether what else its customers have is too much to be read with it.
    """
    customer: str | None = "" if after is None else after.series.customer
    limit = _FIRST_SERIES if selection.meter is None else _FIRST_OF_A_METER
    while customer is not None:
        found, customer = usage_series(
            warehouse, tenant, selection, from_customer=customer, limit=limit
        )
        limit = min(limit * _GROWTH, _MOST_SERIES)
        behind = [each for each in found if after is None or each.series >= after.series]
        passed = _rows(found) - _rows(behind)
        batch: list[Listed] = []
        size = 0
        for _, listed in groupby(behind, key=lambda each: each.series.customer):
            own = list(listed)
            rows = _rows(own)
            if batch and size + rows > room.rows:
                yield batch, passed > room.rows // 4
                batch, size, passed = [], 0, 0
            if rows <= room.rows:
                batch += own
                size += rows
                continue
            for each in own:
                if batch and size + each.rows > room.rows:
                    yield batch, True
                    batch, size = [], 0
                batch.append(each)
                size += each.rows
            yield batch, True
            batch, size, passed = [], 0, 0
        if batch:
            yield batch, passed > room.rows // 4


def _rows(listed: Sequence[Listed]) -> int:
    return sum(each.rows for each in listed)


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
