"""Thresholds: usage is billed within its period when it has cost so much.

    hours with usage in a period --candidates--> slots that end at the end of each hour
    what usage has cost until then --reaches the next threshold?--> an invoice, or none

A line is always the rounded amount of all units so far less what was billed of it, so
the invoices of a period sum to what it costs as a whole, and tiers go on. A threshold
counts as reached at the end of the first local hour after which usage has cost that
much; several that are reached in one hour are one invoice. What a period costs at its
end stands on its own invoice. What is final at a threshold stays: usage that comes late
is part of what the next invoice of the period has beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from billing.past import Past
from billing.slots import Segment, Slot


def candidates(slot: Slot, ends: Iterable[datetime]) -> Iterator[Slot]:
    """The slots of a period that may be billed at a threshold, in order.

    `slot` is that of the whole period, `ends` are the ends of hours with usage. The
    segments keep their full length, by which they are prorated.
    """
    assert slot.arrears is not None
    part = slot.arrears.part
    for end in sorted(set(ends)):
        if part.start < end < part.end:
            cuts = tuple(cut for cut in slot.cuts if cut.part.start < end)
            yield replace(
                slot,
                billing_date=end,
                period_start=part.start,
                period_end=end,
                advance=None,
                cuts=cuts,
                until=end,
            )


def final_parts(slot: Slot, past: Past, as_of: datetime) -> Iterator[Slot]:
    """The slots of a period until `as_of` whose invoices at thresholds are final, in order.

    Where the period ends earlier than when they were made, they come just before its end.
    """
    assert slot.arrears is not None
    part = slot.arrears.part
    for end, sequence in past.parts.get((slot.subscription, part.start), ()):
        if end > as_of:
            return
        yield replace(
            slot,
            billing_date=min(end, part.end),
            period_start=part.start,
            period_end=end,
            advance=None,
            cuts=(),
            sequence=sequence,
            until=end,
        )


def usage_end(slot: Slot, segment: Segment) -> datetime:
    """Until when usage of a segment counts on the invoice of a slot."""
    return segment.part.end if slot.until is None else min(segment.part.end, slot.until)


def reached(thresholds: Sequence[Decimal], amount: Decimal) -> int:
    """How many thresholds an amount has reached."""
    return sum(amount >= threshold for threshold in thresholds)
