"""Where stored usage is not what the raw events say.

The states are compared and not only the values, since buckets are merged to longer spans:
two averages may be equal today and weigh differently in a month. A meter whose
definition was written otherwise, with the same results, makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from meters.aggregators import State, extract
from meters.catalog import Meter
from meters.numbers import plain, to_scaled
from meters.revisions import changes
from meters.scalars import parse_json
from meters.timestamps import format_instant
from meters.usage import KEY, STATE

Difference = dict[str, object]
"""`customer`, `subscription`, `meter`, `start`, `end`, `group` of a bucket, and what is `stored`
and what the `raw` events give, with `stored_events` and `raw_events`; null and 0: nothing."""


def differences(
    meters: Mapping[str, Meter],
    rows: pl.DataFrame,
    values: pl.DataFrame,
    stored: pl.DataFrame,
    stored_values: pl.DataFrame,
) -> Iterator[Difference]:
    """Every bucket whose stored usage is not the recomputed one; frames as of `changes`."""
    unnamed = pl.lit("").alias("meter_hash")
    changed, changed_values = changes(
        rows.with_columns(unnamed), values, stored.with_columns(unnamed), stored_values
    )
    if changed.is_empty():
        return
    revision = pl.col("revision")
    current = stored.select(*KEY, *STATE, "bucket_end", revision.alias("stored_revision"))
    known = _counted(stored_values, revision.alias("stored_revision"))
    both = (
        changed.join(_counted(changed_values), on=KEY, how="left")
        .join(current, on=KEY, how="left", suffix="_stored")
        .join(known, on=[*KEY, "stored_revision"], how="left", suffix="_stored")
        .sort(KEY)
    )
    for row in both.iter_rows(named=True):
        meter = meters[row["meter"]]
        yield {
            "customer": row["external_customer_id"],
            "subscription": row["external_subscription_id"] or None,
            "meter": meter.id,
            "start": format_instant(row["bucket_start"]),
            "end": format_instant(row["bucket_end"]),
            "group": parse_json(row["group_key"]),
            "stored": _value(meter, row, "_stored"),
            "stored_events": row["events_stored"] or 0,
            "raw": _value(meter, row, ""),
            "raw_events": row["events"],
        }


def _counted(values: pl.DataFrame, *more: pl.Expr) -> pl.DataFrame:
    keyed = values.select(*KEY, "value_hash", *more).unique()
    keys = [name for name in keyed.columns if name != "value_hash"]
    return keyed.group_by(keys).agg(pl.len().alias("distinct"))


def _value(meter: Meter, row: Mapping[str, Any], suffix: str) -> str | None:
    events = row[f"events{suffix}"]
    if not events:
        return None
    if meter.aggregation == "unique_count":
        return str(row[f"distinct{suffix}"] or 0)

    def scaled(name: str) -> int | None:
        value = row[f"{name}{suffix}"]
        return None if value is None else to_scaled(value)

    latest = scaled("latest_value")
    at, name = row[f"latest_at{suffix}"], row[f"latest_id{suffix}"]
    state = State(
        events=events,
        sum=scaled("sum") or 0,
        min=scaled("min"),
        max=scaled("max"),
        latest=None if latest is None else (at, name.encode(), latest),
    )
    value = extract(meter.aggregation, state)
    return None if value is None else plain(value)
