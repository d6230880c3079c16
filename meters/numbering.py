"""Numbering: one small integer for all key columns of a group.

    (customer, subscription, bucket_start, group ...) -> 0, 1, 2 ...

Grouping by one integer costs a fraction of grouping by several columns, and its
numbers, without gaps, are places in a column at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from meters.zones import Int64s

_MOST = 1 << 62


def number_groups(frame: pl.DataFrame, keys: Sequence[str]) -> pl.Series:
    """For each row the number (`UInt32`, from 0 without gaps) of its combination of `keys`.

    Key columns are integers without nulls, or strings, where null is a value as well.
    """
    codes, width = np.zeros(frame.height, dtype=np.int64), 1
    for name in keys:
        more, more_width = _codes(frame[name])
        if width * more_width > _MOST:
            codes, width = _dense(codes)
        if width * more_width > _MOST:
            more, more_width = _dense(more)
        codes, width = codes * more_width + more, width * more_width
    return pl.Series(_dense(codes)[0].astype(np.uint32))


def _codes(column: pl.Series) -> tuple[Int64s, int]:
    """A column as integers from 0 on, and how many there may be."""
    if column.dtype == pl.String:
        distinct = column.unique().drop_nulls()
        places = pl.int_range(distinct.len(), dtype=pl.Int64, eager=True)
        found = column.replace_strict(distinct, places, default=None, return_dtype=pl.Int64)
        return found.fill_null(distinct.len()).to_numpy(), distinct.len() + 1
    wide = column.cast(pl.Int64).to_numpy()
    if not len(wide):
        return wide, 1
    low = int(wide.min())
    return wide - low, int(wide.max()) - low + 1


def _dense(codes: Int64s) -> tuple[Int64s, int]:
    distinct, places = np.unique(codes, return_inverse=True)
    return places.astype(np.int64), len(distinct)
