"""Usage of a whole tenant at a glance: merged over customers, by time, customer or group.

The same merge as `warehouse.merging` over other keys. A step of time is a whole hour, day or
month of the zone that is asked for, whatever the zones of the customers, since they stand
side by side here. `max`, `min` and `latest` are those of all customers together.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import pyarrow as pa

from meters.catalog import Aggregation
from meters.scalars import canonical_json
from warehouse.client import Warehouse
from warehouse.merging import HAS_LATEST, LATEST
from warehouse.parameters import Value, json_list
from warehouse.queries import KEY
from warehouse.sums import DAY, Kept, Sums, day_end, day_start
from warehouse.usage_series import EMPTY, NEEDED, Selection

Step = Literal["hour", "3hour", "6hour", "12hour", "day", "week", "month"]
Dimension = Literal["meter", "customer", "subscription", "bucket", "group"] | Step
STEPS: tuple[Step, ...] = get_args(Step)
"""Dimensions of time; hours by several begin at midnight."""

_HOURS = (
    "toDateTime64(toStartOfInterval(bucket_start, INTERVAL {} HOUR, {{zone:String}}), 6, 'UTC')"
)
_DIMENSIONS: dict[Dimension, str] = {
    "meter": "toString(meter)",
    "customer": "external_customer_id",
    "subscription": "external_subscription_id",
    "hour": "toDateTime64(toStartOfHour(bucket_start, {zone:String}), 6, 'UTC')",
    "3hour": _HOURS.format(3),
    "6hour": _HOURS.format(6),
    "12hour": _HOURS.format(12),
    "day": "toDateTime64(toStartOfDay(bucket_start, {zone:String}), 6, 'UTC')",
    "bucket": "bucket_start",
    "week": "toDateTime64("
    "toDateTime(toMonday(bucket_start, {zone:String}), {zone:String}), 6, 'UTC')",
    "month": "toDateTime64("
    "toDateTime(toStartOfMonth(bucket_start, {zone:String}), {zone:String}), 6, 'UTC')",
    # In canonical JSON the text `"name":` is nowhere but before the member of that name.
    "group": "simpleJSONExtractRaw(group_key, {group:String})",
}

_ORDERS: dict[Aggregation, str] = {
    "count": "events",
    "sum": "sum",
    "avg": "sum / events",
    "max": "max",
    "min": "min",
    "latest": "latest_value",
    "unique_count": "distinct",
    "weighted_sum": "events",
    "percentile": "events",
}

_MERGED = {
    "sum": "sum(w.sum)",
    "min": "min(w.min)",
    "max": "max(w.max)",
    "latest_value": f"if({HAS_LATEST}, {LATEST}.3, NULL)",
}
"""How a column of the state is merged."""

# Conditions on columns of the sorting key stand in PREWHERE (`warehouse.usage_series`).
_SUMMARY = """
WITH
    winners AS ({parts}),
    merged AS (
        SELECT {names}, sum(w.events) AS events, {state}
        FROM winners AS w GROUP BY {names}
    )
SELECT {names}, events, sum, min, max, latest_value, {distinct} AS distinct
FROM merged {join}
ORDER BY {order} LIMIT {{limit:UInt32}}
"""

_PART = """
SELECT {keys}, events, sum, min, max, latest_at, latest_id, latest_value
FROM {table} PREWHERE {where} WHERE {winning}
"""

_DISTINCT = """
LEFT JOIN (
    SELECT {names}, uniqExactMerge(value_hashes) AS values FROM ({parts}) GROUP BY {names}
) AS counted USING ({names})
"""

_VALUES = f"""
SELECT {{names}}, uniqExactState(v.value_hash) AS value_hashes
FROM (
    SELECT {KEY}, revision, value_hash FROM usage_values PREWHERE {{where}}
) AS v
INNER JOIN (
    SELECT {{keys}}, {KEY}, revision FROM usage FINAL PREWHERE {{where}} WHERE {{winning}}
) AS w USING ({KEY}, revision)
GROUP BY {{names}}
"""

_SUMMED_VALUES = "SELECT {keys}, value_hashes FROM {table} PREWHERE {where}"

_SUMMED = (
    f"({DAY}, run) IN "
    "(SELECT arrayJoin(JSONExtract({summed:String}, 'Array(Tuple(UInt32, UInt64))')))"
)
_REST = (
    f"{DAY} IN (SELECT arrayJoin(JSONExtract({{rest:String}}, 'Array(UInt32)'))) "
    "AND bucket_start >= {first:DateTime64(6, 'UTC')} "
    "AND bucket_start < {last:DateTime64(6, 'UTC')}"
)

_COUNTED = "meter IN (SELECT arrayJoin(JSONExtract({counted:String}, 'Array(String)')))"


def usage_summary(
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    by: Sequence[Dimension],
    *,
    zone: str = "UTC",
    group: str | None = None,
    aggregations: Collection[Aggregation],
    counted: Sequence[str] = (),
    greatest: Aggregation | None = None,
    limit: int = 10_000,
    sums: Sums | None = None,
) -> pa.Table:
    """The merged state by `by`: at least one dimension, `group` being the property's value.

    Columns: one for each dimension under its name, then `events`, `sum`, `min`, `max`,
    `latest_value` as far as `aggregations` need them (else 0 or null), and `distinct` of the
    meters that are `counted`, else null. With `greatest`, the rows with the greatest value of
    that aggregation come first, otherwise they are sorted by their keys. A group is JSON text,
    empty where the meter has no such property. Days that `sums` has are read from there.
    """
    where, values = selection.where(tenant)
    table, kept = _kept(sums, selection, by, bool(counted))
    given: dict[str, Value] = {**values, "limit": limit}
    if kept is not None and kept.summed:
        given["summed"] = json_list(kept.summed)
    if kept is not None and kept.rest:
        given["rest"] = json_list(kept.rest)
        given["first"], given["last"] = day_start(kept.rest[0]), day_end(kept.rest[-1])
    names = [f"by_{name}" for name in by]
    keys = ", ".join(f"{_DIMENSIONS[name]} AS by_{name}" for name in by)
    listed = ", ".join(names)
    order = f"{_ORDERS[greatest]} DESC, {listed}" if greatest else listed
    state = ", ".join(
        f"{merged if NEEDED[name].intersection(aggregations) else EMPTY[name]} AS {name}"
        for name, merged in _MERGED.items()
    )
    winning = selection.winning
    parts, values_parts = [], []
    if "summed" in given:
        chosen = f"{where} AND {_SUMMED}"
        parts.append(_PART.format(keys=keys, table=table, where=chosen, winning=winning))
        chosen = f"{chosen} AND {_COUNTED}"
        values_parts.append(_SUMMED_VALUES.format(keys=keys, table=table, where=chosen))
    if "rest" in given or "summed" not in given:
        chosen = f"{where} AND {_REST}" if "rest" in given else where
        parts.append(_PART.format(keys=keys, table="usage FINAL", where=chosen, winning=winning))
        chosen = f"{chosen} AND {_COUNTED}"
        values_parts.append(_VALUES.format(keys=keys, names=listed, where=chosen, winning=winning))
    join = _DISTINCT.format(names=listed, parts=" UNION ALL ".join(values_parts))
    sql = _SUMMARY.format(
        state=state,
        names=listed,
        parts=" UNION ALL ".join(parts),
        distinct="counted.values" if counted else "CAST(NULL AS Nullable(UInt64))",
        join=join if counted else "",
        order=order,
    )
    if set(STEPS) & set(by):
        given["zone"] = zone
    if "group" in by:
        given["group"] = canonical_json(group or "")[1:-1]
    if counted:
        given["counted"] = json_list(counted)
    found = warehouse.query_arrow(sql, given)
    return found.rename_columns([name.removeprefix("by_") for name in found.column_names])


_OF_HOURS = {"meter", "group", "bucket", *STEPS}
_OF_DAYS = {"meter", "customer", "subscription"}


def _kept(
    sums: Sums | None, selection: Selection, by: Sequence[Dimension], counted: bool
) -> tuple[str, Kept | None]:
    """The table of sums that can answer, and its days; None where the hours are to be read.

    One customer's hours lie together and are read as fast. Sums do not know when buckets end,
    which `Selection.since` asks for.
    """
    if sums is None or selection.since is not None:
        return "", None
    if selection.customer is not None or selection.subscription is not None:
        return "", None
    if _OF_HOURS.issuperset(by):
        return "usage_hours", sums.of(selection.start, selection.end)
    if not _OF_DAYS.issuperset(by) or selection.groups or counted:
        return "", None
    kept = sums.of(selection.start, selection.end)
    return "usage_days", None if kept is None else kept.whole(selection.start, selection.end)
