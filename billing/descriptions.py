"""What a line says to the person who pays: short, and the same in every locale.

Numbers are in plain notation (no thousands separators), prices with at least the
currency's decimals: `calls: 1500 units, 1000 included, at 0.002`.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import assert_never

from billing.money import decimal_text, format_price
from billing.prices import Rated
from billing.quantities import UsageOf, group_values
from billing.steps import Step
from meters.catalog import (
    DynamicPrice,
    Fee,
    FlatPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    UnitPrice,
    UsageCharge,
    VolumePrice,
)
from meters.numbers import plain
from meters.scalars import Scalar, canonical_scalar


def describe_fee(
    fee: Fee,
    factor: Fraction,
    exponent: int,
    quantity: Decimal = Decimal(1),
    change: str = "",
) -> str:
    """`seat_fee: 5 at 49.00, prorated 15/31`, and whether a change added it or gave it back."""
    price = format_price(fee.fee, exponent)
    units = "" if abs(quantity) == 1 else f"{plain(abs(quantity))} at "
    changed = [change] if change else []
    title = fee.description or fee.id
    return ", ".join([f"{title}: {units}{price}", *changed, *_prorated(factor)])


def describe_usage(
    charge: UsageCharge, price: Price, rated: Rated, factor: Fraction, exponent: int, group: str
) -> str:
    """What was used, what of it is included, at which price, and which bound applied."""
    units = decimal_text(rated.metered)
    parts = [f"{charge_title(charge, group)}: {units} {'unit' if units == '1' else 'units'}"]
    prorated = bool(charge.included)
    if charge.convert is not None:
        parts.append(f"billed as {decimal_text(rated.quantity)}")
    if charge.included:
        parts.append(f"{plain(charge.included)} included")
    if rated.quantity < 0:
        parts.append("billed as 0")
    parts.append(_price(price, rated, exponent))
    if charge.discount is not None:
        parts.append(f"less {plain(charge.discount.percent)} percent")
    if rated.bound == "maximum" and charge.maximum is not None:
        parts.append(f"capped at the maximum {format_price(charge.maximum, exponent)}")
        prorated = True
    if rated.bound == "minimum" and charge.minimum is not None:
        parts.append(f"raised to the minimum {format_price(charge.minimum, exponent)}")
        prorated = True
    return ", ".join([*parts, *(_prorated(factor) if prorated else [])])


def describe_missing(charge: UsageCharge, group: str, used: UsageOf) -> str:
    """That usage has no price, and so holds its invoice."""
    units = decimal_text(used.quantity)
    return f"{charge_title(charge, group)}: {units} {'unit' if units == '1' else 'units'}, no price"


def describe_trial(charge: UsageCharge, used: UsageOf) -> str:
    """What was used in a trial."""
    units = decimal_text(used.quantity)
    return f"{charge_title(charge, '{}')}: {units} {'unit' if units == '1' else 'units'}, trial"


def charge_title(charge: UsageCharge, group: str) -> str:
    """What a charge is called, with the values of the group that it is priced for."""
    return title_of(charge.description or charge.id, group)


def title_of(name: str, group: str) -> str:
    """A name with the values of a group: `calls (region eu)`."""
    values = [f"{key} {_shown(value)}" for key, value in group_values(group).items()]
    return f"{name} ({', '.join(values)})" if values else name


def _shown(value: Scalar) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else canonical_scalar(value)


def _prorated(factor: Fraction) -> list[str]:
    return [] if factor == 1 else [f"prorated {factor}"]


def _price(price: Price, rated: Rated, exponent: int) -> str:
    def money(amount: Decimal) -> str:
        return format_price(amount, exponent)

    steps = rated.priced.steps
    match price:
        case FlatPrice():
            return f"flat {money(price.amount)}"
        case UnitPrice():
            return f"at {money(price.unit_amount)}"
        case PackagePrice():
            count = decimal_text(steps[0].quantity)
            noun = "package" if count == "1" else "packages"
            free = f"{plain(price.free_units)} free, " if price.free_units else ""
            return f"{free}{count} {noun} of {plain(price.size)} at {money(price.amount)}"
        case GraduatedPrice() | GraduatedPercentagePrice():
            return f"graduated, {_reached(steps)} of {counted(len(price.tiers), 'tier')}"
        case VolumePrice():
            if not steps or steps[0].tier is None:
                return "volume, no tier reached"
            tier = price.tiers[steps[0].tier - 1]
            flat = f" plus {money(tier.flat_amount)}" if tier.flat_amount else ""
            block = "" if tier.block_size is None else f" for each {plain(tier.block_size)}"
            return f"volume, tier {steps[0].tier} at {money(tier.unit_amount)}{block}{flat}"
        case PercentagePrice():
            free = f"{plain(price.free_units)} free, " if price.free_units else ""
            text = f"{free}{plain(price.rate)} percent"
            if price.free_events:
                text = f"{counted(price.free_events, 'event')} free, {text}"
            for step in steps[1:]:
                events = counted(int(step.quantity), "event")
                if step.kind == "events":
                    text += f" plus {money(price.fixed_amount)} for each of {events}"
                elif step.quantity:
                    text += f", bounded for {events}"
            return text
        case DynamicPrice():
            times = "" if price.multiplier == 1 else f" times {plain(price.multiplier)}"
            if price.property is None:
                return f"a sum of prices{times}"
            return f"at the prices of the events, together {decimal_text(steps[0].quantity)}{times}"
        case _:
            assert_never(price)


def _reached(steps: tuple[Step, ...]) -> str:
    return f"{len(steps)} reached" if steps else "none reached"


def counted(number: int, noun: str) -> str:
    """`1 event`, `2 events`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
