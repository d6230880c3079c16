"""Revisions: what must be written so that stored usage equals recomputed usage.

The row of the highest (revision, events) of a key wins. A recomputation writes above
every revision of the bucket, and only what changed: equal rows stay as they are, a
key that no longer results gets a tombstone (`events` 0).
"""

from __future__ import annotations

import polars as pl

from meters.usage import KEY, STATE, USAGE, USAGE_VALUES, absent

BUCKET = ["external_customer_id", "bucket_start"]
_COMPARED = ["bucket_end", "meter_hash", *STATE]


def first_revision(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows or values as revision 1, for buckets that never had any."""
    return frame.with_columns(pl.lit(1, pl.UInt32).alias("revision"))


def changes(
    rows: pl.DataFrame,
    values: pl.DataFrame,
    stored: pl.DataFrame,
    stored_values: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows and values to write, with their `revision`.

    `rows` (`USAGE`) and `values` (`USAGE_VALUES`) are the recomputed truth of some
    buckets. `stored` has the winning row of every key in these buckets, tombstones
    included, with `revision`; `stored_values` all stored values with `revision`, also
    those that no row refers to (left by a run that was killed).
    """
    current = stored.join(
        _digests(stored_values, with_revision=True), on=[*KEY, "revision"], how="left"
    )
    fresh = rows.join(_digests(values), on=KEY, how="left")
    both = fresh.join(current, on=KEY, how="left", suffix="_stored")
    same = pl.lit(True)
    for name in [*_COMPARED, "digest"]:
        same &= pl.col(name).eq_missing(pl.col(f"{name}_stored"))
    changed = both.filter(~same).select(USAGE.names())
    gone = current.filter(pl.col("events") > 0).join(rows, on=KEY, how="anti")
    written = pl.concat([changed, _tombstones(gone)])
    revisions = (
        pl.concat([stored.select(*BUCKET, "revision"), stored_values.select(*BUCKET, "revision")])
        .group_by(BUCKET)
        .agg(pl.col("revision").max())
    )
    written = written.join(revisions, on=BUCKET, how="left").with_columns(
        (pl.col("revision").fill_null(0) + 1).cast(pl.UInt32)
    )
    new_values = values.join(written.select(*KEY, "revision"), on=KEY, how="inner")
    return written, new_values.select(*USAGE_VALUES.names(), "revision")


def _digests(values: pl.DataFrame, *, with_revision: bool = False) -> pl.DataFrame:
    """One column that is equal exactly where the sets of values are equal."""
    keys = [*KEY, "revision"] if with_revision else KEY
    return values.unique().group_by(keys).agg(pl.col("value_hash").sort().alias("digest"))


def _tombstones(rows: pl.DataFrame) -> pl.DataFrame:
    empty = {name: pl.lit(0) if name == "events" else absent(name) for name in STATE}
    return rows.with_columns(
        expression.cast(USAGE[name]).alias(name) for name, expression in empty.items()
    ).select([pl.col(name).cast(dtype) for name, dtype in USAGE.items()])
