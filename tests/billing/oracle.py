"""Price models a second time: slow, grain by grain, and without the code under test.

Quantities and bounds are multiples of `given.GRAIN`; each grain looks for its own
tier from the bottom.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from meters.catalog import (
    FlatPrice,
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
    for _ in range(grains):
        total += Fraction(tier.unit_amount) * GRAIN
    return total + Fraction(tier.flat_amount)


def _tier_of(tiers: list[Tier], quantity: Fraction) -> int:
    below = [t for t in tiers if t.up_to is not None and quantity > _exact(t.up_to)]
    return len(below)


def _exact(number: Decimal) -> Fraction:
    return Fraction(number)
