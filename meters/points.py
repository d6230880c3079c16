"""Points: readings that are kept one by one, because their order or their spread counts.

    readings --point of each--> bag of points --merge: counts add up--> bag of a bucket

A bag is a multiset, so bags merge in any order and grouping. Three kinds of meters
keep one: levels that are read (a point is an instant and a level), operations on
values (an instant, a value, added or removed), and percentiles, whose points are
numbers rounded to `DIGITS` significant digits. Rounded numbers are few: at most 900
for each power of ten, and whole numbers below 1000 are exact.

The columnar form is a list of `POINT`, sorted, so that equal bags are equal lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import polars as pl

from meters.numbers import PLACES, SCALE, to_scaled

DIGITS = 3
"""Significant digits of the numbers of a percentile: an error of at most 0.5 percent."""

NUMBER = pl.Decimal(38, PLACES)
_SMALLEST = pl.lit(Decimal(1).scaleb(-PLACES), NUMBER)

POINT = pl.Struct(
    {
        "at": pl.Int64(),
        "item": pl.String(),
        "id": pl.String(),
        "value": NUMBER,
        "count": pl.UInt64(),
    }
)
POINTS = pl.List(POINT)
_KEY = ["at", "item", "id", "value"]


class Point(NamedTuple):
    """One kept reading: `at` in microseconds, `scaled` in units of 10**-12.

    `item` is what it is about (the hash of a value in hexadecimal, or nothing), `id` the
    event. Of a percentile, `scaled` is all there is.
    """

    at: int
    item: str
    id: str
    scaled: int


Bag = tuple[tuple[Point, int], ...]
"""Points with their counts, sorted by point."""


def merge_bags(bags: Iterable[Bag]) -> Bag:
    """All points of all bags."""
    filled = [bag for bag in bags if bag]
    if len(filled) < 2:
        return filled[0] if filled else ()
    total: Counter[Point] = Counter()
    for bag in filled:
        for point, count in bag:
            total[point] += count
    return tuple(sorted(total.items()))


def significant(scaled: int) -> int:
    """A number rounded to `DIGITS` significant digits, half away from zero."""
    magnitude = abs(scaled)
    unit: int = 10 ** max(len(str(magnitude)) - DIGITS, 0)
    rounded: int = (magnitude + unit // 2) // unit * unit
    return rounded if scaled >= 0 else -rounded


def significant_columnar(number: pl.Expr) -> pl.Expr:
    """The same for a column of decimals with 12 places."""
    magnitude = number.to_physical().abs()
    digits = magnitude.cast(pl.String).str.len_chars().cast(pl.Int64)
    units = pl.lit(pl.Series([10**power for power in range(38)], dtype=pl.Int128))
    unit = units.gather((digits - DIGITS).clip(lower_bound=0))
    rounded = (magnitude + unit // 2) // unit * unit
    # Whole and fraction apart: a cast from 128 bits would multiply by 10**12 and overflow.
    whole = (rounded // SCALE).cast(pl.Int64).cast(NUMBER)
    fraction = (rounded % SCALE).cast(pl.Int64).cast(NUMBER) * _SMALLEST
    positive = (whole + fraction).cast(NUMBER)
    return pl.when(number < 0).then(pl.lit(0).cast(NUMBER) - positive).otherwise(positive)


def latest_by_item(bag: Bag) -> Mapping[str, Point]:
    """The last point of each item, ties to the greatest id as UTF-8 bytes."""
    last: dict[str, Point] = {}
    for point, _ in bag:
        known = last.get(point.item)
        if known is None or _moment(known) < _moment(point):
            last[point.item] = point
    return last


def in_time(bag: Bag) -> list[Point]:
    """Points in the order in which they hold."""
    return sorted((point for point, _ in bag), key=_moment)


def _moment(point: Point) -> tuple[int, bytes]:
    return point.at, point.id.encode()


def nearest_rank(bag: Bag, percent: Fraction) -> int | None:
    """The smallest number that at least `percent` percent of all numbers do not exceed.

    None where there is no number.
    """
    numbers = sorted((point.scaled, count) for point, count in bag)
    rank = percent * sum(count for _, count in numbers) / 100
    seen = 0
    for scaled, count in numbers:
        seen += count
        if seen >= rank:
            return scaled
    return None


def bags_of(frame: pl.DataFrame, keys: list[str], name: str) -> pl.DataFrame:
    """Rows of points (the fields of `POINT`) as one bag for each group of `keys`."""
    counted = frame.group_by([*keys, *_KEY]).agg(pl.col("count").sum().cast(pl.UInt64))
    fields = [pl.col(field.name).cast(field.dtype) for field in POINT.fields]
    return counted.sort(_KEY).group_by(keys, maintain_order=True).agg(pl.struct(fields).alias(name))


def points_of(frame: pl.DataFrame, keys: list[str], name: str) -> pl.DataFrame:
    """The points of bags in the column `name`, a row each: the inverse of `bags_of`."""
    filled = frame.filter(pl.col(name).list.len() > 0).select(*keys, name)
    return filled.explode(name).unnest(name)


def from_stored_points(points: Iterable[Mapping[str, Any]] | None, item: str | None = None) -> Bag:
    """A bag as it was stored. With `item` every point is about that instead."""
    found = (
        (
            Point(
                point["at"],
                point["item"] if item is None else item,
                point["id"],
                to_scaled(point["value"]),
            ),
            point["count"],
        )
        for point in points or ()
    )
    return merge_bags([((point, count),) for point, count in found])
