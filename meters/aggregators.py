"""Aggregators: one algebra for every form in which usage is computed.

    readings --add--> state --merge--> state --extract--> value

A `State` is a commutative monoid under `merge` with `EMPTY` as its identity, so
any split, order and grouping of the readings gives the same state. The scalar
form below is the definition. Beside it stands the columnar form (`FIELDS`,
`partial`, `merge`), polars expressions over the same fields, and
`warehouse.queries` holds the SQL form; a property test holds all of them together.

A level (`weighted_sum`) is a sum of changes beside the moment of these, the sum of change
times instant: what it was over any span follows from both (`meters.levels`). What needs
single readings keeps them as a bag of points (`meters.points`), which merges as well.

Numbers are integers in units of 10**-12 (`meters.numbers`). An integer sum is
exact in any order. A columnar sum is a 128-bit integer: one value stays below
10**27 units, so it is exact for 10**11 values, which `MAX_EVENTS` enforces where
sums are merged; ClickHouse keeps 256 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Literal

import polars as pl

from meters.catalog_meters import Kind
from meters.numbers import divide_half_even, from_scaled
from meters.points import (
    NUMBER as NUMBER,
)
from meters.points import (
    Bag,
    Point,
    bags_of,
    merge_bags,
    nearest_rank,
    points_of,
    significant,
    significant_columnar,
)

MAX_EVENTS = 10**11
"""More values than this in one bucket could overflow a 128-bit sum."""

WHOLE = pl.Decimal(38, 0)

_LATEST = ("at", "id", "value")

Field = Literal[
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

FIELDS: dict[Kind, tuple[Field, ...]] = {
    "count": ("events",),
    "sum": ("events", "sum"),
    "avg": ("events", "sum"),
    "min": ("events", "min"),
    "max": ("events", "max"),
    "latest": ("events", "latest_at", "latest_id", "latest_value"),
    "unique_count": ("events",),
    "weighted_sum": ("events", "sum", "moment", "moment_low"),
    "weighted_readings": ("events", "points"),
    "active_count": ("events", "points"),
    "percentile": ("events", "points"),
}
"""The fields of the state that each kind of meter keeps in its columnar form.

`moment` and `moment_low` are the moment of the whole units and of what is below them,
in microseconds since the start of the bucket: together they would not fit 128 bits.
The distinct values of `unique_count` live in a table of their own, one row a value.
"""

OVER_SPANS: frozenset[Kind] = frozenset(("weighted_sum", "weighted_readings", "active_count"))
"""Kinds of meters whose value depends on the span, and on what was before it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event contributes to one meter.

    `at` (microseconds since the epoch) and `event_id` order readings for
    `latest`; `scaled` is the number in units of 10**-12; `value_hash` is the
    128-bit hash of the distinct value. `count` reads none of them. For `active_count`,
    `scaled` is 10**12 where the value is added and 0 where it is removed.
    """

    at: int
    event_id: str
    scaled: int | None = None
    value_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The mergeable usage of one bucket; each kind of meter reads its own fields.

    `events` is the number of readings. `latest` is (at, event_id as UTF-8, scaled).
    `moment` is the sum of `scaled` times `at`, since the epoch.
    """

    events: int = 0
    sum: int = 0
    min: int | None = None
    max: int | None = None
    latest: tuple[int, bytes, int] | None = None
    values: frozenset[bytes] = frozenset()
    moment: int = 0
    points: Bag = ()


EMPTY = State()


def add(aggregation: Kind, state: State, reading: Reading) -> State:
    """`state` with one more reading."""
    return merge(state, _single(aggregation, reading))


def _single(aggregation: Kind, reading: Reading) -> State:
    one = State(events=1)
    if aggregation == "count":
        return one
    if aggregation in ("unique_count", "active_count") and reading.value_hash is None:
        raise ValueError(f"a reading for {aggregation} must have a value_hash (got None)")
    if aggregation == "unique_count":
        return replace(one, values=frozenset((reading.value_hash or b"",)))
    if reading.scaled is None:
        raise ValueError(f"a reading for {aggregation} must have a number (got None)")
    if aggregation in ("weighted_readings", "active_count", "percentile"):
        return replace(one, points=((_point(aggregation, reading, reading.scaled), 1),))
    if aggregation == "weighted_sum":
        return replace(one, sum=reading.scaled, moment=reading.scaled * reading.at)
    if aggregation in ("sum", "avg"):
        return replace(one, sum=reading.scaled)
    if aggregation == "min":
        return replace(one, min=reading.scaled)
    if aggregation == "max":
        return replace(one, max=reading.scaled)
    return replace(one, latest=(reading.at, reading.event_id.encode(), reading.scaled))


def _point(aggregation: Kind, reading: Reading, scaled: int) -> Point:
    if aggregation == "percentile":
        return Point(0, "", "", significant(scaled))
    item = (reading.value_hash or b"").hex() if aggregation == "active_count" else ""
    return Point(reading.at, item, reading.event_id, scaled)


def merge(left: State, right: State) -> State:
    """Both states together; commutative and associative, with `EMPTY` as identity."""
    return State(
        events=left.events + right.events,
        sum=left.sum + right.sum,
        min=_best(min, left.min, right.min),
        max=_best(max, left.max, right.max),
        latest=max((x for x in (left.latest, right.latest) if x is not None), default=None),
        values=left.values | right.values,
        moment=left.moment + right.moment,
        points=merge_bags((left.points, right.points)),
    )


def _best(pick: Callable[[int, int], int], left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return pick(left, right)


def merge_all(states: Iterable[State]) -> State:
    """All states together."""
    total, bags = EMPTY, []
    for state in states:
        # Bags at once: one after the other they would be sorted again and again.
        bags.append(state.points)
        total = merge(total, replace(state, points=()))
    return replace(total, points=merge_bags(bags))


def extract(aggregation: Kind, state: State, *, percent: Fraction | None = None) -> Decimal | None:
    """The value of the meter; None where no reading gives one (an empty max, say).

    An average is divided when it is read: 12 places, half-even. `percent` is the
    percentile's. What was carried and what lasts over a span is read by
    `meters.levels`; raises ValueError for these kinds.
    """
    if aggregation in OVER_SPANS:
        raise ValueError(f"{aggregation} must be read over a span, by meters.levels")
    if aggregation == "percentile":
        if percent is None:
            raise ValueError("a percentile must be read with its percent (got None)")
        found = nearest_rank(state.points, percent)
        return None if found is None else from_scaled(found)
    if aggregation == "count":
        return Decimal(state.events)
    if aggregation == "unique_count":
        return Decimal(len(state.values))
    if aggregation == "sum":
        return from_scaled(state.sum)
    if aggregation == "avg":
        return from_scaled(divide_half_even(state.sum, state.events)) if state.events else None
    if aggregation == "latest":
        return from_scaled(state.latest[2]) if state.latest else None
    bound = state.min if aggregation == "min" else state.max
    return None if bound is None else from_scaled(bound)


def partial(aggregation: Kind, value: str | None, suffix: str) -> list[pl.Expr]:
    """Columnar `add` of a whole group: the state's fields as aggregations.

    Rows carry the value in column `value` (a number as `NUMBER`, a distinct value
    as its hash; null where the event does not count for this meter; None for
    `count`), and for `weighted_sum` `timestamp` and `bucket_start`. Each field is named
    `<field>:<suffix>`. The fields of `latest` come from `add_latest`, since a group's last
    row is found faster than it is sorted, points from `add_points`.
    """
    if value is None:
        return [pl.len().cast(pl.Int64).alias(f"events:{suffix}")]
    column = pl.col(value)
    fields = [column.count().cast(pl.Int64).alias(f"events:{suffix}")]
    if aggregation in ("sum", "avg", "weighted_sum"):
        fields.append(column.sum().alias(f"sum:{suffix}"))
    if aggregation == "weighted_sum":
        offset = (pl.col("timestamp") - pl.col("bucket_start")).cast(pl.Int128)
        whole = column.cast(pl.Int64)
        below = (column - whole.cast(NUMBER)).to_physical()
        moments = {"moment": whole.cast(pl.Int128), "moment_low": below}
        fields += [
            (part * offset).sum().cast(WHOLE).alias(f"{name}:{suffix}")
            for name, part in moments.items()
        ]
    elif aggregation == "min":
        fields.append(column.min().alias(f"min:{suffix}"))
    elif aggregation == "max":
        fields.append(column.max().alias(f"max:{suffix}"))
    return fields


def merge_fields(aggregation: Kind, suffix: str) -> list[pl.Expr]:
    """Columnar `merge` of a whole group of partial states; `latest` and points as in `partial`."""
    merged: list[pl.Expr] = []
    for field in FIELDS[aggregation]:
        column = pl.col(f"{field}:{suffix}")
        if field in ("events", "sum", "moment", "moment_low"):
            merged.append(column.sum())
        elif field == "min":
            merged.append(column.min())
        elif field == "max":
            merged.append(column.max())
    return merged


def add_latest(
    cells: pl.DataFrame, rows: pl.DataFrame, columns: tuple[str, str, str], suffix: str
) -> pl.DataFrame:
    """`cells` (one row a group) with the fields of `latest` added.

    Both have `cell`, the number of the group (`meters.numbering`). `columns` of `rows`
    are the time, the event_id and the value; a row without a value does not count. Of
    equal times the greatest event_id wins, compared as UTF-8 bytes.
    """
    at, event_id, value = columns
    counted = rows.select("cell", *columns).filter(pl.col(value).is_not_null())
    newest = counted.group_by("cell").agg(pl.col(at).max())
    # The newest time of cell n in row n.
    last = newest["cell"].max()
    size = last + 1 if isinstance(last, int) else 0
    times = pl.repeat(None, size, dtype=newest[at].dtype, eager=True)
    times = times.scatter(newest["cell"], newest[at])
    found = counted.filter(counted[at] == times.gather(counted["cell"]))
    if found.height > newest.height:
        found = found.sort(event_id).unique("cell", keep="last", maintain_order=True)
    names = {name: f"latest_{kind}:{suffix}" for name, kind in zip(columns, _LATEST, strict=True)}
    return cells.join(found.rename(names), on="cell", how="left")


def add_points(
    aggregation: Kind,
    cells: pl.DataFrame,
    rows: pl.DataFrame,
    keys: list[str],
    value: str,
    suffix: str,
    operation: str | None = None,
) -> pl.DataFrame:
    """`cells` (one row a group of `keys`) with the bag of points of their rows added.

    `rows` carry `timestamp`, `event_id` and the value, for `active_count` also the column
    `operation` (canonical JSON: null and `"add"` add a value, anything else removes it).
    """
    nothing = pl.lit("")
    one = pl.lit(1).cast(NUMBER)
    fields: dict[str, tuple[pl.Expr, pl.Expr, pl.Expr, pl.Expr]] = {
        "percentile": (pl.lit(0, pl.Int64), nothing, nothing, significant_columnar(pl.col(value))),
        "weighted_readings": (pl.col("timestamp"), nothing, pl.col("event_id"), pl.col(value)),
    }
    if operation is not None:
        added = pl.col(operation).is_null() | (pl.col(operation) == '"add"')
        hashed = pl.col(value).bin.encode("hex")
        number = pl.when(added).then(one).otherwise(one - one).cast(NUMBER)
        fields["active_count"] = (pl.col("timestamp"), hashed, pl.col("event_id"), number)
    names = ("at", "item", "id", "value")
    points = rows.filter(pl.col(value).is_not_null()).select(
        *keys,
        *(field.alias(name) for name, field in zip(names, fields[aggregation], strict=True)),
        pl.lit(1, pl.UInt64).alias("count"),
    )
    return _with_bags(cells, points, keys, f"points:{suffix}")


def merge_points(
    cells: pl.DataFrame, every: pl.DataFrame, keys: list[str], suffix: str
) -> pl.DataFrame:
    """`cells` with the bags of all partial states of their group together."""
    name = f"points:{suffix}"
    return _with_bags(cells, points_of(every, keys, name), keys, name)


def _with_bags(
    cells: pl.DataFrame, points: pl.DataFrame, keys: list[str], name: str
) -> pl.DataFrame:
    bags = bags_of(points, keys, name)
    joined = cells.join(bags, on=keys, how="left", nulls_equal=True)
    return joined.with_columns(pl.col(name).fill_null(pl.lit([], bags.schema[name])))


def check_sums(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """`frame` itself, once no bucket in it holds more than `MAX_EVENTS` readings.

    `columns` count the readings. Raises OverflowError otherwise: a sum may have wrapped.
    """
    for column in columns:
        most = frame[column].max()
        if isinstance(most, int) and most > MAX_EVENTS:
            raise OverflowError(f"a bucket must hold at most {MAX_EVENTS} events (got {most})")
    return frame
