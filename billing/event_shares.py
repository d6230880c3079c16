"""Units that count for a part of their period: from their event to the period's end.

    events of a period --share of each--> prorated quantity, or a graduated amount

A unit that comes in mid-period is there for the rest of it. Values that are added and
removed count for the days on which they were there, each day once. What was there
before the period counts whole: it comes as an event at its start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction

from billing.single_events import Single
from billing.steps import Priced, Step
from meters.catalog_charges import Proration
from meters.catalog_prices import GraduatedPrice
from meters.periods import Span, proration_factor
from meters.zones import local_date, microseconds

_ZERO = Fraction(0)
_ONE_TICK = timedelta(microseconds=1)

Shared = tuple[Fraction, Fraction]
"""The units of one event, and what of them counts."""


def shares(
    singles: Sequence[Single], part: Span, whole: Span, zone: str, mode: Proration
) -> list[Shared]:
    """Units and prorated units of events in the order in which they count."""
    if any(single.item for single in singles):
        return _presence(singles, part, whole, zone, mode)
    found = []
    for single in singles:
        units = Fraction(single.value)
        rest = Span(max(single.at, part.start), part.end)
        found.append((units, units * proration_factor(rest, whole, zone, mode)))
    return found


def _presence(
    singles: Sequence[Single], part: Span, whole: Span, zone: str, mode: Proration
) -> list[Shared]:
    """One unit for each value, for as long as it was there."""
    spans: dict[str, list[Span]] = {}
    since: dict[str, datetime] = {}
    for single in singles:
        if single.value > 0:
            since.setdefault(single.item, single.at)
        elif single.item in since:
            spans.setdefault(single.item, []).append(Span(since.pop(single.item), single.at))
    for item, start in since.items():
        spans.setdefault(item, []).append(Span(start, part.end))
    return [(Fraction(1), _time(there, whole, zone, mode)) for _, there in sorted(spans.items())]


def _time(there: Iterable[Span], whole: Span, zone: str, mode: Proration) -> Fraction:
    if mode == "none":
        return Fraction(1)
    days = (local_date(whole.end, zone) - local_date(whole.start, zone)).days
    if mode == "day" and days:
        dates = set()
        for span in there:
            first = local_date(span.start, zone)
            last = local_date(max(span.start, span.end - _ONE_TICK), zone)
            dates |= {first + timedelta(days=each) for each in range((last - first).days + 1)}
        return Fraction(len(dates), days)
    length = microseconds(whole.end) - microseconds(whole.start)
    ticks = sum(microseconds(span.end) - microseconds(span.start) for span in there)
    return Fraction(ticks, length)


def price_graduated_shares(price: GraduatedPrice, units: Sequence[Shared]) -> Priced:
    """Each event's units in the tiers that they fall into by their full number.

    What falls into a tier costs its price times the share of the event that counts. A
    tier that was entered keeps its flat amount; units that are taken back leave the
    tiers that they were in. The whole is never below 0.
    """
    bounds = [None if tier.up_to is None else Fraction(tier.up_to) for tier in price.tiers]
    amounts = [_ZERO] * len(price.tiers)
    total = highest = _ZERO
    for full, counted in units:
        if not full:
            continue
        low, high = sorted((total, total + full))
        lower = _ZERO
        for index, bound in enumerate(bounds):
            upper = high if bound is None else min(high, bound)
            # Below 0 everything belongs to the first tier.
            begin = min(low, upper) if index == 0 else max(low, lower)
            if upper > begin:
                amounts[index] += counted * (upper - begin) / abs(full)
            lower = upper if bound is None else bound
        total += full
        highest = max(highest, total)
    steps = []
    lower = _ZERO
    for number, (tier, quantity) in enumerate(zip(price.tiers, amounts, strict=True), start=1):
        if highest > lower or (number == 1 and price.flat_at_zero):
            flat = Fraction(tier.flat_amount)
            steps.append(Step("units", quantity, Fraction(tier.unit_amount), flat, number))
        lower = highest if tier.up_to is None else Fraction(tier.up_to)
    amount = Priced(tuple(steps)).amount
    if amount < 0:
        steps.append(Step("event_bounds", _ZERO, _ZERO, -amount))
    return Priced(tuple(steps))
