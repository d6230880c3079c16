"""Touched hours: which whole local hours a recomputation must cover.

    touched instants -> local hours -> with all that stored usage connects -> who owns them

A recomputation replaces the usage of whole local hours, so it must see all events in
them. Where the customer's time zone has changed, usage may be stored in buckets of the
old zone that reach over several hours of the new one (hours of +05:45 start at a
quarter past). Replacing such a bucket takes all hours that it overlaps, these may
overlap the next such bucket, and so on: what is connected in this way is one piece,
which is recomputed, or left to the stream, as a whole.

Frames are keyed by `external_customer_id`; instants are UTC. Customers that the zones
do not name have UTC hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from meters.buckets import hours_columnar
from meters.usage import INSTANT

CUSTOMER = "external_customer_id"

SLOT_US = 15 * 60 * 1_000_000
"""Instants are gathered by quarter hours: since 1972 no local hour of any zone starts
within one. Where one does, both hours are touched."""

HOURS = pl.Schema(
    {
        CUSTOMER: pl.String(),
        "hour": INSTANT,
        "hour_end": INSTANT,
        "owned": pl.UInt8(),
    }
)
"""Local hours of customers; `owned` is 1 where the stream owns usage in them."""

_OWNED = pl.col("hour_end").cast(pl.Int64) > pl.col("closed")
"""An hour in which the stream may own a bucket is the stream's, also where a billing
period cuts it and its first part has ended: the parts are recomputed together."""


def with_hours(frame: pl.DataFrame, column: str, zones: Mapping[str, str]) -> pl.DataFrame:
    """Add `hour` and `hour_end`: the whole local hour around the instant in `column`."""
    named = pl.DataFrame(
        {CUSTOMER: list(zones), "zone": list(zones.values())},
        schema={CUSTOMER: pl.String, "zone": pl.String},
    )
    frame = frame.join(named, on=CUSTOMER, how="left", maintain_order="left")
    parts = [frame.clear().with_columns(hour=pl.lit(None, INSTANT), hour_end=pl.lit(None, INSTANT))]
    for (zone,), part in frame.partition_by("zone", as_dict=True).items():
        at = part[column].cast(pl.Int64).to_numpy()
        start, end = hours_columnar(at, str(zone) if zone is not None else "UTC")
        parts.append(
            part.with_columns(
                pl.Series("hour", start).cast(INSTANT), pl.Series("hour_end", end).cast(INSTANT)
            )
        )
    return pl.concat(parts).drop("zone")


def odd_customers(stored: pl.DataFrame, zones: Mapping[str, str]) -> list[str]:
    """Customers with a stored bucket that lies in no single local hour of their zone.

    `stored` has `bucket_start` and `bucket_end` of each customer's usage.
    """
    odd = with_hours(stored, "bucket_start", zones).filter(
        pl.col("bucket_end") > pl.col("hour_end")
    )
    return odd[CUSTOMER].unique(maintain_order=True).to_list()


def touched_hours(
    slots: pl.DataFrame,
    stored: pl.DataFrame,
    zones: Mapping[str, str],
    closed_until: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """The hours (`HOURS`) that must be recomputed together, and who owns them.

    `slots` has the start (`slot`) of each quarter hour with a touched instant, `stored`
    all buckets of the customers of whom `odd_customers` has found any. The stream owns
    usage that ends after its customer's `closed_until` (microseconds).
    """
    ends = (pl.col("slot").cast(pl.Int64) + (SLOT_US - 1)).cast(INSTANT)
    both = pl.concat([slots, slots.with_columns(ends.alias("slot"))])
    hours = with_hours(both, "slot", zones).drop("slot").unique()
    hours = _with_pieces(hours, _pieces(stored, zones))
    hours = _with_closed(hours, closed_until or {})
    owned = _OWNED.fill_null(value=False)
    whole = pl.when(pl.col("piece").is_null()).then(owned).otherwise(owned.any().over("piece"))
    return hours.with_columns(whole.cast(pl.UInt8).alias("owned")).select(HOURS.names())


def owned_events(
    events: pl.DataFrame, zones: Mapping[str, str], closed_until: Mapping[str, int | None]
) -> pl.DataFrame:
    """The events whose whole local hour is not closed yet, with `closed` (`closed_until`).

    A customer without `closed_until` has no owner but whoever asks.
    """
    known = {name: at for name, at in closed_until.items() if at is not None}
    concerned = _with_closed(events, known).filter(pl.col("closed").is_not_null())
    return with_hours(concerned, "timestamp", zones).filter(_OWNED)


def first_owned_hour(closed_until: Iterable[int], zones: Iterable[str]) -> int:
    """The latest instant before which no hour is owned in any of the zones (microseconds)."""
    at = np.array([*closed_until], dtype=np.int64)
    return min(int(hours_columnar(at, zone)[0].min()) for zone in {"UTC", *zones})


def kept_marks(
    marks: pl.DataFrame, owned: pl.DataFrame, split: pl.DataFrame, zones: Mapping[str, str]
) -> pl.DataFrame:
    """The marks that stay: of hours in `owned`, and of identities in `split`.

    An identity in `split` has copies in hours of both owners.
    """
    inside = with_hours(marks, "bucket_start", zones).join(
        owned.select(CUSTOMER, "hour"), on=[CUSTOMER, "hour"], how="semi"
    )
    identity = [CUSTOMER, "identity_hash"]
    torn = marks.join(split.select(identity), on=identity, how="semi")
    return pl.concat([inside.select(marks.columns), torn]).unique()


def _with_closed(frame: pl.DataFrame, closed_until: Mapping[str, int]) -> pl.DataFrame:
    closed = pl.DataFrame(
        {CUSTOMER: list(closed_until), "closed": list(closed_until.values())},
        schema={CUSTOMER: pl.String, "closed": pl.Int64},
    )
    return frame.join(closed, on=CUSTOMER, how="left")


def _with_pieces(hours: pl.DataFrame, pieces: pl.DataFrame) -> pl.DataFrame:
    """Add the pieces that hold any of the hours; `piece` is null for an hour of its own."""
    key = [CUSTOMER, "hour"]
    found = hours.join(pieces.select(*key, "piece"), on=key, how="left")
    together = pieces.join(found.select("piece").unique(), on="piece", how="semi")
    alone = found.filter(pl.col("piece").is_null())
    return pl.concat([alone, together.select(alone.columns)])


def _pieces(stored: pl.DataFrame, zones: Mapping[str, str]) -> pl.DataFrame:
    """All hours that stored buckets overlap, each with the number of its `piece`."""
    last = (pl.col("bucket_end").cast(pl.Int64) - 1).cast(INSTANT)
    spans = with_hours(stored, "bucket_start", zones).select(
        CUSTOMER, last.alias("last"), pl.col("hour").alias("start")
    )
    spans = (
        with_hours(spans, "last", zones)
        .select(CUSTOMER, "start", pl.col("hour_end").alias("end"))
        .unique()
        .sort(CUSTOMER, "start", "end")
        .with_columns(pl.col("end").cum_max().shift(1).over(CUSTOMER).alias("reach"))
        .with_columns(
            (pl.col("reach").is_null() | (pl.col("start") >= pl.col("reach"))).alias("new")
        )
        .with_columns(pl.col("new").cum_sum().alias("piece"))
        .group_by(CUSTOMER, "piece")
        .agg(pl.col("start").min(), pl.col("end").max())
    )
    steps = pl.int_ranges(pl.col("start").cast(pl.Int64), pl.col("end").cast(pl.Int64), SLOT_US)
    at = spans.select(CUSTOMER, "piece", steps.alias("at")).explode("at", empty_as_null=False)
    located = with_hours(at.with_columns(pl.col("at").cast(INSTANT)), "at", zones)
    return located.drop("at").unique()
