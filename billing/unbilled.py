"""Usage that no invoice will ever have, and why.

    customer, subscription, meter, span --gaps--> spans in which nothing bills it, with reasons

Usage is metered whoever pays for it. It stands on an invoice where a segment of its
subscription has a charge for its meter: in that segment, and earlier where the charge
carries what was before it (a recurring meter from ever, a level from the start of its
period). All else is shown and never billed. What is to come counts as billed: a period
that has not ended will be. Usage belongs to a span by the start of its bucket, as it does
when it is billed. Source of the rules: "Attribution" and "Invoices" of docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from billing.customer import tariffs_of
from billing.slots import Segment, begun
from meters.attribution import OPEN_END, Attribution
from meters.buckets import hour_of
from meters.catalog import Catalog, Charge, Meter, Subscription, UsageCharge
from meters.periods import Span
from meters.zones import from_microseconds, microseconds

Reason = Literal[
    "unknown_customer",
    "no_subscription",
    "unknown_subscription",
    "before_start",
    "after_end",
    "not_charged",
]
"""Why usage is never billed.

- `unknown_customer`: the catalog does not have the customer.
- `no_subscription`: it names no subscription, and none of the customer's charges the meter then.
- `unknown_subscription`: it belongs to none although one of the customer's charges the meter
  then (its events name another), or to one that the customer does not have in the catalog.
- `before_start`, `after_end`: its events name a subscription outside its dates.
- `not_charged`: what its subscription pays by then has no charge for the meter.
"""

_EVER = datetime(1900, 1, 1, tzinfo=UTC)
_FOREVER = datetime.max.replace(tzinfo=UTC)
_A_PERIOD = timedelta(days=367)
"""Longer than any period."""


@dataclass(frozen=True)
class Gap:
    """A half-open UTC span in which usage is never billed."""

    span: Span
    reason: Reason


class Coverage:
    """What one catalog bills of usage."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._attribution = Attribution(catalog)

    def gaps(
        self,
        customer: str,
        subscription: str | None,
        meter: str,
        within: Span,
        final: Iterable[Span] = (),
    ) -> list[Gap]:
        """Where within a span usage of a customer, subscription and meter is never billed.

        Usage in a `final` span is on an invoice that is final, whatever the catalog says
        by now. Gaps are disjoint and in order.
        """
        billed = list(final)
        entry = self._catalog.subscriptions_by_id.get(subscription or "")
        if customer not in self._catalog.customers_by_id:
            reasons = iter([Gap(within, "unknown_customer")])
        elif subscription is None:
            reasons = self._without_subscription(customer, meter, within)
        elif entry is None or entry.customer != customer:
            reasons = iter([Gap(within, "unknown_subscription")])
        else:
            reasons = _by_dates(entry, within)
            billed += self._billed(entry, meter, within.end)
        left = _merged(billed)
        return [
            Gap(span, each.reason)
            for each in reasons
            if each.span.start < each.span.end
            for span in _outside(left, each.span)
        ]

    def _without_subscription(self, customer: str, meter: str, within: Span) -> Iterator[Gap]:
        zone = self._catalog.customers_by_id[customer].time_zone
        low, high = microseconds(within.start), microseconds(within.end)
        begin = 0
        for _, end, owner in self._attribution.segments(customer, meter):
            if owner is not None and end < OPEN_END:
                # The hour in which the last subscription ends may have usage from behind it.
                end = microseconds(hour_of(from_microseconds(end), zone).start)
            first, last, begin = max(begin, low), min(end, high), end
            if first < last:
                span = Span(from_microseconds(first), from_microseconds(last))
                yield Gap(span, "no_subscription" if owner is None else "unknown_subscription")

    def _billed(self, entry: Subscription, name: str, end: datetime) -> Iterator[Span]:
        """The spans of a subscription whose usage of a meter is billed, at least until `end`."""
        meter = self._catalog.meters_by_id.get(name)
        if meter is None:
            return
        possible = list(self._possible_charges(entry, name))
        if not any(possible):
            return
        by_event = bool(entry.overrides) or any(each.by_event for one in possible for each in one)
        if all(possible) and not (meter.recurring and by_event):
            # Few plans ever stop charging a meter: of the others no period needs a look.
            yield Span(_EVER if meter.recurring else entry.start, entry.end or _FOREVER)
            return
        if meter.recurring:
            # What is carried may be billed by a later segment; the last tariff goes on.
            end = min(max(end, *self._turns(entry)), _FOREVER - _A_PERIOD) + _A_PERIOD
        tariffs = tariffs_of(self._catalog, entry.id)
        plan = self._catalog.plans_by_id[entry.plan]
        customer = self._catalog.customers_by_id[entry.customer]
        for slot in begun(entry, plan, customer, end, tariffs):
            for cut in slot.cuts:
                assert cut.tariff is not None
                for charge in _of_meter(cut.tariff.charges, name):
                    yield Span(_since(charge, meter, cut), cut.part.end)

    def _possible_charges(self, entry: Subscription, meter: str) -> Iterator[list[UsageCharge]]:
        """The charges for a meter of all that the subscription may ever be on."""
        pairs = [(entry.plan, entry.pin_version)]
        pairs += [(each.plan, each.pin_version) for each in entry.changes]
        for name, pinned in pairs:
            plan = self._catalog.plans_by_id[name]
            if not plan.versions:
                yield _of_meter(plan.charges, meter)
            for version in plan.versions:
                if pinned in (None, version.version):
                    yield _of_meter(version.charges, meter)

    def _turns(self, entry: Subscription) -> list[datetime]:
        """The instants from which the subscription may pay something else."""
        plans = [self._catalog.plans_by_id[name] for name in entry.plans]
        versions = [version.from_ for plan in plans for version in plan.versions]
        return [entry.start, *(each.from_ for each in entry.changes), *versions]


def _by_dates(entry: Subscription, within: Span) -> Iterator[Gap]:
    """A span by where it lies of the dates of a subscription; some parts may be empty."""
    start = min(max(entry.start, within.start), within.end)
    end = within.end if entry.end is None else max(min(entry.end, within.end), start)
    yield Gap(Span(within.start, start), "before_start")
    yield Gap(Span(start, end), "not_charged")
    yield Gap(Span(end, within.end), "after_end")


def _of_meter(charges: Iterable[Charge], meter: str) -> list[UsageCharge]:
    return [each for each in charges if isinstance(each, UsageCharge) and each.meter == meter]


def _since(charge: UsageCharge, meter: Meter, cut: Segment) -> datetime:
    """From when on usage is part of what a charge has in a segment."""
    if charge.prorate_events or (meter.carries and not charge.by_event):
        return _EVER if meter.recurring else cut.whole.start
    return cut.part.start


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same instants as disjoint spans, in order."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _outside(spans: Sequence[Span], within: Span) -> Iterator[Span]:
    """What of a span lies in none of some disjoint ones."""
    at = within.start
    for span in spans:
        if at < min(span.start, within.end):
            yield Span(at, min(span.start, within.end))
        at = max(at, span.end)
    if at < within.end:
        yield Span(at, within.end)
