"""What a line says to the person who pays: short, and the same in every locale.

Numbers are in plain notation (no thousands separators), prices with at least the
currency's decimals: `calls: 1500 units, 1000 included, at 0.002`.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import assert_never

from billing.money import decimal_text, format_price
from billing.prices import Rated, Step
from meters.catalog import (
    Fee,
    FlatPrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    UnitPrice,
    UsageCharge,
    VolumePrice,
)
from meters.numbers import plain


def describe_fee(fee: Fee, factor: Fraction, exponent: int) -> str:
    """`seat_fee: 49.00, prorated 15/31`."""
    return ", ".join(
        [f"{fee.description or fee.id}: {format_price(fee.fee, exponent)}", *_prorated(factor)]
    )


def describe_usage(charge: UsageCharge, rated: Rated, factor: Fraction, exponent: int) -> str:
    """What was used, what of it is included, at which price, and which bound applied."""
    units = "unit" if rated.quantity == 1 else "units"
    parts = [f"{charge.description or charge.id}: {decimal_text(rated.quantity)} {units}"]
    prorated = bool(charge.included)
    if charge.included:
        parts.append(f"{plain(charge.included)} included")
    if rated.quantity < 0:
        parts.append("billed as 0")
    parts.append(_price(charge, rated, exponent))
    if rated.bound == "maximum" and charge.maximum is not None:
        parts.append(f"capped at the maximum {format_price(charge.maximum, exponent)}")
        prorated = True
    if rated.bound == "minimum" and charge.minimum is not None:
        parts.append(f"raised to the minimum {format_price(charge.minimum, exponent)}")
        prorated = True
    return ", ".join([*parts, *(_prorated(factor) if prorated else [])])


def _prorated(factor: Fraction) -> list[str]:
    return [] if factor == 1 else [f"prorated {factor}"]


def _price(charge: UsageCharge, rated: Rated, exponent: int) -> str:
    def money(amount: Decimal) -> str:
        return format_price(amount, exponent)

    price, steps = charge.price, rated.priced.steps
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
        case GraduatedPrice():
            return f"graduated, {_reached(steps)} of {_count(len(price.tiers), 'tier')}"
        case VolumePrice():
            if not steps or steps[0].tier is None:
                return "volume, no tier reached"
            tier = price.tiers[steps[0].tier - 1]
            flat = f" plus {money(tier.flat_amount)}" if tier.flat_amount else ""
            return f"volume, tier {steps[0].tier} at {money(tier.unit_amount)}{flat}"
        case PercentagePrice():
            free = f"{plain(price.free_units)} free, " if price.free_units else ""
            text = f"{free}{plain(price.rate)} percent"
            if not price.fixed_amount:
                return text
            events = _count(int(steps[1].quantity), "event")
            return f"{text} plus {money(price.fixed_amount)} for each of {events}"
        case _:
            assert_never(price)


def _reached(steps: tuple[Step, ...]) -> str:
    return f"{len(steps)} reached" if steps else "none reached"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
