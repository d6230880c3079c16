"""Usage at a glance: the values of a meter, or of all, merged over whoever is asked for.

usage rows --merged by ClickHouse--> state by dimension --extract--> values
usage rows of a meter with a bucket --by customer and bucket--> sums of results
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from meters.aggregators import State, extract
from meters.catalog import Catalog, Meter
from meters.numbers import from_scaled, to_scaled
from meters.zones import local_date
from warehouse.client import Warehouse
from warehouse.overview import STEPS, Dimension, usage_summary
from warehouse.sums import Sums
from warehouse.usage_series import Selection

MOST_BUCKETS = 1_000_000

_WITHIN = {*STEPS, "group"}
"""Dimensions that part the rows of a bucket, beside whose they are."""


@dataclass(frozen=True)
class Figure:
    """One merged value. `keys` has the dimensions asked for, instants as datetimes."""

    meter: str
    keys: Mapping[str, Any]
    value: Decimal | None
    events: int


def summarize(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    by: Sequence[Dimension],
    *,
    zone: str = "UTC",
    group: str | None = None,
    top: int | None = None,
    sums: Sums | None = None,
) -> list[Figure]:
    """The values by `by` (beside the meter), sorted by their keys.

    With `top`, the greatest values come first and at most so many; the selection must name
    the meter then, as values of different meters are not compared. A meter with a bucket has
    the sum of its buckets' results, as on a bill. Days that `sums` has are read from there.
    """
    names = [selection.meter] if selection.meter else list(catalog.meters_by_id)
    meters = [catalog.meters_by_id[name] for name in names if name in catalog.meters_by_id]
    bucketed = [meter for meter in meters if meter.bucket is not None]
    figures: list[Figure] = []
    if len(bucketed) < len(meters):
        figures += _merged(catalog, warehouse, tenant, selection, by, zone, group, top, sums)
    special = {meter.id for meter in bucketed}
    figures = [each for each in figures if each.meter not in special]
    for meter in bucketed:
        figures += _bucketed(catalog, warehouse, tenant, selection, by, zone, group, meter)
    if top is None:
        return sorted(figures, key=lambda each: (each.meter, *map(str, each.keys.values())))
    return sorted(figures, key=lambda each: -(each.value or 0))[:top]


def _merged(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    by: Sequence[Dimension],
    zone: str,
    group: str | None,
    top: int | None,
    sums: Sums | None,
) -> list[Figure]:
    asked = catalog.meters_by_id[selection.meter] if selection.meter else None
    meters = [asked] if asked else list(catalog.meters)
    table = usage_summary(
        warehouse,
        tenant,
        selection,
        ["meter", *by],
        zone=zone,
        group=group,
        aggregations={meter.aggregation for meter in meters},
        counted=[meter.id for meter in meters if meter.aggregation == "unique_count"],
        greatest=asked.aggregation if asked and top else None,
        limit=top or MOST_BUCKETS,
        sums=sums,
    )
    found = []
    for row in table.to_pylist():
        meter = catalog.meters_by_id.get(row["meter"])
        if meter is not None:
            keys: dict[str, Any] = {name: row[name] for name in by}
            found.append(Figure(meter.id, keys, value_of(meter, row), row["events"]))
    return found


def _bucketed(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    by: Sequence[Dimension],
    zone: str,
    group: str | None,
    meter: Meter,
) -> list[Figure]:
    """The sums of the results of a meter's local hours or days."""
    rows = usage_summary(
        warehouse,
        tenant,
        replace(selection, meter=meter.id),
        ["customer", "subscription", "bucket", *(name for name in by if name in _WITHIN)],
        zone=zone,
        group=group,
        aggregations={meter.aggregation},
        limit=MOST_BUCKETS,
    ).to_pylist()
    results: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        customer = catalog.customers_by_id.get(row["customer"])
        if customer is None:
            continue
        at: object = row["bucket"]
        if meter.bucket == "day":
            at = local_date(row["bucket"], customer.time_zone)
        keys = tuple(row[name] for name in by)
        results.setdefault((*keys, row["customer"], row["subscription"], at), []).append(row)
    sums: dict[tuple[Any, ...], tuple[int, int]] = {}
    for key, each in results.items():
        slot = key[: len(by)]
        value, events = sums.get(slot, (0, 0))
        sums[slot] = value + _result(meter, each), events + sum(row["events"] for row in each)
    return [
        Figure(meter.id, dict(zip(by, slot, strict=True)), from_scaled(value), events)
        for slot, (value, events) in sums.items()
    ]


def _result(meter: Meter, rows: Iterable[Mapping[str, Any]]) -> int:
    if meter.aggregation == "sum":
        return sum(to_scaled(row["sum"]) for row in rows)
    return max((to_scaled(row["max"]) for row in rows if row["max"] is not None), default=0)


def value_of(meter: Meter, row: Mapping[str, Any]) -> Decimal | None:
    """The value of a merged row with `events`, `sum`, `min`, `max`, `latest_value`, `distinct`.

    None for levels, percentiles and what is carried: they are read over a span, as
    `usage_page` does.
    """
    if meter.over_spans or meter.aggregation == "percentile":
        return None
    if meter.aggregation == "unique_count":
        return Decimal(row["distinct"] or 0)
    latest = row["latest_value"]
    state = State(
        events=row["events"],
        sum=to_scaled(row["sum"]),
        min=None if row["min"] is None else to_scaled(row["min"]),
        max=None if row["max"] is None else to_scaled(row["max"]),
        latest=None if latest is None else (0, b"", to_scaled(latest)),
    )
    return extract(meter.kind, state)
