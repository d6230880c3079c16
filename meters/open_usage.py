"""Open usage: the accumulators of the buckets that may still grow.

    partial cells --add--> merged cells that changed
                  --close--> buckets that are over are let go

Cells are kept by family and by the UTC hour in which their bucket starts, so that new
events cost the size of the hours that they fall into, not of all open buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from meters.buckets import HOUR_US
from meters.measure import CELL, Cells, Measurement

_HOUR = "hour"


class OpenUsage:
    """The merged cells of open buckets under one catalog."""

    def __init__(self, measurement: Measurement) -> None:
        self._measurement = measurement
        self._hours: dict[tuple[int, int], pl.DataFrame] = {}
        self._height = 0

    def __len__(self) -> int:
        """How many cells are open."""
        return self._height

    def add(self, parts: Iterable[Cells]) -> list[Cells]:
        """Merge partial cells in; returns the merged form of every cell that changed.

        The changed cells carry the distinct values of the parts, and no others.
        """
        by_family: dict[int, list[Cells]] = {}
        for part in parts:
            by_family.setdefault(part.family, []).append(part)
        return [self._add(family, found) for family, found in by_family.items()]

    def _add(self, family: int, parts: list[Cells]) -> Cells:
        fresh = self._measurement.merge(parts)
        hours = fresh.rows.select(_hour_of()).to_series().unique().to_list()
        known = [frame for hour in hours if (frame := self._hours.get((family, hour))) is not None]
        if not known:
            self._put(family, fresh.rows)
            return fresh
        stored = [Cells(family, frame, None) for frame in known]
        merged = self._measurement.merge([*stored, Cells(family, fresh.rows, None)])
        self._put(family, merged.rows)
        keys = [*CELL, *self._measurement.families[family].columns]
        changed = merged.rows.join(fresh.rows.select(keys), on=keys, how="semi", nulls_equal=True)
        return Cells(family, changed, fresh.values)

    def _put(self, family: int, rows: pl.DataFrame) -> None:
        located = rows.with_columns(_hour_of())
        for (hour,), frame in located.partition_by(_HOUR, as_dict=True, include_key=False).items():
            before = self._hours.get((family, hour))
            self._height += frame.height - (0 if before is None else before.height)
            self._hours[family, hour] = frame

    def close(self, until: int) -> int:
        """Let go of hours in which every bucket is over by `until`; returns the cells.

        A bucket lasts at most an hour, so those that start in an UTC hour have ended
        when the next one has.
        """
        over = [key for key in self._hours if (key[1] + 2) * HOUR_US <= until]
        gone = sum(self._hours.pop(key).height for key in over)
        self._height -= gone
        return gone

    def cells(self) -> Iterator[Cells]:
        """All open cells, one part a family, without distinct values."""
        families: dict[int, list[pl.DataFrame]] = {}
        for (family, _), frame in sorted(self._hours.items(), key=lambda entry: entry[0]):
            families.setdefault(family, []).append(frame)
        for family, frames in families.items():
            yield Cells(family, pl.concat(frames), None)


def _hour_of() -> pl.Expr:
    return (pl.col("bucket_start") // HOUR_US).alias(_HOUR)
