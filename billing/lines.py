"""The lines of an invoice: a fee or a usage charge over a segment becomes lines.

fee, segment                 --fee_line-----> one line
usage charge, usage, segment --usage_lines--> one line, or one for each group
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import msgspec

from billing.allowances import Allowances
from billing.decimal_prices import Charged, compile_charge
from billing.descriptions import describe_fee, describe_missing, describe_trial, describe_usage
from billing.event_shares import Shared, shares
from billing.invoice import NO_GROUP, Line
from billing.money import decimal_text, format_price, round_amount
from billing.prices import Rated, convert_quantity, rate
from billing.quantities import UsageOf, group_values, parts_of
from billing.single_events import unpriced
from billing.slots import Segment, hashed
from billing.tariffs import Tariff
from meters.catalog import DynamicPrice, Fee, Price, UnitPrice, UsageCharge, VolumePrice
from meters.catalog import Proration as ProrationMode
from meters.periods import proration_factor
from meters.scalars import canonical_scalar, canonical_text
from meters.timestamps import format_instant

_ZERO = Decimal(0)
_ONE = Fraction(1)

MISSING_PRICE = "missing_price"
"""Why an invoice is held: usage on it has no price, and is not billed as free."""


class LineContext(msgspec.Struct, frozen=True):
    """What all lines of one invoice share. `exponent`: decimals of the currency."""

    invoice_id: str
    subscription: str | None
    time_zone: str
    exponent: int
    plan: str | None = None
    version: str | None = None
    allowances: Allowances | None = None

    def factor(self, segment: Segment | None, mode: ProrationMode) -> Fraction:
        """How much of its period a segment is; 1 without one."""
        if segment is None or segment.part is segment.whole or segment.part == segment.whole:
            return _ONE
        return proration_factor(segment.part, segment.whole, self.time_zone, mode)

    def of(self, tariff: Tariff) -> LineContext:
        """The same for lines of a tariff."""
        return msgspec.structs.replace(self, plan=tariff.plan, version=tariff.version)

    def line_id(self, charge: str, group: str, segment: Segment | None, change: str = "") -> str:
        """Unique on the invoice: a charge may stand there once for each segment and group."""
        named = _named_text(charge, group)
        span = "null,null" if segment is None else _span_text(segment.part.start, segment.part.end)
        more = f",{canonical_text(change)}" if change else ""
        owner = _owner_text(self.invoice_id, self.subscription)
        return hashed("line", f"{owner},{named},{span}{more}")


# Lines of one invoice follow each other, and so do invoices of one plan and period.
@lru_cache(maxsize=64)
def _owner_text(invoice_id: str, subscription: str | None) -> str:
    return f"{canonical_text(invoice_id)},{canonical_scalar(subscription)}"


@lru_cache(maxsize=4096)
def _named_text(charge: str, group: str) -> str:
    return f"{canonical_text(charge)},{canonical_text(group)}"


@lru_cache(maxsize=1024)
def _span_text(start: datetime, end: datetime) -> str:
    return f"{canonical_text(format_instant(start))},{canonical_text(format_instant(end))}"


def fee_line(
    fee: Fee,
    segment: Segment | None,
    context: LineContext,
    *,
    quantity: Decimal = Decimal(1),
    change: Literal["", "added", "given back"] = "",
) -> Line:
    """A fee over a segment, prorated where that is a part of its period.

    A `change` within a period that was billed in advance adds units for the rest of it,
    or gives them back (a negative quantity).
    """
    factor = context.factor(segment, fee.proration)
    exact = Fraction(fee.fee) * Fraction(quantity) * factor
    return Line(
        line_id=context.line_id(fee.id, NO_GROUP, segment, change),
        subscription=context.subscription,
        charge=fee.id,
        plan_version=context.version,
        meter=None,
        group=NO_GROUP,
        service_start=None if segment is None else segment.part.start,
        service_end=None if segment is None else segment.part.end,
        quantity=quantity,
        unit_amount=fee.fee,
        amount_exact=exact,
        amount=round_amount(exact, context.exponent),
        description=describe_fee(fee, factor, context.exponent, quantity, change),
        plan=context.plan,
        own_tax=fee.tax,
    )


def usage_lines(
    charge: UsageCharge, usage: UsageOf, segment: Segment | None, context: LineContext
) -> Iterator[tuple[Line, str | None]]:
    """The lines of a usage charge, each with the reason to hold the invoice, if there is one.

    In a trial a charge has one line with its quantity and amount 0. A line whose group has
    no price, or whose events do not say theirs, stands there
    with its quantity and amount 0, and holds the invoice.
    """
    if segment is not None and segment.tariff is not None and segment.tariff.trial:
        description = describe_trial(charge, usage)
        yield (
            _usage_line(charge, None, NO_GROUP, usage, segment, context).replaced(
                description=description
            ),
            None,
        )
        return
    parts = list(parts_of(charge, usage))
    if segment is not None and context.allowances is not None:
        # What was billed of a group that is no longer there is given back.
        billed = context.allowances.billed(context.subscription, charge.id, segment.part.start)
        if billed:
            parts += [(group, UsageOf()) for group in sorted(billed.keys() - dict(parts).keys())]
    for group, used in parts:
        price = charge.price or charge.price_of(group_values(group))
        missing = is_unpriced(price, used)
        yield (
            _usage_line(charge, None if missing else price, group, used, segment, context),
            MISSING_PRICE if missing else None,
        )


def is_unpriced(price: Price | None, used: UsageOf) -> bool:
    """Whether there is usage that has no price, or whose events do not say theirs."""
    if isinstance(price, DynamicPrice) and price.property is not None:
        return unpriced(price, used.singles) > 0
    return price is None and used.value is not None


def _usage_line(
    charge: UsageCharge,
    price: Price | None,
    group: str,
    used: UsageOf,
    segment: Segment | None,
    context: LineContext,
) -> Line:
    charged = _charged(charge, price, group, used, segment, context)
    billed: Decimal | None = None
    if segment is not None and context.allowances is not None:
        start = segment.part.start
        billed = context.allowances.billed(context.subscription, charge.id, start).get(group)
        if billed:
            charged = _less(charged, billed, context.exponent)
    return Line(
        line_id=context.line_id(charge.id, group, segment),
        subscription=context.subscription,
        charge=charge.id,
        plan_version=context.version,
        meter=charge.meter,
        group=group,
        service_start=None if segment is None else segment.part.start,
        service_end=None if segment is None else segment.part.end,
        quantity=charged.quantity,
        unit_amount=charged.unit_amount,
        amount_exact=charged.exact,
        amount=charged.amount,
        description=charged.description,
        revision=used.revision,
        plan=context.plan,
        own_tax=charge.tax,
        rated=charged.rated,
        billed=billed or _ZERO,
    )


def _less(charged: Charged, billed: Decimal, exponent: int) -> Charged:
    """What is left of an amount of which something was billed before."""
    left = round_amount(Fraction(charged.amount) - Fraction(billed), exponent)
    exact = Fraction(charged.exact) - Fraction(billed)
    words = f"{charged.description}, less {format_price(billed, exponent)} billed before"
    return msgspec.structs.replace(charged, amount=left, exact=exact, description=words)


def _charged(
    charge: UsageCharge,
    price: Price | None,
    group: str,
    used: UsageOf,
    segment: Segment | None,
    context: LineContext,
) -> Charged:
    exponent = context.exponent
    if price is None:
        nothing = round_amount(Fraction(0), exponent)
        missing = describe_missing(charge, group, used)
        return Charged(used.quantity, None, Fraction(0), nothing, missing)
    factor = context.factor(segment, charge.proration)
    allowances = context.allowances
    if allowances is not None and segment is not None and allowances.concerns(charge):
        return _allowed(charge, price, group, used, segment, context, allowances)
    form = compile_charge(charge, price, exponent)
    if form is not None and (factor == 1 or not form.by_period):
        charged = form.rate(used.value or _ZERO, used.events, group)
        if charged is not None:
            return charged
    shared: list[Shared] = []
    if charge.prorate_events and segment is not None:
        part, whole, zone = segment.part, segment.whole, context.time_zone
        shared = shares(used.singles, part, whole, zone, charge.proration)
    rated = rate_usage(charge, price, used, factor, exponent, shared=shared)
    words = describe_usage(charge, price, rated, factor, exponent, group)
    return _by_steps(price, rated, words)


def _by_steps(price: Price, rated: Rated, words: str) -> Charged:
    unit_amount = _unit_amount(price, rated)
    return Charged(rated.quantity, unit_amount, rated.exact, rated.amount, words, rated)


def _allowed(
    charge: UsageCharge,
    price: Price,
    group: str,
    used: UsageOf,
    segment: Segment,
    context: LineContext,
    allowances: Allowances,
) -> Charged:
    """What is charged beyond units that are rolled over or shared, on from earlier tiers."""
    factor = context.factor(segment, charge.proration)
    included = Fraction(charge.included) * factor
    quantity = used.quantity
    if charge.convert is not None:
        quantity = convert_quantity(charge.convert, quantity)
    key = context.subscription, charge, group
    more = allowances.take(*key, quantity, included, segment)
    rated = rate_usage(
        charge,
        price,
        used,
        factor,
        context.exponent,
        more=more,
        position=allowances.position(*key),
    )
    rated = replace(rated, more=more)
    allowances.move(*key, rated.billable)
    words = describe_usage(charge, price, rated, factor, context.exponent, group)
    if more:
        words += f", {decimal_text(more)} more free: rolled over or shared"
    return _by_steps(price, rated, words)


def rate_usage(
    charge: UsageCharge,
    price: Price,
    used: UsageOf,
    factor: Fraction,
    exponent: int,
    *,
    shared: Sequence[Shared] = (),
    more: Fraction = Fraction(0),
    position: Fraction | None = None,
) -> Rated:
    """The amount of usage under one price of a charge, exact and with its steps.

    `factor` is how much of its period the usage is of. `exponent`: decimals of the currency.
    `shared` are single events with their parts of the period, `more` further free units,
    `position` the billable quantity that tiers go on from.
    """
    counted = sum((counted for _, counted in shared), Fraction(0))
    return rate(
        price,
        counted if charge.prorate_events and shared else used.quantity,
        shared=shared,
        exponent=exponent,
        events=used.events,
        singles=used.singles,
        convert=charge.convert,
        included=Fraction(charge.included) * factor + more,
        position=position,
        discount_percent=0 if charge.discount is None else charge.discount.percent,
        minimum=None if charge.minimum is None else Fraction(charge.minimum) * factor,
        maximum=None if charge.maximum is None else Fraction(charge.maximum) * factor,
        round_tiers=charge.round == "tier",
    )


def _unit_amount(price: Price, rated: Rated) -> Decimal | None:
    """The price of a unit where all units have the same one and nothing is added."""
    if isinstance(price, UnitPrice):
        return price.unit_amount
    if isinstance(price, VolumePrice) and rated.priced.steps:
        number = rated.priced.steps[0].tier
        tier = None if number is None else price.tiers[number - 1]
        plain = tier is not None and not (tier.flat_amount or tier.block_size or tier.max_amount)
        return tier.unit_amount if tier is not None and plain else None
    return None
