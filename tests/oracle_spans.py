"""The oracle's answer for meters that look beyond the span they are asked for.

Levels over time, values that are added and removed, percentiles, and what recurring
meters carry: by walking through all events of a key in the order of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

from tests.oracle_times import TICK

Row = dict[str, Any]
Item = tuple[datetime, bytes, Any, Any, Any]
"""Time, event id, value, group, and the operation on the value."""
Span = tuple[datetime, datetime]
PLACES = 10**12


def looks_beyond(meter: Row) -> bool:
    """Whether a meter is one of these."""
    names = ("operation_property", "recurring")
    special = ("weighted_sum", "percentile")
    return meter["aggregation"] in special or any(meter.get(name) for name in names)


def value_of(
    meter: Row,
    items: Iterable[Item],
    span: Span,
    periods: Callable[[datetime, datetime], Sequence[Span]],
    length: Span,
) -> Fraction:
    """The value over a span; `length` is what a level is divided by."""
    start, end = span
    found = sorted(items)
    if meter["aggregation"] == "percentile":
        return _percentile([item[2] for item in found if start <= item[0] < end], meter)
    if meter["aggregation"] == "weighted_sum":
        parts = [(start, end, None)]
        if not meter.get("recurring"):
            parts = [(max(a, start), min(b, end), a) for a, b in periods(start, end)]
        area = sum((_area(meter, found, a, b, since) for a, b, since in parts), Fraction(0))
        whole = (length[1] - length[0]) // TICK
        return Fraction(round(area / whole * PLACES), PLACES)
    since = None
    if not meter.get("recurring"):
        since = periods(start, end)[-1][0]
    seen = [item for item in found if item[0] < end and (since is None or item[0] >= since)]
    if meter["aggregation"] == "sum":
        return sum((item[2] for item in seen), Fraction(0))
    if "operation_property" not in meter:
        return Fraction(len({item[2] for item in seen}))
    active = {}
    for item in seen:
        active[item[2]] = item[4] != "remove"
    return Fraction(sum(active.values()))


def _area(
    meter: Row, items: list[Item], start: datetime, end: datetime, since: datetime | None
) -> Fraction:
    """The level times the ticks that it lasts, walking from event to event."""
    levels: dict[Any, Fraction] = {}
    area, at = Fraction(0), start
    for moment, _, value, group, _ in items:
        if moment >= end or (since is not None and moment < since):
            continue
        if moment > at:
            area += sum(levels.values()) * ((moment - at) // TICK)
            at = moment
        before = Fraction(0) if meter.get("level") == "readings" else levels.get(group, Fraction(0))
        levels[group] = before + value
    return area + sum(levels.values()) * ((end - at) // TICK)


def _percentile(values: list[Fraction], meter: Row) -> Fraction:
    numbers = sorted(_three_digits(value) for value in values)
    rank = math.ceil(Fraction(meter["percentile"]) * len(numbers) / 100)
    return numbers[rank - 1]


def _three_digits(value: Fraction) -> Fraction:
    scaled = Decimal(int(value * PLACES))
    rounded = Context(prec=3, rounding=ROUND_HALF_UP).plus(scaled)
    return Fraction(round(rounded)) / PLACES
