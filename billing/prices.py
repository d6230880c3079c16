"""Price models: from a quantity to an exact amount, and to the amount of a line.

    quantity -> converted -> minus included -> price model (exact, with its steps)
             -> discount -> maximum, then minimum -> rounded once -> minus what was billed

Everything before the rounding is a Fraction. `price_amount` is one price model
alone; `rate` is the whole way, for a first bill as for a delta or a progressive
one. The rules and their order are those of `docs/semantics.md`, "From quantity
to amount".

A quantity below 0 (more was taken back than used) is priced as 0: usage never
makes a negative amount, while flat amounts and a minimum stay due. The line
shows the real quantity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, assert_never

from billing.event_shares import Shared, price_graduated_shares
from billing.money import minor_units, round_amount
from billing.single_events import Single, price_dynamic_events, price_percentage_events
from billing.steps import Priced, Step
from meters.catalog_charges import Convert
from meters.catalog_prices import (
    DynamicPrice,
    FlatPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    RateTier,
    Tier,
    UnitPrice,
    VolumePrice,
    by_event,
)

Number = Fraction | Decimal | int
Bound = Literal["minimum", "maximum"]

_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Rated:
    """The amount of a line and how it came about.

    `quantity` is the cumulative quantity as billed (converted), `billable` what is
    left of it after the included units (never below 0), `priced` the answer of the
    price model, `bound` the limit that changed it. `exact` and `amount` are the
    cumulative amount minus what was billed, before and after rounding. `metered` is
    the cumulative quantity before conversion, `discount` what the charge's discount
    took off, `earlier` what the units of tiers cost that it goes on from. `more` is how many
    units were free beside the included ones.
    """

    quantity: Fraction
    billable: Fraction
    priced: Priced
    bound: Bound | None
    exact: Fraction
    amount: Decimal
    metered: Fraction
    discount: Fraction = _ZERO
    earlier: Fraction = _ZERO
    more: Fraction = _ZERO


def price_flat(price: FlatPrice) -> Priced:
    """The fixed amount of a period, whatever the quantity."""
    return Priced((Step("flat", _ZERO, _ZERO, Fraction(price.amount)),))


def price_unit(price: UnitPrice, quantity: Fraction) -> Priced:
    """`unit_amount` for each unit."""
    return Priced((Step("units", quantity, Fraction(price.unit_amount)),))


def price_package(price: PackagePrice, quantity: Fraction) -> Priced:
    """`amount` for each package begun, after the free units."""
    charged = max(quantity - Fraction(price.free_units), _ZERO)
    packages = -(-charged // Fraction(price.size))
    return Priced((Step("packages", Fraction(packages), Fraction(price.amount)),))


def price_graduated(price: GraduatedPrice, quantity: Fraction) -> Priced:
    """Each unit at the price of its tier, plus the flat amount of every tier entered.

    A tier is entered by any quantity above the bound before it; the first one also
    at quantity 0 where `flat_at_zero` says so.
    """
    return _graduated(price, quantity)


def price_graduated_percentage(price: GraduatedPercentagePrice, quantity: Fraction) -> Priced:
    """Each part of the quantity at the rate of its tier, with flat amounts as in `graduated`."""
    return _graduated(price, quantity)


def _graduated(price: GraduatedPrice | GraduatedPercentagePrice, quantity: Fraction) -> Priced:
    steps = []
    lower = _ZERO
    tiers: Sequence[Tier | RateTier] = price.tiers
    for number, tier in enumerate(tiers, start=1):
        if not (quantity > lower or (number == 1 and price.flat_at_zero)):
            break
        upper = quantity if tier.up_to is None else min(quantity, Fraction(tier.up_to))
        steps.append(_tier_step(tier, number, upper - lower))
        lower = upper if tier.up_to is None else Fraction(tier.up_to)
    return Priced(tuple(steps))


def price_volume(price: VolumePrice, quantity: Fraction) -> Priced:
    """All units at the price of the tier that the quantity falls into, and its flat amount.

    Quantity 0 falls into the first tier where `flat_at_zero` says so, else it is free.
    """
    if quantity == 0 and not price.flat_at_zero:
        return Priced(())
    for number, tier in enumerate(price.tiers, start=1):
        if tier.up_to is None or quantity <= Fraction(tier.up_to):
            return Priced((_tier_step(tier, number, quantity),))
    raise ValueError(f"the last tier must have no upper bound (got {price.tiers[-1].up_to})")


def price_percentage(price: PercentagePrice, quantity: Fraction, events: int) -> Priced:
    """`rate` percent of the quantity above the free units, plus `fixed_amount` an event."""
    base = max(quantity - Fraction(price.free_units), _ZERO)
    percent = Step("percent", base, Fraction(price.rate) / 100)
    if not price.fixed_amount:
        return Priced((percent,))
    return Priced((percent, Step("events", Fraction(events), Fraction(price.fixed_amount))))


def price_dynamic(price: DynamicPrice, quantity: Fraction) -> Priced:
    """The quantity is a sum of prices, taken times the multiplier."""
    return Priced((Step("prices", quantity, Fraction(price.multiplier)),))


def price_amount(
    price: Price, quantity: Number, events: int = 0, singles: Sequence[Single] = ()
) -> Priced:
    """The exact amount of a quantity under a price model, with its steps.

    `events` is the number of events behind the quantity, for a fixed amount an
    event. A price that needs single events (`meters.catalog_prices.by_event`) takes
    them, in the order in which they count, in place of quantity and events. A
    negative quantity is priced as 0.
    """
    if by_event(price):
        if isinstance(price, DynamicPrice):
            return price_dynamic_events(price, singles)
        if isinstance(price, PercentagePrice):
            return price_percentage_events(price, singles)
    units = max(Fraction(quantity), _ZERO)
    match price:
        case FlatPrice():
            return price_flat(price)
        case UnitPrice():
            return price_unit(price, units)
        case PackagePrice():
            return price_package(price, units)
        case GraduatedPrice():
            return price_graduated(price, units)
        case VolumePrice():
            return price_volume(price, units)
        case PercentagePrice():
            return price_percentage(price, units, events)
        case GraduatedPercentagePrice():
            return price_graduated_percentage(price, units)
        case DynamicPrice():
            return price_dynamic(price, units)
        case _:
            assert_never(price)


def convert_quantity(convert: Convert, quantity: Number) -> Fraction:
    """A metered quantity in billed units, rounded as `convert` says."""
    units = Fraction(quantity) / Fraction(convert.divide_by)
    if convert.round is None:
        return units
    scale = Fraction(10) ** convert.precision
    scaled = units * scale
    if convert.round == "up":
        rounded = -(-scaled.numerator // scaled.denominator)
    elif convert.round == "down":
        rounded = scaled.numerator // scaled.denominator
    else:
        rounded = minor_units(scaled, 0)
    return rounded / scale


def rate(
    price: Price,
    quantity: Number,
    billed_quantity: Number = 0,
    billed_amount: Number = 0,
    *,
    exponent: int,
    events: int = 0,
    singles: Sequence[Single] = (),
    convert: Convert | None = None,
    included: Number = 0,
    discount_percent: Number = 0,
    minimum: Number | None = None,
    maximum: Number | None = None,
    round_tiers: bool = False,
    position: Number | None = None,
    shared: Sequence[Shared] = (),
) -> Rated:
    """The amount of a line: the rounded cumulative amount minus what was billed.

    `quantity` is what comes on top of `billed_quantity` (negative where usage was
    taken back); their sum is priced as a whole, so tiers, included units, packages
    and bounds continue where the earlier bill ended, and bills in steps add up to
    the bill in one go. `events`, `singles`, `included`, `minimum` and `maximum` are
    those of the whole span, prorated already where it was cut. `billed_amount` is a
    rounded amount. `exponent`: decimals of the currency. With `round_tiers` each step
    of the price model is rounded by itself. Units begin at `position` of the tiers,
    whose amount, flat amounts too, is not charged again. `shared` are the units of
    events that count in part (`billing.event_shares`); `quantity` is then their sum.
    """
    metered = Fraction(quantity) + Fraction(billed_quantity)
    cumulative = metered if convert is None else convert_quantity(convert, metered)
    billable = max(cumulative - Fraction(included), _ZERO)
    if shared and isinstance(price, GraduatedPrice):
        priced = price_graduated_shares(price, shared)
    else:
        priced = price_amount(price, Fraction(position or 0) + billable, events, singles)
    exact, earlier = priced.amount, _ZERO
    if round_tiers:
        exact = _by_tier(priced, exponent)
    if position is not None:
        before = price_amount(price, position)
        earlier = _by_tier(before, exponent) if round_tiers else before.amount
        exact -= earlier
    discount = exact * Fraction(discount_percent) / 100
    exact -= discount
    bound: Bound | None = None
    if maximum is not None and exact > Fraction(maximum):
        exact, bound = Fraction(maximum), "maximum"
    if minimum is not None and exact < Fraction(minimum):
        exact, bound = Fraction(minimum), "minimum"
    billed = Fraction(billed_amount)
    due = Fraction(minor_units(exact, exponent), 10**exponent) - billed
    amount = round_amount(due, exponent)
    left = exact - billed
    return Rated(cumulative, billable, priced, bound, left, amount, metered, discount, earlier)


def _by_tier(priced: Priced, exponent: int) -> Fraction:
    """The sum of the steps, each of them rounded."""
    cents = sum(minor_units(step.amount, exponent) for step in priced.steps)
    return Fraction(cents, 10**exponent)


def _tier_step(tier: Tier | RateTier, number: int, quantity: Fraction) -> Step:
    flat_amount = Fraction(tier.flat_amount)
    if isinstance(tier, RateTier):
        return Step("percent", quantity, Fraction(tier.rate) / 100, flat_amount, number)
    limit = None if tier.max_amount is None else Fraction(tier.max_amount)
    unit_amount = Fraction(tier.unit_amount)
    if tier.block_size is None:
        return Step("units", quantity, unit_amount, flat_amount, number, limit)
    blocks = Fraction(-(-quantity // Fraction(tier.block_size)))
    return Step("blocks", blocks, unit_amount, flat_amount, number, limit)
