"""Price models a second time: slow, grain by grain, and without the code under test.

Quantities and bounds are multiples of `given.GRAIN`; each grain looks for its own
tier from the bottom.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from meters.catalog import (
    DynamicPrice,
    FlatPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    Tier,
    UnitPrice,
    VolumePrice,
)
from tests.billing.given import GRAIN


def slow_amount(price: Price, quantity: Fraction, events: int) -> Fraction:
    grains = int(quantity / GRAIN)
    assert grains * GRAIN == quantity, f"not a multiple of {GRAIN}: {quantity}"
    total = Fraction(0)
    if isinstance(price, FlatPrice):
        return Fraction(price.amount)
    if isinstance(price, UnitPrice):
        for _ in range(grains):
            total += Fraction(price.unit_amount) * GRAIN
        return total
    if isinstance(price, PackagePrice):
        left = quantity - Fraction(price.free_units)
        while left > 0:
            total += Fraction(price.amount)
            left -= Fraction(price.size)
        return total
    if isinstance(price, PercentagePrice):
        for grain in range(1, grains + 1):
            if grain * GRAIN > Fraction(price.free_units):
                total += Fraction(price.rate) / 100 * GRAIN
        for _ in range(events):
            total += Fraction(price.fixed_amount)
        return total
    if isinstance(price, DynamicPrice):
        for _ in range(grains):
            total += Fraction(price.multiplier) * GRAIN
        return total
    if isinstance(price, GraduatedPercentagePrice):
        units = [
            Tier(up_to=t.up_to, unit_amount=t.rate / 100, flat_amount=t.flat_amount)
            for t in price.tiers
        ]
        return slow_amount(
            GraduatedPrice(model="graduated", tiers=units, flat_at_zero=price.flat_at_zero),
            quantity,
            events,
        )
    if isinstance(price, GraduatedPrice) and any(map(_special, price.tiers)):
        amounts = {0: Fraction(price.tiers[0].flat_amount)} if price.flat_at_zero else {}
        for index in range(len(price.tiers)):
            inside = [g for g in range(1, grains + 1) if _tier_of(price.tiers, g * GRAIN) == index]
            beyond = quantity > 0 and index <= _tier_of(price.tiers, quantity)
            if beyond:
                amounts[index] = _tier_amount(price.tiers[index], len(inside))
        if quantity == 0 and amounts:
            amounts[0] = _tier_amount(price.tiers[0], 0)
        return sum(amounts.values(), Fraction(0))
    if isinstance(price, GraduatedPrice):
        entered = {0} if price.flat_at_zero else set()
        for grain in range(1, grains + 1):
            index = _tier_of(price.tiers, grain * GRAIN)
            entered |= set(range(index + 1))
            total += Fraction(price.tiers[index].unit_amount) * GRAIN
        return total + sum(Fraction(price.tiers[index].flat_amount) for index in entered)
    assert isinstance(price, VolumePrice)
    if grains == 0 and not price.flat_at_zero:
        return total
    tier = price.tiers[_tier_of(price.tiers, quantity)]
    return _tier_amount(tier, grains)


def _special(tier: Tier) -> bool:
    return tier.block_size is not None or tier.max_amount is not None


def _tier_amount(tier: Tier, grains: int) -> Fraction:
    """What so many grains in one tier cost: block by block, and never above its cap."""
    total, left = Fraction(tier.flat_amount), grains * GRAIN
    step = GRAIN if tier.block_size is None else _exact(tier.block_size)
    price = _exact(tier.unit_amount) * (GRAIN if tier.block_size is None else 1)
    while left > 0:
        total += price
        left -= step
    return total if tier.max_amount is None else min(total, _exact(tier.max_amount))


def _tier_of(tiers: list[Tier], quantity: Fraction) -> int:
    below = [t for t in tiers if t.up_to is not None and quantity > _exact(t.up_to)]
    return len(below)


def _exact(number: Decimal) -> Fraction:
    return Fraction(number)
