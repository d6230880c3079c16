"""From quantities to an invoice: one pure function for pipelines, previews and tests.

slot + plan + usage of its meters --build_invoice--> Invoice
plan + quantities                 --quote----------> Invoice of one full period
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from billing.descriptions import describe_fee, describe_usage
from billing.invoice import NO_GROUP, Invoice, Line, Status
from billing.money import round_amount
from billing.prices import Rated, rate
from billing.slots import Segment, Slot, hashed_id
from meters.catalog import Fee, Meter, Plan, Proration, UnitPrice, UsageCharge, VolumePrice
from meters.currencies import currency_exponent
from meters.errors import ConfigurationError
from meters.periods import proration_factor
from meters.scalars import canonical_json
from meters.timestamps import format_instant


@dataclass(frozen=True, slots=True)
class UsageOf:
    """The usage of one meter over one segment, all groups merged.

    `value` is the meter's value; None where no event gave one (as for `max`
    without events), billed as 0. `events` is the number of events counted,
    `revision` the highest revision of the rows.
    """

    value: Decimal | None = None
    events: int = 0
    revision: int = 0


NO_USAGE = UsageOf()


def build_invoice(
    slot: Slot,
    plan: Plan,
    usage: Mapping[str, UsageOf],
    *,
    tenant: str = "default",
    status: Status = "draft",
    catalog_hash: str | None = None,
) -> Invoice:
    """The invoice of a slot, its lines in the order of the plan's charges.

    `usage` maps a meter id to its usage over `slot.arrears.part`; a meter that is
    missing was not used, and its line has quantity 0. Meters that the plan does
    not charge are ignored.
    """
    invoice_id = slot.invoice_id(tenant)
    context = _Context(
        invoice_id, slot.subscription, slot.time_zone, currency_exponent(plan.currency)
    )
    lines = []
    for charge in plan.charges:
        if isinstance(charge, UsageCharge):
            if slot.arrears is not None:
                used = usage.get(charge.meter, NO_USAGE)
                lines.append(_usage_line(charge, used, slot.arrears, context))
        else:
            segment = slot.advance if charge.when == "advance" else slot.arrears
            if segment is not None:
                lines.append(_fee_line(charge, segment, context))
    return Invoice(
        invoice_id=invoice_id,
        tenant=tenant,
        kind="invoice",
        status=status,
        customer=slot.customer,
        subscription=slot.subscription,
        currency=plan.currency,
        billing_date=slot.billing_date,
        sequence=slot.sequence,
        period_start=slot.period_start,
        period_end=slot.period_end,
        lines=tuple(lines),
        catalog_hash=catalog_hash,
    )


def quote(
    plan: Plan,
    meters: Mapping[str, Meter],
    usage: Mapping[str, Decimal],
    *,
    events: Mapping[str, int] | None = None,
    tenant: str = "default",
    catalog_hash: str | None = None,
) -> Invoice:
    """What one full period of a plan costs for these quantities by meter id.

    Every fee stands on it once, in advance or in arrears; a meter that is not
    named is quoted at 0. No customer, no subscription, no dates, no tax. The
    number of events, for prices with a fixed amount an event, is taken from
    `events`; where it is not given it is the quantity for a `count` meter, else 1
    (one event of that quantity), and 0 for quantity 0.

    Raises ConfigurationError for a meter that the plan does not charge.
    """
    named = {**dict.fromkeys(events or {}, Decimal(0)), **usage}
    for meter_id in named:
        if meter_id not in plan.meters:
            charged = ", ".join(sorted(plan.meters)) or "no meter"
            raise ConfigurationError(
                f"usage must name a meter that plan {plan.id} charges: {charged} (got {meter_id})"
            )
    quoted = {
        meter_id: UsageOf(value, _quoted_events(meters[meter_id], value, events))
        for meter_id, value in named.items()
    }
    quantities = canonical_json({meter_id: [u.value, u.events] for meter_id, u in quoted.items()})
    invoice_id = hashed_id("quote", tenant, catalog_hash, plan.id, quantities)
    context = _Context(invoice_id, None, "UTC", currency_exponent(plan.currency))
    lines = tuple(
        _usage_line(charge, quoted.get(charge.meter, NO_USAGE), None, context)
        if isinstance(charge, UsageCharge)
        else _fee_line(charge, None, context)
        for charge in plan.charges
    )
    return Invoice(
        invoice_id=invoice_id,
        tenant=tenant,
        kind="invoice",
        status="quote",
        customer=None,
        subscription=None,
        currency=plan.currency,
        billing_date=None,
        sequence=0,
        period_start=None,
        period_end=None,
        lines=lines,
        catalog_hash=catalog_hash,
    )


@dataclass(frozen=True, slots=True)
class _Context:
    """What all lines of one invoice share."""

    invoice_id: str
    subscription: str | None
    time_zone: str
    exponent: int

    def factor(self, segment: Segment | None, mode: Proration) -> Fraction:
        if segment is None or segment.part == segment.whole:
            return Fraction(1)
        return proration_factor(segment.part, segment.whole, self.time_zone, mode)

    def line_id(self, charge: str, group: str, segment: Segment | None) -> str:
        """Unique on the invoice: a charge may stand there once for each segment and group."""
        span = (
            (None, None)
            if segment is None
            else (format_instant(segment.part.start), format_instant(segment.part.end))
        )
        return hashed_id("line", self.invoice_id, self.subscription, charge, group, *span)


def _fee_line(fee: Fee, segment: Segment | None, context: _Context) -> Line:
    factor = context.factor(segment, fee.proration)
    exact = Fraction(fee.fee) * factor
    return Line(
        line_id=context.line_id(fee.id, NO_GROUP, segment),
        subscription=context.subscription,
        charge=fee.id,
        plan_version=None,
        meter=None,
        group=NO_GROUP,
        service_start=None if segment is None else segment.part.start,
        service_end=None if segment is None else segment.part.end,
        quantity=Decimal(1),
        unit_amount=fee.fee,
        amount_exact=exact,
        amount=round_amount(exact, context.exponent),
        description=describe_fee(fee, factor, context.exponent),
    )


def _usage_line(
    charge: UsageCharge, usage: UsageOf, segment: Segment | None, context: _Context
) -> Line:
    factor = context.factor(segment, charge.proration)
    quantity = Decimal(0) if usage.value is None else usage.value
    rated = rate(
        charge.price,
        quantity,
        exponent=context.exponent,
        events=usage.events,
        included=Fraction(charge.included) * factor,
        minimum=None if charge.minimum is None else Fraction(charge.minimum) * factor,
        maximum=None if charge.maximum is None else Fraction(charge.maximum) * factor,
    )
    return Line(
        line_id=context.line_id(charge.id, NO_GROUP, segment),
        subscription=context.subscription,
        charge=charge.id,
        plan_version=None,
        meter=charge.meter,
        group=NO_GROUP,
        service_start=None if segment is None else segment.part.start,
        service_end=None if segment is None else segment.part.end,
        quantity=quantity,
        unit_amount=_unit_amount(charge, rated),
        amount_exact=rated.exact,
        amount=rated.amount,
        description=describe_usage(charge, rated, factor, context.exponent),
        revision=usage.revision,
    )


def _unit_amount(charge: UsageCharge, rated: Rated) -> Decimal | None:
    """The price of a unit where all units have the same one and nothing is added."""
    price = charge.price
    if isinstance(price, UnitPrice):
        return price.unit_amount
    if isinstance(price, VolumePrice) and rated.priced.steps:
        number = rated.priced.steps[0].tier
        tier = None if number is None else price.tiers[number - 1]
        return None if tier is None or tier.flat_amount else tier.unit_amount
    return None


def _quoted_events(meter: Meter, value: Decimal, events: Mapping[str, int] | None) -> int:
    if events is not None and meter.id in events:
        return events[meter.id]
    if meter.aggregation == "count":
        return max(int(value), 0)
    return 1 if value else 0
