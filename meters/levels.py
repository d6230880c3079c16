"""Values over a span: levels, and what recurring meters carry into it.

    state before the span, state within it --value_over--> the value of the span

A level is integrated over time: what it was when the span began lasts to the end, and
each change lasts from its instant to the end. So the area below it is

    level before * length + changes * end - moment of the changes

and the value is the area divided by the length of the whole that the span is part of:
the mean level, of which parts of a period have their shares. What was before is read
from earlier buckets whenever a value is read and never stored, so one late event
changes one bucket.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from meters.aggregators import EMPTY, State, extract, merge
from meters.catalog_meters import Meter
from meters.numbers import from_scaled
from meters.points import in_time, latest_by_item


@dataclass(frozen=True, slots=True)
class Over:
    """A half-open span in microseconds, and what was before it.

    `length` is the duration that a level is divided by: the span's own, or that of the
    period that it is part of. `before` is the state of all that is carried into it.
    """

    start: int
    end: int
    length: int
    before: State = EMPTY


def value_over(meter: Meter, state: State, over: Over) -> Decimal | None:
    """The value of a meter over a span, at 12 places, half-even where it is divided.

    `state` is of the readings in the span. A meter that carries nothing has the value
    that it has anywhere.
    """
    if meter.aggregation == "weighted_sum":
        return mean(meter, ((state, over),))
    if meter.kind == "active_count":
        every = merge(over.before, state)
        last = latest_by_item(every.points).values()
        return Decimal(sum(point.scaled > 0 for point in last))
    if meter.recurring:
        state = merge(over.before, state)
    return extract(meter.kind, state, percent=meter.percent)


def mean(meter: Meter, parts: Iterable[tuple[State, Over]]) -> Decimal:
    """The mean level over spans that make one whole, each with its own beginning."""
    total = Fraction(0)
    for state, over in parts:
        total += Fraction(area(meter, state, over), over.length)
    return from_scaled(round(total))


def area(meter: Meter, state: State, over: Over) -> int:
    """The level integrated over the span, in units of 10**-12 times microseconds."""
    if meter.kind == "weighted_sum":
        lasting = over.before.sum * (over.end - over.start)
        return lasting + state.sum * over.end - state.moment
    level = {item: point.scaled for item, point in latest_by_item(over.before.points).items()}
    since = dict.fromkeys(level, over.start)
    total = 0
    for point in in_time(state.points):
        total += level.get(point.item, 0) * (point.at - since.get(point.item, over.start))
        level[point.item], since[point.item] = point.scaled, point.at
    return total + sum(scaled * (over.end - since[item]) for item, scaled in level.items())


def settled(state: State) -> State:
    """The state as it is carried on: of all points about one thing the last alone."""
    last = latest_by_item(state.points).values()
    return replace(state, points=tuple(sorted((point, 1) for point in last)))


def about(state: State, item: str) -> State:
    """The state with all its points about one thing: a level that is read by group."""
    points = tuple((point._replace(item=item), count) for point, count in state.points)
    return replace(state, points=tuple(sorted(points)))
