"""Strategies and short forms that the billing tests share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from meters.catalog import (
    Customer,
    DynamicPrice,
    FlatPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    Plan,
    Price,
    RateTier,
    Subscription,
    Tier,
    UnitPrice,
    VolumePrice,
)

GRAIN = Fraction(1, 4)
"""Quantities and bounds are multiples of it, so that an oracle can walk grain by grain."""


def tiers(*rows: tuple[object, object, object]) -> list[Tier]:
    """Tiers of (up_to, unit_amount, flat_amount)."""
    return [
        Tier(
            up_to=None if up_to is None else Decimal(str(up_to)),
            unit_amount=Decimal(str(unit_amount)),
            flat_amount=Decimal(str(flat_amount)),
        )
        for up_to, unit_amount, flat_amount in rows
    ]


def plan(charges: Sequence[dict[str, Any]], **given: Any) -> Plan:
    """A plan as YAML would give it; EUR by month."""
    return Plan.model_validate({"id": "pro", "currency": "EUR", "charges": list(charges), **given})


def subscription(start: str, end: str | None = None) -> Subscription:
    return Subscription.model_validate(
        {"id": "sub", "customer": "acme", "plan": "pro", "start": start, "end": end}
    )


def customer(zone: str = "UTC") -> Customer:
    return Customer(id="acme", time_zone=zone)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


amounts = st.decimals(min_value=0, max_value=500, places=3)
small_amounts = st.sampled_from([Decimal(n) / 1000 for n in (0, 1, 2, 125, 500, 1000, 2900, 10000)])
grains = st.integers(min_value=0, max_value=200)
quantities = grains.map(lambda count: count * GRAIN)
bounds = st.lists(st.integers(min_value=1, max_value=120), max_size=4, unique=True).map(
    lambda counts: [Decimal(count) / 4 for count in sorted(counts)]
)


@st.composite
def tier_lists(draw: st.DrawFn, *, flats: bool = True, rising: bool = False) -> list[Tier]:
    ends: list[Decimal | None] = [*draw(bounds), None]
    some_amounts = st.lists(small_amounts, min_size=len(ends), max_size=len(ends))
    units = draw(some_amounts)
    flat = draw(some_amounts) if flats else [Decimal(0)] * len(ends)
    if rising:
        units, flat = sorted(units), sorted(flat)
    rows = zip(ends, units, flat, strict=True)
    return tiers(*rows)


@st.composite
def blocks(draw: st.DrawFn) -> list[Tier]:
    """Tiers that are sold in whole blocks, some with a cap."""
    sizes = st.integers(1, 30).map(lambda count: Decimal(count) / 4)
    caps = st.none() | st.sampled_from([Decimal("0.5"), Decimal(3)])
    return [
        tier.model_copy(update={"block_size": draw(st.none() | sizes), "max_amount": draw(caps)})
        for tier in draw(tier_lists())
    ]


@st.composite
def graduated_percentages(draw: st.DrawFn) -> GraduatedPercentagePrice:
    rows = [
        RateTier(up_to=tier.up_to, rate=tier.unit_amount, flat_amount=tier.flat_amount)
        for tier in draw(tier_lists())
    ]
    zero = draw(st.booleans())
    return GraduatedPercentagePrice(model="graduated_percentage", tiers=rows, flat_at_zero=zero)


@st.composite
def graduated(draw: st.DrawFn, *, flats: bool = True) -> GraduatedPrice:
    return GraduatedPrice(
        model="graduated",
        tiers=draw(tier_lists(flats=flats)),
        flat_at_zero=draw(st.booleans()),
    )


@st.composite
def volume(draw: st.DrawFn, *, rising: bool = False) -> VolumePrice:
    return VolumePrice(
        model="volume",
        tiers=draw(tier_lists(rising=rising)),
        flat_at_zero=draw(st.booleans()),
    )


flat_prices = st.builds(FlatPrice, model=st.just("flat"), amount=amounts)
unit_prices = st.builds(UnitPrice, model=st.just("unit"), unit_amount=amounts)
package_prices = st.builds(
    PackagePrice,
    model=st.just("package"),
    amount=amounts,
    size=st.integers(1, 40).map(lambda count: Decimal(count) / 4),
    free_units=grains.map(lambda count: Decimal(count) / 4),
)
percentage_prices = st.one_of(
    st.builds(
        PercentagePrice,
        model=st.just("percentage"),
        rate=small_amounts,
        fixed_amount=small_amounts,
    ),
    st.builds(
        PercentagePrice,
        model=st.just("percentage"),
        rate=small_amounts,
        free_units=grains.map(lambda count: Decimal(count) / 4),
    ),
)
dynamic_prices = st.builds(DynamicPrice, model=st.just("dynamic"), multiplier=small_amounts)
block_prices = st.builds(GraduatedPrice, model=st.just("graduated"), tiers=blocks())

rising_prices: st.SearchStrategy[Price] = st.one_of(
    flat_prices,
    unit_prices,
    package_prices,
    percentage_prices,
    graduated(),
    volume(rising=True),
    graduated_percentages(),
    dynamic_prices,
    block_prices,
)
"""Prices whose amount never falls with the quantity (a volume price may, by design)."""

prices: st.SearchStrategy[Price] = st.one_of(
    rising_prices, volume(), st.builds(VolumePrice, model=st.just("volume"), tiers=blocks())
)
