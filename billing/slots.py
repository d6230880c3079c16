"""Invoice slots: which invoices a subscription has until an instant, without amounts.

    subscription, plan --due--> slots --build_invoice (with usage)--> invoices

A subscription is billed at the end of each of its periods, and at its start where
it has fees in advance:

    start           end of period 1        end of period 2        (cut by the end)
      |---------------------|----------------------|---------------|
    advance fees 1   usage and arrears 1     usage and arrears 2    usage and arrears 3
                     advance fees 2          advance fees 3

There is one slot for each (tenant, customer, currency, billing group, billing
date, sequence); the invoice id is the hash of these, so it is the same in every
run. The billing group is the subscription.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, pairwise

from billing.tariffs import Tariff, Tariffs
from meters.catalog import Charge, Customer, Fee, Plan, Subscription
from meters.periods import Span, numbered
from meters.scalars import canonical_scalar, canonical_text
from meters.timestamps import format_instant

_FOREVER = datetime.max.replace(tzinfo=UTC)

ID_DIGITS = 32
"""Hexadecimal digits of the SHA-256 hash in an id (128 bits)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A span that is rated as one, and the whole period that it is part of.

    Both are half-open spans of UTC instants. `part` is shorter than `whole` where
    the subscription ends, or changes its plan, within the period; that is what
    proration is about. `tariff` is what holds in it.
    """

    part: Span
    whole: Span
    tariff: Tariff | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One invoice to be.

    `period_start` and `period_end` are the header's (equal on the invoice at the
    start). `arrears` is the segment whose usage and fees in arrears are billed,
    `advance` the one whose fees are billed in advance; None where there is none.
    `cuts` are the segments of `arrears` that are rated apart, in order, each with its
    tariff; none where the tariffs were not given. With `until`, usage before that
    instant is billed within its period (`billing.thresholds`), and nothing else; the
    invoice is then named by the start of its period, and its `sequence` is its number in
    it, so that it stays the same one when usage changes.
    """

    customer: str
    subscription: str
    plan: str
    currency: str
    time_zone: str
    billing_date: datetime
    period_start: datetime
    period_end: datetime
    arrears: Segment | None
    advance: Segment | None
    sequence: int = 0
    cuts: tuple[Segment, ...] = ()
    until: datetime | None = None

    def invoice_id(self, tenant: str) -> str:
        """The id of this invoice, whenever and wherever it is built."""
        group = f"subscription:{self.subscription}"
        key = "inv", tenant, self.customer, self.currency, group
        if self.until is not None:
            # A period starts where one ends, whose invoice has that date.
            start = format_instant(self.period_start)
            return hashed_id(*key, start, self.sequence, "threshold")
        return hashed_id(*key, format_instant(self.billing_date), self.sequence)


def hashed_id(prefix: str, *key: str | int | None) -> str:
    """`prefix_` and the first 128 bits of SHA-256 over the key as a canonical JSON list.

    JSON keeps the parts of the key apart, whatever characters they hold.
    """
    return hashed(prefix, ",".join(map(canonical_scalar, key)))


def hashed(prefix: str, key: str) -> str:
    """As `hashed_id`, for a key whose parts are canonical JSON already, between commas."""
    digest = hashlib.sha256(f"[{canonical_text(prefix)},{key}]".encode()).hexdigest()
    return f"{prefix}_{digest[:ID_DIGITS]}"


def due(
    subscription: Subscription,
    plan: Plan,
    customer: Customer,
    as_of: datetime,
    tariffs: Tariffs | None = None,
) -> list[Slot]:
    """The invoices of a subscription with a billing date at or before `as_of`, in order.

    A period is due once it has ended, usage or none. Fees in advance stand on the
    invoice of the period that ends where their own starts, the first ones on an
    invoice at the start; there are none for a period that would start at or after
    the end of the subscription. A slot without any charge is left out: nothing
    would stand on it. `plan` is the subscription's first; with `tariffs` the segments
    say what holds in them.
    """
    found = _slots(subscription, plan, customer, as_of, tariffs)
    committed = subscription.commitment is not None or plan.commitment is not None
    return [slot for slot in found if _bills(slot, plan, committed)]


def begun(
    subscription: Subscription,
    plan: Plan,
    customer: Customer,
    as_of: datetime,
    tariffs: Tariffs,
) -> Iterator[Slot]:
    """The slots of all periods that begin before `as_of`, also of the one that goes on."""
    for slot in _slots(subscription, plan, customer, _FOREVER, tariffs):
        if slot.period_start >= as_of:
            return
        if slot.arrears is not None:
            yield slot


def _slots(
    subscription: Subscription,
    plan: Plan,
    customer: Customer,
    as_of: datetime,
    tariffs: Tariffs | None,
) -> Iterator[Slot]:
    segments = _segments(subscription, plan, customer)
    period_start = billing_date = subscription.start
    arrears: Segment | None = None
    while billing_date <= as_of:
        advance = next(segments, None)
        yield Slot(
            customer=customer.id,
            subscription=subscription.id,
            plan=plan.id,
            currency=plan.currency,
            time_zone=customer.time_zone,
            billing_date=billing_date,
            period_start=period_start,
            period_end=billing_date,
            arrears=arrears,
            advance=_with_tariff(advance, tariffs),
            cuts=_cuts(arrears, tariffs),
        )
        if advance is None:
            return
        arrears, period_start, billing_date = advance, billing_date, advance.part.end


def _with_tariff(advance: Segment | None, tariffs: Tariffs | None) -> Segment | None:
    if advance is None or tariffs is None:
        return advance
    tariff = tariffs.at(advance.part.start, advance.whole.start)
    return Segment(advance.part, advance.whole, tariff)


def _cuts(arrears: Segment | None, tariffs: Tariffs | None) -> tuple[Segment, ...]:
    """The parts of a segment that are rated apart, each with its tariff."""
    if arrears is None or tariffs is None:
        return ()
    part, whole = arrears.part, arrears.whole
    inner = tariffs.cuts(part)
    if not inner:
        return (Segment(part, whole, tariffs.at(part.start, whole.start)),)
    bounds = pairwise([part.start, *inner, part.end])
    return tuple(
        Segment(Span(start, end), whole, tariffs.at(start, whole.start)) for start, end in bounds
    )


def _segments(subscription: Subscription, plan: Plan, customer: Customer) -> Iterator[Segment]:
    """The periods of the subscription, each beside what it would be without an end."""
    start, end = subscription.start, subscription.end
    for number in count():
        whole = numbered(start, customer.time_zone, plan.period, number)
        if whole is None or (end is not None and whole.start >= end):
            return
        if whole.start < whole.end:
            part = whole if end is None or whole.end <= end else Span(whole.start, end)
            yield Segment(part, whole)


def _bills(slot: Slot, plan: Plan, committed: bool) -> bool:
    """Whether any line would stand on it."""
    if slot.arrears is not None:
        if committed:
            return True
        tariffs = [cut.tariff for cut in slot.cuts if cut.tariff is not None]
        charges = [c for each in tariffs for c in each.charges] if tariffs else plan.charges
        if len(tariffs) > 1 or any(not _in_advance(charge) for charge in charges):
            return True
    if slot.advance is None:
        return False
    tariff = slot.advance.tariff
    if tariff is None:
        return any(map(_in_advance, plan.charges))
    return not tariff.trial and any(map(_in_advance, tariff.charges))


def _in_advance(charge: Charge) -> bool:
    return isinstance(charge, Fee) and charge.when == "advance"
