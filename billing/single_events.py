"""Prices that are taken of single events: bounds for each, free ones, prices on events.

    events of a period in the order (timestamp, event_id) -> steps of the amount

The order decides which events are free. It is that of the effective events: each
identity once, whatever the order in which copies arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from billing.steps import Priced, Step
from meters.catalog_prices import DynamicPrice, PercentagePrice

_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Single:
    """One effective event of a meter.

    `value` is its reading (1 for `count`), `prices` what it says that it costs, by
    property (without those that are no number), `group` canonical JSON over the
    meter's `group_by`. Of a meter that counts values, `item` is the value (its hash) and
    `value` 1 where it is added, 0 where it is removed.
    """

    at: datetime
    event_id: str
    value: Decimal
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    group: str = "{}"
    item: str = ""


def in_order(singles: Iterable[Single]) -> list[Single]:
    """Events as they count: by time, ties by id as UTF-8 bytes."""
    return sorted(singles, key=lambda single: (single.at, single.event_id.encode()))


def price_percentage_events(price: PercentagePrice, singles: Sequence[Single]) -> Priced:
    """A percentage of each event, with what is free, fixed amounts and bounds.

    An event is free while the events so far, with this one, exceed neither
    `free_events` nor `free_units`; where `free_units` end within an event, the rest
    of it is charged. One that is not free costs its percentage plus `fixed_amount`,
    within `minimum_per_event` and `maximum_per_event`. A negative value (a refund)
    gives back its percentage alone; the whole is never below 0.
    """
    share = Fraction(price.rate) / 100
    free_units = Fraction(price.free_units)
    total = base = by_bounds = _ZERO
    charged = bounded = 0
    free = bool(price.free_events or price.free_units)
    for index, single in enumerate(singles, start=1):
        value = Fraction(single.value)
        before, total = total, total + value
        free = free and not (price.free_events and index > price.free_events)
        if free and price.free_units and total > free_units:
            free = False
            value -= max(free_units - before, _ZERO)
        elif free:
            continue
        base += value
        if value < 0:
            continue
        charged += 1
        cost = value * share + Fraction(price.fixed_amount)
        within = _within(cost, price.minimum_per_event, price.maximum_per_event)
        bounded += within != cost
        by_bounds += within - cost
    steps = [Step("percent", base, share)]
    if price.fixed_amount:
        steps.append(Step("events", Fraction(charged), Fraction(price.fixed_amount)))
    if bounded:
        steps.append(Step("event_bounds", Fraction(bounded), _ZERO, by_bounds))
    return _not_negative(steps)


def price_dynamic_events(price: DynamicPrice, singles: Sequence[Single]) -> Priced:
    """The sum of the prices on the events, times the multiplier; never below 0.

    An event without a price adds nothing here: whoever bills asks `unpriced` first.
    """
    prices = (single.prices.get(price.property or "") for single in singles)
    total = sum((Fraction(each) for each in prices if each is not None), _ZERO)
    return _not_negative([Step("prices", total, Fraction(price.multiplier))])


def unpriced(price: DynamicPrice, singles: Iterable[Single]) -> int:
    """How many events do not say what they cost."""
    return sum(price.property not in single.prices for single in singles)


def _within(cost: Fraction, low: Decimal | None, high: Decimal | None) -> Fraction:
    if high is not None:
        cost = min(cost, Fraction(high))
    return cost if low is None else max(cost, Fraction(low))


def _not_negative(steps: list[Step]) -> Priced:
    amount = Priced(tuple(steps)).amount
    if amount < 0:
        steps.append(Step("event_bounds", _ZERO, _ZERO, -amount))
    return Priced(tuple(steps))
