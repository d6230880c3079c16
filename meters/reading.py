"""Reading usage: stored rows merged to hours, days or billing periods.

Hours and days are whole local ones: parts that a period boundary cut apart come
together again. Periods are those of the subscription, or calendar months in the
customer's zone where there is none. Values are extracted from the merged state, so an
average of a month is the month's average, not an average of hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import polars as pl

from meters.aggregators import State, check_sums, extract
from meters.buckets import NO_PERIOD, days_columnar, hours_columnar, periods_columnar
from meters.catalog import Catalog, Kind
from meters.numbers import from_scaled, plain, to_scaled
from meters.periods import Periods, calendar_months
from meters.reading_spans import read_spans
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant
from meters.usage import INSTANT, KEY
from meters.zones import Int64s, from_microseconds, microseconds, zone_table

Granularity = Literal["hour", "day", "period"]

# A period and the calendar month of usage outside a subscription's dates may start together.
Slot = tuple[Any, ...]
_OWNER = ["external_customer_id", "external_subscription_id"]
_SLOT = [*_OWNER, "meter", "start", "end", "group_key"]


@dataclass(frozen=True)
class UsageCell:
    """One printed row of usage: `value` at 12 places, `group` as canonical JSON."""

    customer: str
    subscription: str | None
    meter: str
    start: datetime
    end: datetime
    group: str
    value: Decimal
    events: int

    def to_dict(self) -> dict[str, object]:
        """The row as commands and routes print it."""
        return {
            "customer": self.customer,
            "subscription": self.subscription,
            "meter": self.meter,
            "start": format_instant(self.start),
            "end": format_instant(self.end),
            "group": parse_json(self.group),
            "value": plain(self.value),
            "events": self.events,
        }


def read_usage(
    catalog: Catalog,
    rows: pl.DataFrame,
    values: pl.DataFrame,
    granularity: Granularity,
    group_by: Sequence[str] | None = None,
    *,
    since: datetime | None = None,
) -> list[UsageCell]:
    """Merge stored usage to `granularity`, and to the `group_by` keys where given.

    `rows` are winning rows of `meters.usage.USAGE` without tombstones, `values` the
    distinct values that belong to them. Meters and customers that the catalog does not
    have are left out. Rows before `since` only say what meters carry into what is asked
    for. Sorted by customer, subscription, meter, span and group.
    """
    meters = [meter.id for meter in catalog.meters]
    zones = _zones(catalog, rows["external_customer_id"])
    known = pl.col("meter").is_in(meters) & pl.col("external_customer_id").is_in(list(zones))
    wanted = pl.lit(True) if since is None else pl.col("bucket_start") >= since
    every = _regroup(_slots(catalog, rows.filter(known), granularity), group_by)
    every = every.with_columns(wanted.alias("wanted"))
    spanned = [meter.id for meter in catalog.meters if meter.over_spans]
    bucketed = every["wanted"] & ~every["meter"].is_in(spanned)
    located = every.filter(bucketed).drop("wanted")
    cells = _over_spans(catalog, every.filter(~bucketed), values, granularity)
    counting = [meter.id for meter in catalog.meters if meter.aggregation == "unique_count"]
    counted = located.filter(pl.col("meter").is_in(counting))
    keyed = values.join(counted.select(*KEY, "start", "end", "merged_group"), on=KEY, how="inner")
    distinct = (
        keyed.select(*_slot_of("merged_group"), "value_hash")
        .unique()
        .group_by(_SLOT)
        .agg(pl.len().alias("distinct"))
    )
    merged = _merge(located).join(distinct, on=_SLOT, how="left")
    kinds = {meter.id: meter.kind for meter in catalog.meters}
    sums = _sums_of_buckets(catalog, located)
    for row in merged.iter_rows(named=True):
        value = sums.get(tuple(row[name] for name in _SLOT))
        if value is None:
            value = _value(kinds[row["meter"]], row)
        if value is not None:
            cells.append(
                UsageCell(
                    customer=row["external_customer_id"],
                    subscription=row["external_subscription_id"] or None,
                    meter=row["meter"],
                    start=row["start"],
                    end=row["end"],
                    group=row["group_key"],
                    value=value,
                    events=row["events"],
                )
            )
    return sorted(cells, key=_order)


def _order(cell: UsageCell) -> tuple[str, str, str, datetime, datetime, str]:
    owner = cell.customer, cell.subscription or "", cell.meter
    return (*owner, cell.start, cell.end, cell.group)


def _over_spans(
    catalog: Catalog, every: pl.DataFrame, values: pl.DataFrame, granularity: Granularity
) -> list[UsageCell]:
    """The cells of levels, percentiles and recurring meters."""
    zones = _zones(catalog, every["external_customer_id"])
    owners = every.select(_OWNER).unique()
    periods = {
        (customer, subscription): _periods(catalog, zones[customer], subscription)
        for customer, subscription in owners.iter_rows()
    }
    cells = []
    for meter in catalog.meters:
        if not meter.over_spans:
            continue
        rows = every.filter(pl.col("meter") == meter.id)
        if rows.is_empty():
            continue
        distinct = values.filter(pl.col("meter") == meter.id) if meter.recurring else values.clear()
        by_row = distinct.group_by(KEY).agg(pl.col("value_hash")).iter_rows()
        hashes = {tuple(key): frozenset(found) for *key, found in by_row}
        whole = granularity == "period"
        for found in read_spans(meter, rows, hashes, periods, zones, whole_periods=whole):
            customer, subscription, group = found.key
            cells.append(
                UsageCell(
                    customer,
                    subscription or None,
                    meter.id,
                    found.start,
                    found.end,
                    group,
                    found.value,
                    found.events,
                )
            )
    return cells


def _sums_of_buckets(catalog: Catalog, located: pl.DataFrame) -> dict[Slot, Decimal]:
    """The values of meters with a bucket: sums over their local hours or days."""
    sums: dict[Slot, int] = {}
    for meter in catalog.meters:
        if meter.bucket is None:
            continue
        rows = located.filter(pl.col("meter") == meter.id)
        if rows.is_empty():
            continue
        kept = rows.rename({"start": "slot_start", "end": "slot_end"})
        cut = _slots(catalog, kept, meter.bucket).rename({"start": "bucket"}).drop("end")
        results = (
            cut.rename({"slot_start": "start", "slot_end": "end"})
            .with_columns(pl.col("merged_group").alias("group_key"))
            .group_by(*_SLOT, "bucket")
            .agg(pl.col("sum").sum(), pl.col("max").max())
        )
        for row in results.iter_rows(named=True):
            slot = tuple(row[name] for name in _SLOT)
            sums[slot] = sums.get(slot, 0) + to_scaled(row[meter.aggregation] or Decimal(0))
    return {slot: from_scaled(value) for slot, value in sums.items()}


def _slot_of(group: str) -> list[pl.Expr]:
    return [pl.col(name) for name in _SLOT[:-1]] + [pl.col(group).alias("group_key")]


def _zones(catalog: Catalog, customers: pl.Series) -> dict[str, str]:
    """The zones of those customers that the catalog has."""
    known = catalog.customers_by_id
    return {name: known[name].time_zone for name in customers.unique() if name in known}


def _slots(catalog: Catalog, rows: pl.DataFrame, granularity: Granularity) -> pl.DataFrame:
    """Add `start` and `end` of the hour, day or period that each bucket belongs to."""
    zones = _zones(catalog, rows["external_customer_id"])
    at = rows["bucket_start"].cast(pl.Int64).to_numpy()
    start, end = np.empty_like(at), np.empty_like(at)
    owner = _OWNER if granularity == "period" else _OWNER[:1]
    owned = rows.select(owner).with_row_index("place").group_by(owner).agg("place")
    places: dict[tuple[str, Periods | None], list[Int64s]] = {}
    for place, (customer, *subscription) in zip(
        owned["place"], owned.select(owner).iter_rows(), strict=True
    ):
        zone = zones[customer]
        periods = _periods(catalog, zone, *subscription) if subscription else None
        places.setdefault((zone, periods), []).append(place.to_numpy())
    for (zone, periods), several in places.items():
        place = np.concatenate(several)
        if periods is not None:
            start[place], end[place] = _in_periods(at[place], periods, zone)
        elif granularity == "hour":
            start[place], end[place] = hours_columnar(at[place], zone)
        else:
            start[place], end[place] = days_columnar(at[place], zone)
    return rows.with_columns(
        pl.Series("start", start).cast(INSTANT), pl.Series("end", end).cast(INSTANT)
    )


def cuts(
    catalog: Catalog,
    owners: Iterable[tuple[str, str]],
    granularity: Granularity,
    first_us: int,
    last_us: int,
) -> list[int]:
    """Instants from `first_us` to `last_us`, ascending, `first_us` among them.

    Buckets that start between two of them are in one day or period, whichever of these owners
    (customer, subscription) they are of: where `read_usage` would merge them, they may come
    merged. In microseconds since 1970. `granularity` is not `hour`.
    """
    customers = catalog.customers_by_id
    known = {(customers[one].time_zone, name) for one, name in owners if one in customers}
    found = {first_us}
    if granularity == "day":
        for zone in {zone for zone, _ in known}:
            midnights = zone_table(zone, first_us, last_us).midnights
            found.update(midnights[(first_us <= midnights) & (midnights <= last_us)].tolist())
        return sorted(found)
    first, last = from_microseconds(first_us), from_microseconds(last_us)
    for zone, subscription in known:
        for periods in (_periods(catalog, zone, subscription), calendar_months(zone)):
            found.update(microseconds(at) for at in periods.bounds(first, last))
    return sorted(found)


def _periods(catalog: Catalog, zone: str, subscription: str) -> Periods:
    entry = catalog.subscriptions_by_id.get(subscription)
    if entry is None:
        return calendar_months(zone)
    return Periods(entry.start, zone, catalog.plans_by_id[entry.plan].period, entry.end)


def _in_periods(at: Int64s, periods: Periods, zone: str) -> tuple[Int64s, Int64s]:
    """The period of each instant; a calendar month outside the subscription's life."""
    start, end = periods_columnar(at, periods)
    outside = start == NO_PERIOD
    if outside.any():
        start[outside], end[outside] = periods_columnar(at[outside], calendar_months(zone))
    return start, end


def _regroup(rows: pl.DataFrame, group_by: Sequence[str] | None) -> pl.DataFrame:
    """Add `merged_group`: the group, or what `group_by` leaves of it."""
    if group_by is None:
        return rows.with_columns(pl.col("group_key").alias("merged_group"))
    distinct = rows["group_key"].unique()
    kept = [_kept(text, group_by) for text in distinct.to_list()]
    replaced = rows["group_key"].replace_strict(
        distinct, pl.Series(kept, dtype=pl.String), return_dtype=pl.String
    )
    return rows.with_columns(replaced.alias("merged_group"))


def _kept(text: str, group_by: Sequence[str]) -> str:
    group = parse_json(text)
    assert isinstance(group, dict)
    return canonical_json({key: value for key, value in group.items() if key in group_by})


def _merge(rows: pl.DataFrame) -> pl.DataFrame:
    """The columnar merge over all fields of the state."""
    order = [pl.col("latest_at"), pl.col("latest_id")]
    latest = pl.col("latest_value").filter(pl.col("latest_at").is_not_null())
    fields = [
        pl.col("events").sum().alias("events"),
        pl.col("sum").sum().alias("sum"),
        pl.col("min").min().alias("min"),
        pl.col("max").max().alias("max"),
        latest.sort_by([by.filter(pl.col("latest_at").is_not_null()) for by in order])
        .last()
        .alias("latest_value"),
    ]
    located = rows.with_columns(pl.col("merged_group").alias("group_key"))
    return check_sums(located.group_by(_SLOT).agg(fields), "events")


def _value(kind: Kind, row: dict[str, Any]) -> Decimal | None:
    latest = row["latest_value"]
    if kind == "unique_count":
        return Decimal(row["distinct"] or 0)
    state = State(
        events=row["events"],
        sum=to_scaled(row["sum"]),
        min=None if row["min"] is None else to_scaled(row["min"]),
        max=None if row["max"] is None else to_scaled(row["max"]),
        latest=None if latest is None else (0, b"", to_scaled(latest)),
    )
    return extract(kind, state)
