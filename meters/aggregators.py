"""Aggregators: one algebra for every form in which usage is computed.

    readings --add--> state --merge--> state --extract--> value

A `State` is a commutative monoid under `merge` with `EMPTY` as its identity, so
any split, order and grouping of the readings gives the same state. The scalar
form below is the definition. Beside it stands the columnar form (`FIELDS`,
`partial`, `merge`), polars expressions over the same fields, and
`warehouse.queries` holds the SQL form; a property test holds all of them together.

Numbers are integers in units of 10**-12 (`meters.numbers`). An integer sum is
exact in any order. A columnar sum is a 128-bit integer: one value stays below
10**27 units, so it is exact for 10**11 values, which `MAX_EVENTS` enforces where
sums are merged; ClickHouse keeps 256 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

import polars as pl

from meters.catalog import Aggregation
from meters.numbers import PLACES, divide_half_even, from_scaled

MAX_EVENTS = 10**11
"""More values than this in one bucket could overflow a 128-bit sum."""

NUMBER = pl.Decimal(38, PLACES)

Field = Literal["events", "sum", "min", "max", "latest_at", "latest_id", "latest_value"]

FIELDS: dict[Aggregation, tuple[Field, ...]] = {
    "count": ("events",),
    "sum": ("events", "sum"),
    "avg": ("events", "sum"),
    "min": ("events", "min"),
    "max": ("events", "max"),
    "latest": ("events", "latest_at", "latest_id", "latest_value"),
    "unique_count": ("events",),
}
"""The fields of the state that each aggregation keeps in its columnar form.

The distinct values of `unique_count` live in a table of their own, one row a value.
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one event contributes to one meter.

    `at` (microseconds since the epoch) and `event_id` order readings for
    `latest`; `scaled` is the number in units of 10**-12; `value_hash` is the
    128-bit hash of the distinct value. `count` reads none of them.
    """

    at: int
    event_id: str
    scaled: int | None = None
    value_hash: bytes | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The mergeable usage of one bucket; each aggregation reads its own fields.

    `events` is the number of readings. `latest` is (at, event_id as UTF-8, scaled).
    """

    events: int = 0
    sum: int = 0
    min: int | None = None
    max: int | None = None
    latest: tuple[int, bytes, int] | None = None
    values: frozenset[bytes] = frozenset()


EMPTY = State()


def add(aggregation: Aggregation, state: State, reading: Reading) -> State:
    """`state` with one more reading."""
    return merge(state, _single(aggregation, reading))


def _single(aggregation: Aggregation, reading: Reading) -> State:
    one = State(events=1)
    if aggregation == "count":
        return one
    if aggregation == "unique_count":
        if reading.value_hash is None:
            raise ValueError("a reading for unique_count must have a value_hash (got None)")
        return replace(one, values=frozenset((reading.value_hash,)))
    if reading.scaled is None:
        raise ValueError(f"a reading for {aggregation} must have a number (got None)")
    if aggregation in ("sum", "avg"):
        return replace(one, sum=reading.scaled)
    if aggregation == "min":
        return replace(one, min=reading.scaled)
    if aggregation == "max":
        return replace(one, max=reading.scaled)
    return replace(one, latest=(reading.at, reading.event_id.encode(), reading.scaled))


def merge(left: State, right: State) -> State:
    """Both states together; commutative and associative, with `EMPTY` as identity."""
    return State(
        events=left.events + right.events,
        sum=left.sum + right.sum,
        min=_best(min, left.min, right.min),
        max=_best(max, left.max, right.max),
        latest=max((x for x in (left.latest, right.latest) if x is not None), default=None),
        values=left.values | right.values,
    )


def _best(pick: Callable[[int, int], int], left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return pick(left, right)


def merge_all(states: Iterable[State]) -> State:
    """All states together."""
    total = EMPTY
    for state in states:
        total = merge(total, state)
    return total


def extract(aggregation: Aggregation, state: State) -> Decimal | None:
    """The value of the meter; None where no reading gives one (an empty max, say).

    An average is divided when it is read: 12 places, half-even.
    """
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


def partial(aggregation: Aggregation, value: str | None, suffix: str) -> list[pl.Expr]:
    """Columnar `add` of a whole group: the state's fields as aggregations.

    Rows carry the value in column `value` (a number as `NUMBER`, a distinct value
    as its hash; null where the event does not count for this meter; None for
    `count`). Each field is named `<field>:<suffix>`. The fields of `latest` come from
    `add_latest`, since a group's last row is found faster than it is sorted.
    """
    if value is None:
        return [pl.len().cast(pl.Int64).alias(f"events:{suffix}")]
    column = pl.col(value)
    fields = [column.count().cast(pl.Int64).alias(f"events:{suffix}")]
    if aggregation in ("sum", "avg"):
        fields.append(column.sum().alias(f"sum:{suffix}"))
    elif aggregation == "min":
        fields.append(column.min().alias(f"min:{suffix}"))
    elif aggregation == "max":
        fields.append(column.max().alias(f"max:{suffix}"))
    return fields


def merge_fields(aggregation: Aggregation, suffix: str) -> list[pl.Expr]:
    """Columnar `merge` of a whole group of partial states; `latest` as in `partial`."""
    merged: list[pl.Expr] = []
    for field in FIELDS[aggregation]:
        column = pl.col(f"{field}:{suffix}")
        if field in ("events", "sum"):
            merged.append(column.sum())
        elif field == "min":
            merged.append(column.min())
        elif field == "max":
            merged.append(column.max())
    return merged


def add_latest(
    cells: pl.DataFrame,
    rows: pl.DataFrame,
    keys: list[str],
    columns: tuple[str, str, str],
    suffix: str,
) -> pl.DataFrame:
    """`cells` (one row a group of `keys`) with the fields of `latest` added.

    `columns` of `rows` are the time, the event_id and the value; a row without a value
    does not count. Of equal times the greatest event_id wins, compared as UTF-8 bytes.
    """
    at, event_id, value = columns
    names = [f"{field}:{suffix}" for field in ("latest_at", "latest_id", "latest_value")]
    counted = rows.filter(pl.col(value).is_not_null()).with_row_index("row")
    time = pl.col(at)
    last = counted.group_by(keys).agg(
        time.max().alias("last"),
        pl.col("row").get(time.arg_max()),
        (time == time.max()).sum().alias("ties"),
    )
    chosen = counted.select(event_id, value)[last["row"]]
    found = last.with_columns(
        pl.col("last").alias(names[0]),
        chosen[event_id].alias(names[1]),
        chosen[value].alias(names[2]),
    )
    if last["ties"].max() not in (None, 1):
        tied = found.filter(pl.col("ties") > 1)
        best = (
            counted.join(
                tied.select(*keys, pl.col("last").alias(at)), on=[*keys, at], nulls_equal=True
            )
            .sort(event_id)
            .group_by(keys, maintain_order=True)
            .agg(pl.col(event_id).last().alias(names[1]), pl.col(value).last().alias(names[2]))
        )
        resolved = tied.drop(names[1:]).join(best, on=keys, nulls_equal=True)
        found = pl.concat([found.filter(pl.col("ties") == 1), resolved.select(found.columns)])
    return cells.join(found.select(*keys, *names), on=keys, how="left", nulls_equal=True)


def check_sums(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """`frame` itself, once no bucket in it holds more than `MAX_EVENTS` readings.

    `columns` count the readings. Raises OverflowError otherwise: a sum may have wrapped.
    """
    for column in columns:
        most = frame[column].max()
        if isinstance(most, int) and most > MAX_EVENTS:
            raise OverflowError(f"a bucket must hold at most {MAX_EVENTS} events (got {most})")
    return frame
