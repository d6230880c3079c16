"""The lines of a slot: what holds in each of its segments, and changes within a period.

    segments of the period  -> usage, fees in arrears
    changes within it       -> fees in advance: units given back and added, for the rest of it
    the period that begins  -> fees in advance

What was billed in advance is not changed afterwards: the invoice at the end of the
period settles it. Fees with `proration: none` follow a change from the next period on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Literal

from billing.invoice import Line
from billing.lines import LineContext, fee_line, usage_lines
from billing.quantities import NO_USAGE, UsageOf
from billing.slots import Segment, Slot
from billing.tariffs import Tariff, Tariffs
from billing.thresholds import usage_end
from meters.catalog import Fee, Plan, UsageCharge
from meters.periods import Span

Held = tuple[Line, str | None]
"""A line, and the reason to hold its invoice, if there is one."""


def slot_lines(
    slot: Slot,
    plan: Plan,
    usage: Mapping[str, UsageOf] | Sequence[Mapping[str, UsageOf]],
    tariffs: Tariffs | None,
    context: LineContext,
) -> Iterator[Held]:
    """The rounded lines of a slot, in order."""
    if tariffs is None or isinstance(usage, Mapping):
        yield from _plain_lines(slot, plan, usage, context)
        return
    if slot.until is not None:
        yield from _so_far(slot, usage, context)
        return
    before: Tariff | None = None
    for cut, used in zip(slot.cuts, usage, strict=True):
        tariff = cut.tariff
        assert tariff is not None
        within = context.of(tariff)
        for charge in tariff.charges:
            if isinstance(charge, UsageCharge):
                yield from usage_lines(charge, used.get(charge.meter, NO_USAGE), cut, within)
            elif charge.when == "arrears" and not tariff.trial:
                for line in _arrears(charge, cut, tariffs, before is None, within):
                    yield line, None
        for line in _changes(before, cut, slot, tariffs, context):
            yield line, None
        before = tariff
    advance = slot.advance
    if advance is not None and advance.tariff is not None and not advance.tariff.trial:
        within = context.of(advance.tariff)
        for charge in advance.tariff.charges:
            if isinstance(charge, Fee) and charge.when == "advance":
                quantity = tariffs.quantity(charge.id, advance.part.start)
                yield fee_line(charge, advance, within, quantity=quantity), None


def _so_far(
    slot: Slot, usage: Sequence[Mapping[str, UsageOf]], context: LineContext
) -> Iterator[Held]:
    """What usage has cost so far, beyond what was billed; a minimum waits for the end."""
    for cut, used in zip(slot.cuts, usage, strict=True):
        assert cut.tariff is not None
        for charge in cut.tariff.charges:
            if not isinstance(charge, UsageCharge):
                continue
            charge = without_minimum(charge)
            known = used.get(charge.meter, NO_USAGE)
            for line, reason in usage_lines(charge, known, cut, context.of(cut.tariff)):
                if line.amount:
                    yield line.replaced(service_end=usage_end(slot, cut)), reason


def without_minimum(charge: UsageCharge) -> UsageCharge:
    """The charge as it is priced before the end of a period."""
    if charge.minimum is None:
        return charge
    return charge.model_copy(update={"minimum": None})


def _plain_lines(
    slot: Slot,
    plan: Plan,
    usage: Mapping[str, UsageOf] | Sequence[Mapping[str, UsageOf]],
    context: LineContext,
) -> Iterator[Held]:
    """The lines where one plan holds throughout, in the order of its charges."""
    assert isinstance(usage, Mapping)
    for charge in plan.charges:
        if isinstance(charge, UsageCharge):
            if slot.arrears is not None:
                used = usage.get(charge.meter, NO_USAGE)
                yield from usage_lines(charge, used, slot.arrears, context)
        else:
            segment = slot.advance if charge.when == "advance" else slot.arrears
            if segment is not None:
                yield fee_line(charge, segment, context), None


def _arrears(
    fee: Fee, cut: Segment, tariffs: Tariffs, first: bool, context: LineContext
) -> Iterator[Line]:
    """A fee in arrears over a segment, once for each quantity."""
    if fee.proration == "none":
        if first:
            yield fee_line(fee, cut, context, quantity=tariffs.quantity(fee.id, cut.part.start))
        return
    bounds = [cut.part.start, *tariffs.quantity_cuts(fee.id, cut.part), cut.part.end]
    for start, end in pairwise(bounds):
        part = Segment(Span(start, end), cut.whole, cut.tariff)
        yield fee_line(fee, part, context, quantity=tariffs.quantity(fee.id, start))


def _changes(
    before: Tariff | None, cut: Segment, slot: Slot, tariffs: Tariffs, context: LineContext
) -> Iterator[Line]:
    """What changes of plan and quantity add to the fees in advance of a period, or give back."""
    assert cut.tariff is not None
    assert slot.arrears is not None
    old, new = _advance(before), _advance(cut.tariff)
    end = slot.arrears.part.end
    if before is not None:
        at = cut.part.start
        rest = Segment(Span(at, end), cut.whole, cut.tariff)
        for name in dict.fromkeys([*old, *new]):
            quantity = tariffs.quantity(name, at)
            earlier = tariffs.quantity_before(name, at)
            if name in old and name in new and old[name].fee == new[name].fee:
                yield from _moved(new[name], rest, quantity - earlier, context.of(cut.tariff))
                continue
            if name in old:
                yield from _moved(old[name], rest, -earlier, context.of(before))
            if name in new:
                yield from _moved(new[name], rest, quantity, context.of(cut.tariff))
    for name, fee in new.items():
        for at in tariffs.quantity_cuts(name, cut.part):
            moved = tariffs.quantity(name, at) - tariffs.quantity_before(name, at)
            rest = Segment(Span(at, end), cut.whole, cut.tariff)
            yield from _moved(fee, rest, moved, context.of(cut.tariff))


def _advance(tariff: Tariff | None) -> dict[str, Fee]:
    """The fees in advance that follow a change at once."""
    if tariff is None or tariff.trial:
        return {}
    fees = [charge for charge in tariff.charges if isinstance(charge, Fee)]
    return {fee.id: fee for fee in fees if fee.when == "advance" and fee.proration != "none"}


def _moved(fee: Fee, rest: Segment, quantity: Decimal, context: LineContext) -> Iterator[Line]:
    if quantity:
        change: Literal["added", "given back"] = "added" if quantity > 0 else "given back"
        yield fee_line(fee, rest, context, quantity=quantity, change=change)
