"""Events of tests in both forms: columns through the program, and one by one.

`plain_usage` is the slow form of what decode, projection, deduplicate and measure do
together: the scalar rules, applied to one event after the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa

from meters.aggregators import EMPTY, State, add
from meters.attribution import Attribution
from meters.buckets import bucket_of
from meters.catalog import Catalog, Kind, Meter
from meters.decode import Decoded, decode
from meters.deduplicate import deduplicate
from meters.errors import Rejected
from meters.mapping import FIELDS
from meters.measure import Cells, Measurement
from meters.numbers import SCALE, to_scaled
from meters.periods import Periods
from meters.points import Point
from meters.projection import Projection
from meters.readings import reading_of
from meters.scalars import parse_json
from meters.timestamps import parse_timestamp
from meters.usage import usage_rows
from meters.zones import microseconds
from tests.generators import to_json, world
from tests.oracle import validate

Row = dict[str, Any]
Usage = dict[tuple[str, str, str, str, int], tuple[int, State]]
"""(customer, meter, subscription, group, bucket start) -> (bucket end, state).

Moments are since the start of the bucket, as they are stored.
"""


def meter(aggregation: str = "sum", **given: Any) -> Meter:
    """A meter `m` of the event `e` over the property `x`."""
    value = {} if aggregation == "count" or "expression" in given else {"property": "x"}
    fields = {"id": "m", "event_name": "e", "aggregation": aggregation, **value, **given}
    return Meter.model_validate(fields)


def catalog_of(*meters: Meter, zone: str = "UTC", **sections: Any) -> Catalog:
    """A catalog with one customer, `c`."""
    customers = [{"id": "c", "time_zone": zone}]
    return Catalog.model_validate({"meters": list(meters), "customers": customers, **sections})


def event(number: object = 1, **given: Any) -> Row:
    """An event `e` of the customer `c` as JSON has it."""
    return {
        "event_id": f"event {number}",
        "event_name": "e",
        "external_customer_id": "c",
        "timestamp": "2026-01-31T10:17:33Z",
        "ingested_at": "2026-01-31T11:00:00Z",
        "properties": {},
        **given,
    }


def raw(events: Sequence[Row]) -> pa.Table:
    """The raw columns of events, as a source gives them."""

    def text(entry: Row, field: str) -> object:
        value = entry.get(field)
        return to_json(value) if field == "properties" and isinstance(value, dict) else value

    return pa.table(
        {field: pa.array([text(entry, field) for entry in events], pa.string()) for field in FIELDS}
    )


def decoded(events: Sequence[Row], origin: str = "file") -> Decoded:
    """Events of the tenant `t`, decoded, in rows counted from 1."""
    rows = pa.array(range(1, len(events) + 1), pa.int64())
    return decode(raw(events), "t", origin, rows)


def slim_of(catalog: Catalog, events: Sequence[Row]) -> pl.DataFrame:
    """The slim columns of events."""
    return Projection(catalog).project(decoded(events).events).slim


def seeded(seed: int) -> tuple[Catalog, list[Row]]:
    """A world of `tests.generators`, whose catalog is a model."""
    catalog, events = world(seed)
    return Catalog.model_validate(catalog), events


def measured(
    catalog: Catalog, events: Sequence[Row]
) -> tuple[Measurement, list[Cells], pl.DataFrame]:
    """The cells of deduplicated events, and these events."""
    measurement = Measurement(catalog)
    unique = deduplicate(slim_of(catalog, events)).events
    return measurement, measurement.measure(unique).cells, unique


def stored(measurement: Measurement, cells: Iterable[Cells]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The usage rows and distinct values of cells."""
    made = [usage_rows(measurement, part) for part in cells]
    empty = usage_rows(measurement, _no_cells(measurement)) if measurement.families else None
    parts = [*made, *([empty] if empty else [])]
    return pl.concat([rows for rows, _ in parts]), pl.concat([values for _, values in parts])


def _no_cells(measurement: Measurement) -> Cells:
    events = slim_of(measurement.catalog, [])
    family = measurement.families[0]
    return measurement._cells(measurement._locate(events, family), 0)


def as_usage(rows: pl.DataFrame, values: pl.DataFrame) -> Usage:
    """Usage rows as states by key."""
    assert not values.is_duplicated().any(), "a value twice"
    distinct: dict[tuple[object, ...], set[bytes]] = defaultdict(set)
    for row in values.iter_rows(named=True):
        distinct[_key(row)].add(row["value_hash"])
    usage: Usage = {}
    for row in rows.iter_rows(named=True):
        key = _key(row)
        assert key not in usage, f"two rows for {key}"
        usage[key] = microseconds(row["bucket_end"]), _state(row, frozenset(distinct.pop(key, ())))
    assert not distinct, "values without a row"
    return usage


def _key(row: Row) -> tuple[str, str, str, str, int]:
    return (
        row["external_customer_id"],
        row["meter"],
        row["external_subscription_id"],
        row["group_key"],
        microseconds(row["bucket_start"]),
    )


def _state(row: Row, values: frozenset[bytes]) -> State:
    latest = None
    if row["latest_at"] is not None:
        at, event_id = microseconds(row["latest_at"]), row["latest_id"].encode()
        latest = (at, event_id, to_scaled(row["latest_value"]))
    points = [
        (Point(at["at"], at["item"], at["id"], to_scaled(at["value"])), at["count"])
        for at in row["points"]
    ]
    assert points == sorted(points), "points out of order"
    return State(
        events=row["events"],
        sum=to_scaled(row["sum"]),
        min=None if row["min"] is None else to_scaled(row["min"]),
        max=None if row["max"] is None else to_scaled(row["max"]),
        latest=latest,
        values=values,
        moment=int(row["moment"]) * SCALE + int(row["moment_low"]),
        points=tuple(points),
    )


def since(start: int, state: State) -> State:
    """A state whose moment is since another instant than the epoch."""
    return replace(state, moment=state.moment - state.sum * start)


def plain_usage(catalog: Catalog, events: Iterable[Row]) -> Usage:
    """The usage of events by the scalar rules alone."""
    attribution = Attribution(catalog)
    kinds = {each.id: each.kind for each in catalog.meters}
    usage: Usage = {}
    for entry in first_copies(events):
        customer = catalog.customers_by_id.get(entry["external_customer_id"])
        if customer is None:
            continue
        at = parse_timestamp(entry["timestamp"])
        for each in catalog.meters:
            try:
                found = reading_of(
                    each,
                    event_name=entry["event_name"],
                    event_id=entry["event_id"],
                    timestamp=at,
                    properties=parse_json(to_json(entry["properties"])),  # type: ignore[arg-type]
                )
            except Rejected:
                continue
            if found is None:
                continue
            group, reading = found
            explicit = entry.get("external_subscription_id")
            owner = attribution.subscription_for(customer.id, each.id, at, explicit)
            bucket = bucket_of(at, customer.time_zone, _bounds(catalog, owner, at))
            key = customer.id, each.id, owner or "", group, microseconds(bucket.start)
            _, state = usage.get(key, (0, EMPTY))
            usage[key] = microseconds(bucket.end), add(each.kind, state, reading)
    return {
        key: (end, since(key[4], state) if kinds[key[1]] == "weighted_sum" else state)
        for key, (end, state) in usage.items()
    }


def first_copies(events: Iterable[Row]) -> list[Row]:
    """One copy of each valid event: the one that was ingested first."""
    first: dict[tuple[str, str], Row] = {}
    for entry in events:
        if isinstance(validate(entry), str):
            continue
        key = entry["external_customer_id"], entry["event_id"]
        seen = parse_timestamp(entry["ingested_at"])
        if key not in first or seen < parse_timestamp(first[key]["ingested_at"]):
            first[key] = entry
    return list(first.values())


def _bounds(catalog: Catalog, subscription: str | None, at: datetime) -> list[datetime]:
    if subscription is None:
        return []
    entry = catalog.subscriptions_by_id[subscription]
    zone = catalog.customers_by_id[entry.customer].time_zone
    unit = catalog.plans_by_id[entry.plan].period
    near = timedelta(hours=2)
    return Periods(entry.start, zone, unit, entry.end).bounds(at - near, at + near)


def usage_row(aggregation: Kind, state: State, **given: Any) -> Row:
    """A row of `meters.usage.USAGE` with the fields that the aggregation keeps."""
    from meters.aggregators import FIELDS as KEPT
    from meters.numbers import from_scaled
    from meters.zones import from_microseconds

    at, event_id, latest = state.latest or (None, b"", None)
    full: Row = {
        "events": state.events,
        "sum": from_scaled(state.sum),
        "min": None if state.min is None else from_scaled(state.min),
        "max": None if state.max is None else from_scaled(state.max),
        "latest_at": None if at is None else from_microseconds(at),
        "latest_id": event_id.decode(),
        "latest_value": None if latest is None else from_scaled(latest),
        "moment": None,
        "moment_low": None,
        "points": [
            {**point._asdict(), "value": from_scaled(point.scaled), "count": count}
            for point, count in state.points
        ],
    }
    if aggregation == "weighted_sum":
        moment = since(microseconds(given["bucket_start"]), state).moment
        full["moment"], full["moment_low"] = map(Decimal, divmod(moment, SCALE))
    empty = {"sum": from_scaled(0), "latest_id": "", "moment": 0, "moment_low": 0, "points": []}
    absent: Row = {**dict.fromkeys(full), **empty}
    kept = {name: full[name] if name in KEPT[aggregation] else absent[name] for name in full}
    return {
        "external_customer_id": "c",
        "meter": aggregation,
        "external_subscription_id": "",
        "group_key": "{}",
        "meter_hash": "hash",
        **kept,
        **given,
    }
