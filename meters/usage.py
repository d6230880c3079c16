"""Usage rows: cells as they are stored, one row for each meter and bucket.

The key is (tenant, meter, customer, subscription, group, bucket_start). Fields of the
state that a meter does not keep are null (or 0 for `sum`). The distinct values of
`unique_count` are rows of their own, with the same key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
import pyarrow as pa

from meters.aggregators import FIELDS, NUMBER, WHOLE, State
from meters.catalog import Catalog, Meter
from meters.catalog_file import meter_hash
from meters.measure import Cells
from meters.numbers import PLACES, SCALE, to_scaled
from meters.points import POINTS, from_stored_points
from meters.versions import Measuring
from meters.zones import microseconds

KEY = [
    "external_customer_id",
    "meter",
    "external_subscription_id",
    "group_key",
    "bucket_start",
]
"""The key of a usage row within its tenant; '' stands for no subscription."""

STATE = [
    "events",
    "sum",
    "min",
    "max",
    "latest_at",
    "latest_id",
    "latest_value",
    "moment",
    "moment_low",
    "points",
]
INSTANT = pl.Datetime("us", "UTC")

USAGE = pl.Schema(
    {
        "external_customer_id": pl.String(),
        "meter": pl.String(),
        "external_subscription_id": pl.String(),
        "group_key": pl.String(),
        "bucket_start": INSTANT,
        "bucket_end": INSTANT,
        "events": pl.Int64(),
        "sum": NUMBER,
        "min": NUMBER,
        "max": NUMBER,
        "latest_at": INSTANT,
        "latest_id": pl.String(),
        "latest_value": NUMBER,
        "moment": WHOLE,
        "moment_low": WHOLE,
        "points": POINTS,
        "meter_hash": pl.String(),
    }
)
"""One row a meter and bucket, before tenant and revision are added."""

USAGE_VALUES = pl.Schema({**{name: USAGE[name] for name in KEY}, "value_hash": pl.Binary()})
"""One row a distinct value of `unique_count`."""


def from_stored(table: pa.Table) -> pl.DataFrame:
    """Rows as the warehouse gives them, their 256-bit sums in 128 bits.

    Raises pyarrow.ArrowInvalid where a sum does not fit; more than
    `meters.aggregators.MAX_EVENTS` events would be needed for that.
    """
    if "sum" in table.column_names:
        index = table.schema.get_field_index("sum")
        narrow = table.column("sum").cast(pa.decimal128(38, PLACES))
        table = table.set_column(index, "sum", narrow)
    return pl.DataFrame(pl.from_arrow(table))


def usage_rows(measuring: Measuring, cells: Cells) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The stored form of merged cells: rows of `USAGE` and of `USAGE_VALUES`.

    Only cells with at least one counted event give a row.
    """
    measurement, cells = measuring.of(cells)
    catalog = measurement.catalog
    family = measurement.families[cells.family]
    keyed = _keys(catalog, cells.rows, family.groups)
    rows = [_rows_of(keyed, catalog.meters[index], index) for index in family.members]
    values = USAGE_VALUES.to_frame()
    if cells.values is not None and cells.values.height:
        ids = pl.Series([meter.id for meter in catalog.meters], dtype=pl.String)
        values = (
            _keys(catalog, cells.values, family.groups)
            .with_columns(ids.gather(cells.values["meter"]).alias("meter"))
            .select(USAGE_VALUES.names())
        )
    return pl.concat(rows), values


def _keys(catalog: Catalog, rows: pl.DataFrame, groups: list[str]) -> pl.DataFrame:
    customers = pl.Series([c.id for c in catalog.customers], dtype=pl.String)
    subscriptions = pl.Series([*(s.id for s in catalog.subscriptions), ""], dtype=pl.String)
    last = subscriptions.len() - 1
    owner = pl.select(
        pl.when(rows["subscription"] < 0).then(last).otherwise(rows["subscription"])
    ).to_series()
    return rows.with_columns(
        customers.gather(rows["customer"]).alias("external_customer_id"),
        subscriptions.gather(owner).alias("external_subscription_id"),
        group_key(groups).alias("group_key"),
        pl.col("bucket_start").cast(INSTANT),
    )


def state_of(row: Mapping[str, Any]) -> State:
    """The state of one stored row, or of a merged one, without distinct values.

    Fields that the row does not have are those of an empty state. A merged row has in
    `shift` what its buckets' moments lack.
    """

    def scaled(name: str) -> int | None:
        value = row.get(name)
        return None if value is None else to_scaled(value)

    total, latest = scaled("sum") or 0, scaled("latest_value")
    moment = int(row.get("moment") or 0) * SCALE + int(row.get("moment_low") or 0)
    if row.get("bucket_start") is not None:
        moment += total * microseconds(row["bucket_start"])
    moment += scaled("shift") or 0
    return State(
        events=row["events"],
        sum=total,
        min=scaled("min"),
        max=scaled("max"),
        latest=(
            None
            if latest is None
            else (microseconds(row["latest_at"]), row["latest_id"].encode(), latest)
        ),
        moment=moment,
        points=from_stored_points(row.get("points")),
    )


def group_key(groups: list[str]) -> pl.Expr:
    """The canonical JSON object of the group columns `j:<name>`, keys sorted."""
    parts: list[pl.Expr] = [pl.lit("{")]
    for position, name in enumerate(sorted(groups)):
        label = ("," if position else "") + json.dumps(name, ensure_ascii=False) + ":"
        parts += [pl.lit(label), pl.col(f"j:{name}").fill_null("null")]
    return pl.concat_str([*parts, pl.lit("}")])


def _rows_of(keyed: pl.DataFrame, meter: Meter, index: int) -> pl.DataFrame:
    kept = FIELDS[meter.kind]
    fields = [
        (pl.col(f"{name}:{index}") if name in kept else absent(name)).alias(name) for name in STATE
    ]
    return (
        keyed.filter(pl.col(f"events:{index}") > 0)
        .with_columns(
            pl.lit(meter.id).alias("meter"),
            pl.lit(meter_hash(meter)).alias("meter_hash"),
            pl.col("bucket_end").cast(INSTANT),
            *fields,
        )
        .select([pl.col(name).cast(dtype) for name, dtype in USAGE.items()])
    )


def absent(name: str) -> pl.Expr:
    """What stands in a field of the state that a row does not keep."""
    if name in ("sum", "moment", "moment_low"):
        return pl.lit(0)
    if name == "points":
        return pl.lit([], POINTS)
    return pl.lit("") if name == "latest_id" else pl.lit(None)
