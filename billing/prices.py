"""Price models: from a quantity to an exact amount, and to the amount of a line.

    quantity -> minus included -> price model (exact, with its steps)
             -> maximum, then minimum -> rounded once -> minus what was billed

Everything before the rounding is a Fraction. `price_amount` is one price model
alone; `rate` is the whole way, for a first bill as for a delta or a progressive
one. The rules and their order are those of `docs/semantics.md`, "From quantity
to amount".

A quantity below 0 (more was taken back than used) is priced as 0: usage never
makes a negative amount, while flat amounts and a minimum stay due. The line
shows the real quantity.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal, assert_never

from billing.money import minor_units, round_amount
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

Number = Fraction | Decimal | int
StepKind = Literal["flat", "units", "packages", "percent", "events"]
Bound = Literal["minimum", "maximum"]

_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Step:
    """One part of an amount: `quantity` x `unit_amount` + `flat_amount` = `amount`.

    `kind` says what `quantity` counts: units, packages, the base of a percentage
    (whose `unit_amount` is the rate as a fraction of 1) or events. `tier` counts
    from 1; None where the price has no tiers.
    """

    kind: StepKind
    quantity: Fraction
    unit_amount: Fraction
    flat_amount: Fraction = _ZERO
    tier: int | None = None

    @property
    def amount(self) -> Fraction:
        """What this step adds, exact."""
        return self.quantity * self.unit_amount + self.flat_amount


@dataclass(frozen=True, slots=True)
class Priced:
    """What a price model says: the steps; their sum is the exact amount."""

    steps: tuple[Step, ...]

    @property
    def amount(self) -> Fraction:
        """The exact amount, the sum of the steps."""
        return sum((step.amount for step in self.steps), _ZERO)


@dataclass(frozen=True, slots=True)
class Rated:
    """The amount of a line and how it came about.

    `quantity` is the cumulative quantity, `billable` what is left of it after the
    included units (never below 0), `priced` the answer of the price model,
    `bound` the limit that changed it. `exact` and `amount` are the cumulative
    amount minus what was billed, before and after rounding.
    """

    quantity: Fraction
    billable: Fraction
    priced: Priced
    bound: Bound | None
    exact: Fraction
    amount: Decimal


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
    steps = []
    lower = _ZERO
    for number, tier in enumerate(price.tiers, start=1):
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


def price_amount(price: Price, quantity: Number, events: int = 0) -> Priced:
    """The exact amount of a quantity under a price model, with its steps.

    `events` is the number of events behind the quantity, for a fixed amount an
    event. A negative quantity is priced as 0.
    """
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
        case _:
            assert_never(price)


def rate(
    price: Price,
    quantity: Number,
    billed_quantity: Number = 0,
    billed_amount: Number = 0,
    *,
    exponent: int,
    events: int = 0,
    included: Number = 0,
    minimum: Number | None = None,
    maximum: Number | None = None,
) -> Rated:
    """The amount of a line: the rounded cumulative amount minus what was billed.

    `quantity` is what comes on top of `billed_quantity` (negative where usage was
    taken back); their sum is priced as a whole, so tiers, included units, packages
    and bounds continue where the earlier bill ended, and bills in steps add up to
    the bill in one go. `events`, `included`, `minimum` and `maximum` are those of
    the whole span, prorated already where it was cut. `billed_amount` is a
    rounded amount. `exponent`: decimals of the currency.
    """
    cumulative = Fraction(quantity) + Fraction(billed_quantity)
    billable = max(cumulative - Fraction(included), _ZERO)
    priced = price_amount(price, billable, events)
    exact = priced.amount
    bound: Bound | None = None
    if maximum is not None and exact > Fraction(maximum):
        exact, bound = Fraction(maximum), "maximum"
    if minimum is not None and exact < Fraction(minimum):
        exact, bound = Fraction(minimum), "minimum"
    billed = Fraction(billed_amount)
    due = Fraction(minor_units(exact, exponent), 10**exponent) - billed
    return Rated(cumulative, billable, priced, bound, exact - billed, round_amount(due, exponent))


def _tier_step(tier: Tier, number: int, quantity: Fraction) -> Step:
    unit_amount, flat_amount = Fraction(tier.unit_amount), Fraction(tier.flat_amount)
    return Step("units", quantity, unit_amount, flat_amount, number)
