"""From quantities to an invoice: one pure function for pipelines, previews and tests.

slot + plan + usage of its meters --build_invoice--> Invoice
plan + quantities                 --quote----------> Invoice of one full period
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from msgspec.structs import replace

from billing.allowances import Allowances
from billing.commitments import Commitments, commit
from billing.invoice import NO_GROUP, NOTHING_COMMITTED, Committed, Invoice, Line, Status
from billing.lines import LineContext, fee_line, usage_lines
from billing.quantities import NO_USAGE
from billing.quantities import UsageOf as UsageOf
from billing.single_events import Single
from billing.slot_lines import slot_lines
from billing.slots import Slot, hashed_id
from billing.tariffs import Tariffs
from billing.terms import NO_TERMS, Terms, settle
from meters.catalog import Meter, Plan, UsageCharge
from meters.currencies import currency_exponent
from meters.errors import ConfigurationError
from meters.scalars import canonical_json
from meters.zones import from_microseconds


def build_invoice(
    slot: Slot,
    plan: Plan,
    usage: Mapping[str, UsageOf] | Sequence[Mapping[str, UsageOf]],
    *,
    tenant: str = "default",
    status: Status = "draft",
    catalog_hash: str | None = None,
    terms: Terms = NO_TERMS,
    tariffs: Tariffs | None = None,
    commitments: Commitments | None = None,
    committed: Committed = NOTHING_COMMITTED,
    allowances: Allowances | None = None,
) -> Invoice:
    """The invoice of a slot, its lines in the order of the plan's charges.

    `usage` maps a meter id to its usage over `slot.arrears.part`; a meter that is
    missing was not used, and its line has quantity 0. Meters that the plan does
    not charge are ignored. Where usage has no price, a draft is held, with the reason.
    `terms` are its coupons, credits and taxes. With `tariffs`, those of its
    subscription, `usage` has one mapping for each of `slot.cuts`. `commitments` are the
    subscription's, `committed` is the state after the invoice before. `allowances` are
    the customer's, and what this invoice uses of them is gone, unless it is one within a
    period.
    """
    invoice_id = slot.invoice_id(tenant)
    exponent = currency_exponent(plan.currency)
    if allowances is not None and slot.until is not None:
        allowances = allowances.tentative()
    context = LineContext(
        invoice_id,
        slot.subscription,
        slot.time_zone,
        exponent,
        plan.id,
        allowances=allowances,
    )
    lines: list[Line] = []
    hold_reason: str | None = None
    for line, reason in slot_lines(slot, plan, usage, tariffs, context):
        lines.append(line)
        hold_reason = hold_reason or reason
    if allowances is not None and slot.until is None:
        allowances.end(slot)
    more, committed = commit(commitments, slot, lines, committed, context)
    settled = settle([*lines, *more], terms, context.exponent)
    return Invoice(
        invoice_id=invoice_id,
        tenant=tenant,
        kind="invoice",
        status="held" if status == "draft" and hold_reason else status,
        customer=slot.customer,
        subscription=slot.subscription,
        currency=plan.currency,
        billing_date=slot.billing_date,
        sequence=slot.sequence,
        period_start=slot.period_start,
        period_end=slot.period_end,
        lines=settled.lines,
        catalog_hash=catalog_hash,
        hold_reason=hold_reason,
        prepaid=settled.prepaid,
        redemptions=settled.redemptions,
        burns=settled.burns,
        committed=committed,
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

    Of a plan with versions, the last one is quoted. Raises ConfigurationError for a meter
    that the plan does not charge.
    """
    named = {**dict.fromkeys(events or {}, Decimal(0)), **usage}
    for meter_id in named:
        if meter_id not in plan.meters:
            charged = ", ".join(sorted(plan.meters)) or "no meter"
            raise ConfigurationError(
                f"usage must name a meter that plan {plan.id} charges: {charged} (got {meter_id})"
            )
    quoted = {
        meter_id: _quoted(meters[meter_id], value, events) for meter_id, value in named.items()
    }
    quantities = canonical_json({meter_id: [u.value, u.events] for meter_id, u in quoted.items()})
    invoice_id = hashed_id("quote", tenant, catalog_hash, plan.id, quantities)
    context = LineContext(invoice_id, None, "UTC", currency_exponent(plan.currency), plan.id)
    lines: list[Line] = []
    for charge in plan.versions[-1].charges if plan.versions else plan.charges:
        if isinstance(charge, UsageCharge):
            lines += _quoted_lines(charge, quoted.get(charge.meter, NO_USAGE), context)
        else:
            lines.append(fee_line(charge, None, context))
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
        lines=tuple(lines),
        catalog_hash=catalog_hash,
    )


def _quoted_lines(charge: UsageCharge, used: UsageOf, context: LineContext) -> list[Line]:
    """The lines of a charge, its quantity taken as one group without values."""
    keys = charge.group_keys
    whole = used if not keys else replace(used, groups={keys: {NO_GROUP: used}})
    found = []
    for line, reason in usage_lines(charge, whole, None, context):
        if reason is not None and used.value:
            why = "each event brings its own" if charge.by_event else "it depends on the group"
            raise ConfigurationError(
                f"usage must have a price to be quoted, and that of charge {charge.id} is not "
                f"known: {why} (got {charge.meter})"
            )
        found.append(line)
    return found


def _quoted(meter: Meter, value: Decimal, events: Mapping[str, int] | None) -> UsageOf:
    count = _quoted_events(meter, value, events)
    single = Single(from_microseconds(0), "quoted", value)
    return UsageOf(value, count, singles=(single,) if value else ())


def _quoted_events(meter: Meter, value: Decimal, events: Mapping[str, int] | None) -> int:
    if events is not None and meter.id in events:
        return events[meter.id]
    if meter.aggregation == "count":
        return max(int(value), 0)
    return 1 if value else 0
