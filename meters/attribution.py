"""Attribution: which subscription an event belongs to.

    explicit id of a subscription of the customer -> that one, whatever its dates and plan
    any other explicit id                         -> none
    no explicit id                                -> the customer's subscription that is active
                                                     (start <= t < end) and whose plan charges
                                                     the meter; of several the earliest started,
                                                     ties by id as UTF-8 bytes
    nothing found                                 -> none

Usage without a subscription is kept for the customer alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from meters.catalog import Catalog, Subscription
from meters.zones import from_microseconds, microseconds

OPEN_END = 2**62
"""Stands for the end of what never ends, in microseconds: later than any instant."""

Segment = tuple[int, int, str | None]
"""From (inclusive) and until (exclusive) in microseconds since 1970, and the subscription."""


@dataclass(frozen=True)
class Overlap:
    """A span in which several subscriptions of a customer charge the same meter.

    `subscriptions` are all that match, `chosen` is the one that events without an
    explicit id go to. `end` is None where the overlap never ends.
    """

    customer: str
    meter: str
    start: datetime
    end: datetime | None
    subscriptions: tuple[str, ...]
    chosen: str


@dataclass(frozen=True)
class _Phase:
    """A span in which a subscription is on one plan, and the meters that this charges."""

    subscription: str
    start: datetime
    end: datetime | None
    meters: frozenset[str]


class Attribution:
    """The rule, prepared for one catalog. Picklable."""

    def __init__(self, catalog: Catalog) -> None:
        meters = {plan.id: plan.meters for plan in catalog.plans}
        self._owners = {each.id: each.customer for each in catalog.subscriptions}
        self._candidates: dict[str, list[_Phase]] = {}
        for each in sorted(catalog.subscriptions, key=_precedence):
            found = self._candidates.setdefault(each.customer, [])
            bounds = [each.start, *(change.from_ for change in each.changes), each.end]
            plans = [each.plan, *(change.plan for change in each.changes)]
            for plan, start, end in zip(plans, bounds[:-1], bounds[1:], strict=True):
                assert start is not None
                found.append(_Phase(each.id, start, end, meters.get(plan, frozenset())))
        self._charged: dict[str, list[str]] = {}
        for customer in catalog.customers:
            candidates = self._candidates.get(customer.id, ())
            for meter in set().union(*(each.meters for each in candidates)):
                self._charged.setdefault(meter, []).append(customer.id)

    def charged(self, meter_id: str) -> list[str]:
        """The customers with a subscription that charges the meter, in the catalog's order."""
        return self._charged.get(meter_id, [])

    def subscription_for(
        self, customer: str, meter_id: str, instant: datetime, explicit: str | None
    ) -> str | None:
        """The subscription of one event, or None. `instant` is an aware datetime."""
        if explicit is not None:
            return explicit if self._owners.get(explicit) == customer else None
        for each in self._candidates.get(customer, ()):
            if (
                meter_id in each.meters
                and each.start <= instant
                and (each.end is None or instant < each.end)
            ):
                return each.subscription
        return None

    def segments(self, customer: str, meter_id: str) -> list[Segment]:
        """The rule for events without an explicit id, as a timeline.

        Segments are disjoint, sorted and as long as possible; together they cover
        everything from 1970 (0) to `OPEN_END`, with None where there is no subscription.
        """
        result: list[Segment] = []
        for start, end, matching in _slices(self._spans(customer, meter_id)):
            chosen = matching[0] if matching else None
            if result and result[-1][2] == chosen:
                result[-1] = (result[-1][0], end, chosen)
            else:
                result.append((start, end, chosen))
        return result

    def overlaps(self) -> list[Overlap]:
        """Every span in which several subscriptions match, by customer, meter and time."""
        found: list[Overlap] = []
        for customer in sorted(self._candidates):
            candidates = self._candidates[customer]
            if len(candidates) < 2:
                continue
            for meter in sorted(set().union(*(each.meters for each in candidates))):
                for start, end, matching in _slices(self._spans(customer, meter)):
                    if len(matching) > 1:
                        until = None if end == OPEN_END else from_microseconds(end)
                        since = from_microseconds(start)
                        found.append(
                            Overlap(customer, meter, since, until, tuple(matching), matching[0])
                        )
        return found

    def _spans(self, customer: str, meter_id: str) -> list[tuple[int, int, str]]:
        """The subscriptions that charge the meter, in the order of precedence."""
        return [
            (
                microseconds(each.start),
                OPEN_END if each.end is None else microseconds(each.end),
                each.subscription,
            )
            for each in self._candidates.get(customer, ())
            if meter_id in each.meters
        ]


def _precedence(subscription: Subscription) -> tuple[datetime, bytes]:
    return subscription.start, subscription.id.encode()


def _slices(spans: list[tuple[int, int, str]]) -> Iterator[tuple[int, int, list[str]]]:
    """The time line cut at every start and end, with the ids that match in each slice."""
    cuts = sorted({0, OPEN_END, *(at for start, end, _ in spans for at in (start, end))})
    for start, end in pairwise(cuts):
        yield start, end, [name for since, until, name in spans if since <= start < until]
