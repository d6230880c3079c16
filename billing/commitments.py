"""Commitments: what a subscription pays at least, and what more than that costs.

    rounded lines of the span so far --below the commitment, at its end--> true-up
                                     --above it, times (factor - 1)------> overage

What counts is the rounded amount of every line whose service lies in the span,
before coupons, credits and tax; a fee in advance counts in its own period, though it
stood on the invoice before. A span is a billing period, or a year counted from the
start of the subscription. The state goes from invoice to invoice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from billing.invoice import NO_GROUP, Committed, Line
from billing.lines import LineContext
from billing.money import add_amounts, decimal_text, format_price, round_amount
from billing.slots import Segment, Slot
from meters.catalog_plans import Commitment
from meters.periods import Periods, Span


@dataclass(frozen=True)
class Commitments:
    """The commitment of a subscription, and the span that it starts from.

    `start` is the start of the subscription, `charged_from` the end of its trial (or the
    start), `end` its end.
    """

    start: datetime
    charged_from: datetime
    end: datetime | None
    commitment: Commitment

    def span_of(self, slot: Slot) -> Segment | None:
        """The span of the commitment that a slot's period lies in; None before it is charged."""
        if slot.arrears is None or slot.billing_date <= self.charged_from:
            return None
        whole, part = slot.arrears.whole, slot.arrears.part
        if self.commitment.period == "year":
            years = Periods(self.start, slot.time_zone, "year", self.end)
            year = years.whole(part.start)
            assert year is not None
            whole = year
            part = Span(whole.start, whole.end if self.end is None else min(whole.end, self.end))
        return Segment(Span(max(part.start, self.charged_from), part.end), whole)


def commit(
    commitments: Commitments | None,
    slot: Slot,
    lines: Sequence[Line],
    before: Committed,
    context: LineContext,
) -> tuple[tuple[Line, ...], Committed]:
    """The lines of the commitment on this invoice, and the state after it."""
    ahead = _sum(line for line in lines if _is_ahead(line, slot))
    span = None if commitments is None else commitments.span_of(slot)
    if commitments is None or span is None:
        return (), Committed(ahead=ahead)
    commitment = commitments.commitment
    now = _sum(line for line in lines if not _is_ahead(line, slot))
    spent = before.spent + before.ahead + now
    required = Fraction(commitment.amount) * context.factor(span, commitment.proration)
    found: list[Line] = []
    extra = max(spent - required, Fraction(0)) * (Fraction(commitment.overage_factor) - 1)
    overage = round_amount(extra - Fraction(before.overage), context.exponent)
    if overage:
        words = f"{_money(spent - required, context)} above {_money(required, context)}"
        words += f", times {decimal_text(Fraction(commitment.overage_factor))}"
        found.append(_line(commitment, "overage", words, overage, span, context))
    ends = slot.billing_date >= span.part.end
    missing = required - spent
    if ends and missing > 0:
        words = f"{_money(required, context)}, used {_money(spent, context)}"
        amount = round_amount(missing, context.exponent)
        found.append(_line(commitment, "true-up", words, amount, span, context))
    billed = add_amounts((before.overage, overage), context.exponent)
    after = Committed(ahead=ahead) if ends else Committed(spent, billed, ahead)
    return tuple(found), after


def _is_ahead(line: Line, slot: Slot) -> bool:
    return line.service_start is not None and line.service_start >= slot.billing_date


def _sum(lines: Iterable[Line]) -> Fraction:
    return sum((Fraction(line.amount) for line in lines), Fraction(0))


def _money(exact: Fraction, context: LineContext) -> str:
    return format_price(round_amount(exact, context.exponent), context.exponent)


def _line(
    commitment: Commitment,
    kind: str,
    words: str,
    amount: Decimal,
    span: Segment,
    context: LineContext,
) -> Line:
    title = commitment.description or commitment.id
    return Line(
        line_id=context.line_id(commitment.id, NO_GROUP, span, kind),
        subscription=context.subscription,
        charge=commitment.id,
        plan_version=context.version,
        meter=None,
        group=NO_GROUP,
        service_start=span.part.start,
        service_end=span.part.end,
        quantity=Decimal(1),
        unit_amount=None,
        amount_exact=Fraction(amount),
        amount=amount,
        description=f"{title}: {words}, {kind}",
        plan=context.plan,
        own_tax=commitment.tax,
    )
