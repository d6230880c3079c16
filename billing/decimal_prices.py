"""Prices in exact decimals: what `billing.prices.rate` says, without its fractions.

    charge + price --compile_charge, once--> DecimalCharge
    quantity, events --DecimalCharge.rate--> quantity, amounts and words of a line

A measured quantity has 12 places and a price at most 20, so nearly every amount is a
finite decimal; fractions are needed where a charge is prorated, rounded by tier or priced
by single events, and where a conversion has no finite quotient. There `compile_charge`
or `rate` says None and `billing.prices` does the work. Both forms give the same lines,
texts included; arithmetic that would lose a digit is an error here, never a rounding.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, Inexact
from fractions import Fraction

import msgspec

from billing.descriptions import counted, title_of
from billing.invoice import NO_GROUP
from billing.money import format_price
from billing.prices import Rated
from meters.catalog import (
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
    UsageCharge,
    VolumePrice,
)
from meters.catalog_charges import Convert
from meters.catalog_prices import by_event
from meters.numbers import plain

_EXACT = Context(prec=400, traps=[Inexact])
_ROUND = Context(prec=400, rounding=ROUND_HALF_UP, traps=[])
_ZERO = Decimal(0)
_ONE = Decimal(1)

_add, _subtract, _multiply = _EXACT.add, _EXACT.subtract, _EXACT.multiply

_Amount = Callable[[Decimal, int], tuple[Decimal, str]]
"""Units (not below 0) and events -> the exact amount, and the price in words."""

# What this form knows of each model. Whatever else a catalog gives goes to the fractions.
_KNOWN: dict[type, frozenset[str]] = {
    UsageCharge: frozenset(
        (
            *("id", "meter", "price", "price_by", "prices", "default_price", "convert"),
            *("included", "discount", "minimum", "maximum", "round", "proration", "tax"),
            "description",
        )
    ),
    FlatPrice: frozenset(("model", "amount")),
    UnitPrice: frozenset(("model", "unit_amount")),
    PackagePrice: frozenset(("model", "amount", "size", "free_units")),
    GraduatedPrice: frozenset(("model", "tiers", "flat_at_zero")),
    VolumePrice: frozenset(("model", "tiers", "flat_at_zero")),
    GraduatedPercentagePrice: frozenset(("model", "tiers", "flat_at_zero")),
    PercentagePrice: frozenset(("model", "rate", "fixed_amount", "free_units")),
    DynamicPrice: frozenset(("model", "multiplier")),
    Tier: frozenset(("up_to", "unit_amount", "flat_amount", "block_size", "max_amount")),
    RateTier: frozenset(("up_to", "rate", "flat_amount")),
    Convert: frozenset(("divide_by", "round", "precision")),
}


class Charged(msgspec.Struct, frozen=True, gc=False):
    """The numbers of a line: quantity as billed, amounts before and after rounding, words.

    `rated` has the steps, where fractions were taken.
    """

    quantity: Decimal | Fraction
    unit_amount: Decimal | None
    exact: Decimal | Fraction
    amount: Decimal
    description: str
    rated: Rated | None = None


class DecimalCharge:
    """One charge under one price, in one currency, over whole periods."""

    def __init__(self, charge: UsageCharge, price: Price, exponent: int) -> None:
        self._convert = charge.convert
        self._included = charge.included
        self._minimum = charge.minimum
        self._maximum = charge.maximum
        self._quantum = Decimal(1).scaleb(-exponent)
        self._discount = None if charge.discount is None else charge.discount.percent
        self._unit_amount = price.unit_amount if isinstance(price, UnitPrice) else None
        # Neither the charge nor the price itself: the form must not keep them alive.
        self._volume = _volume_unit_amounts(price) if isinstance(price, VolumePrice) else None
        self._amount = _compiled(price, exponent)
        self._title = charge.description or charge.id
        self._included_words = f", {plain(charge.included)} included" if charge.included else ""
        self._discount_words = (
            "" if self._discount is None else f", less {plain(self._discount)} percent"
        )
        self._bounds = charge.minimum is not None or charge.maximum is not None
        self._exponent = exponent
        self.by_period = bool(charge.included) or self._bounds
        """Whether amounts depend on how much of its period a segment is."""

    def rate(self, metered: Decimal, events: int, group: str) -> Charged | None:
        """The numbers of a line over a whole period; None where they are no finite decimals."""
        try:
            return self._rate(metered, events, group)
        except Inexact:
            return None

    def _rate(self, metered: Decimal, events: int, group: str) -> Charged:
        title = self._title if group == NO_GROUP else title_of(self._title, group)
        shown = plain(metered)
        words = f"{title}: {shown} unit" if shown == "1" else f"{title}: {shown} units"
        quantity = metered
        if self._convert is not None:
            quantity = _converted(self._convert, metered)
            words += f", billed as {plain(quantity)}"
        words += self._included_words
        units = quantity
        if quantity < 0:
            words += ", billed as 0"
            units = _ZERO
        elif self._included:
            units = _subtract(units, self._included) if units > self._included else _ZERO
        exact, price_words = self._amount(units, events)
        words = f"{words}, {price_words}{self._discount_words}"
        if self._discount is not None:
            off = _multiply(exact, self._discount).scaleb(-2, _EXACT)
            exact = _subtract(exact, off)
        if self._bounds:
            exact, bound_words = self._bounded(exact)
            words += bound_words
        unit_amount = self._unit_amount
        if self._volume is not None:
            unit_amount = self._volume(units)
        amount = exact.quantize(self._quantum, ROUND_HALF_UP, _ROUND)
        return Charged(quantity, unit_amount, exact, amount, words)

    def _bounded(self, exact: Decimal) -> tuple[Decimal, str]:
        words = ""
        if self._maximum is not None and exact > self._maximum:
            exact = self._maximum
            words = f", capped at the maximum {format_price(exact, self._exponent)}"
        if self._minimum is not None and exact < self._minimum:
            exact = self._minimum
            words = f", raised to the minimum {format_price(exact, self._exponent)}"
        return exact, words


_compiled_charges: dict[tuple[int, int, int], tuple[object, object, DecimalCharge | None]] = {}


def compile_charge(charge: UsageCharge, price: Price, exponent: int) -> DecimalCharge | None:
    """The decimal form of a charge under one of its prices; None where it has none.

    Kept as long as the charge and the price live.
    """
    key = id(charge), id(price), exponent
    known = _compiled_charges.get(key)
    if known is None:
        # Bound here: at the end of the process the module's names are gone before this runs.
        def forget(_: object, drop: Callable[..., object] = _compiled_charges.pop) -> None:
            drop(key, None)

        form = DecimalCharge(charge, price, exponent) if _has_form(charge, price) else None
        known = weakref.ref(charge, forget), weakref.ref(price, forget), form
        _compiled_charges[key] = known
    return known[2]


def _has_form(charge: UsageCharge, price: Price) -> bool:
    if charge.round != "line" or by_event(price):
        return False
    parts: list[object] = [charge, price, *getattr(price, "tiers", ())]
    if charge.convert is not None:
        parts.append(charge.convert)
    return all(
        getattr(part, "model_fields_set", None) is not None
        and part.model_fields_set <= _KNOWN.get(type(part), frozenset())  # type: ignore[attr-defined]
        for part in parts
    )


def _converted(convert: Convert, quantity: Decimal) -> Decimal:
    """As `billing.prices.convert_quantity`; Inexact where a quotient never ends."""
    if convert.round is None:
        return _EXACT.divide(quantity, convert.divide_by)
    scaled = quantity.scaleb(convert.precision, _EXACT)
    whole, rest = _EXACT.divmod(scaled, convert.divide_by)
    if convert.round == "up":
        whole = _add(whole, _ONE) if rest > 0 else whole
    elif convert.round == "down":
        whole = _subtract(whole, _ONE) if rest < 0 else whole
    elif abs(rest) * 2 >= convert.divide_by:
        whole = _add(whole, _ONE if rest > 0 else -_ONE)
    return whole.scaleb(-convert.precision, _EXACT)


def _ceiling(units: Decimal, size: Decimal) -> Decimal:
    """How many sizes are begun."""
    whole, rest = _EXACT.divmod(units, size)
    return _add(whole, _ONE) if rest else whole


def _compiled(price: Price, exponent: int) -> _Amount:
    def money(amount: Decimal) -> str:
        return format_price(amount, exponent)

    match price:
        case FlatPrice():
            return _constant(price.amount, f"flat {money(price.amount)}")
        case UnitPrice():
            return _times(price.unit_amount, f"at {money(price.unit_amount)}")
        case PackagePrice():
            return _packages(price, money(price.amount))
        case GraduatedPrice() | GraduatedPercentagePrice():
            return _graduated(price.tiers, price.flat_at_zero)
        case VolumePrice():
            return _volume(price, money)
        case PercentagePrice():
            return _percentage(price, money(price.fixed_amount))
        case DynamicPrice():
            times = "" if price.multiplier == 1 else f" times {plain(price.multiplier)}"
            return _times(price.multiplier, f"a sum of prices{times}")
    raise TypeError(f"price must be of a known model (got {type(price).__name__})")


def _constant(amount: Decimal, words: str) -> _Amount:
    return lambda _units, _events: (amount, words)


def _times(unit_amount: Decimal, words: str) -> _Amount:
    return lambda units, _events: (_multiply(units, unit_amount), words)


def _packages(price: PackagePrice, amount: str) -> _Amount:
    free, size, each = price.free_units, price.size, price.amount
    before = f"{plain(free)} free, " if free else ""
    after = f"of {plain(size)} at {amount}"

    def of(units: Decimal, _events: int) -> tuple[Decimal, str]:
        charged = _subtract(units, free) if units > free else _ZERO
        count = _ceiling(charged, size)
        shown = plain(count)
        noun = "package" if shown == "1" else "packages"
        return _multiply(count, each), f"{before}{shown} {noun} {after}"

    return of


def _percentage(price: PercentagePrice, fixed: str) -> _Amount:
    share = price.rate.scaleb(-2, _EXACT)
    free, for_event = price.free_units, price.fixed_amount
    words = f"{plain(free)} free, " if free else ""
    words += f"{plain(price.rate)} percent"

    def of(units: Decimal, events: int) -> tuple[Decimal, str]:
        base = _subtract(units, free) if units > free else _ZERO
        amount = _multiply(base, share)
        if not for_event:
            return amount, words
        amount = _add(amount, _multiply(for_event, Decimal(events)))
        return amount, f"{words} plus {fixed} for each of {counted(events, 'event')}"

    return of


_Tiers = list[tuple[Decimal | None, Callable[[Decimal], Decimal]]]
"""The upper bound of each tier, and what units in it cost."""


def _tiers(tiers: Sequence[Tier | RateTier]) -> _Tiers:
    return [(tier.up_to, _tier_amount(tier)) for tier in tiers]


def _graduated(tiers: Sequence[Tier | RateTier], flat_at_zero: bool) -> _Amount:
    steps = _tiers(tiers)
    of_tiers = counted(len(tiers), "tier")
    reached = [f"graduated, {count} reached of {of_tiers}" for count in range(len(tiers) + 1)]
    reached[0] = f"graduated, none reached of {of_tiers}"

    def of(units: Decimal, _events: int) -> tuple[Decimal, str]:
        amount = lower = _ZERO
        count = 0
        for up_to, amount_of in steps:
            if not (units > lower or (count == 0 and flat_at_zero)):
                break
            count += 1
            if up_to is None or units <= up_to:
                return _add(amount, amount_of(_subtract(units, lower))), reached[count]
            amount = _add(amount, amount_of(_subtract(up_to, lower)))
            lower = up_to
        return amount, reached[count]

    return of


def _tier_amount(tier: Tier | RateTier) -> Callable[[Decimal], Decimal]:
    flat = tier.flat_amount
    if isinstance(tier, RateTier):
        share = tier.rate.scaleb(-2, _EXACT)
        return lambda units: _add(_multiply(units, share), flat)
    unit_amount, size, most = tier.unit_amount, tier.block_size, tier.max_amount
    if size is None and most is None:
        if not flat:
            return lambda units: _multiply(units, unit_amount)
        return lambda units: _add(_multiply(units, unit_amount), flat)

    def of(units: Decimal) -> Decimal:
        counted_units = units if size is None else _ceiling(units, size)
        amount = _add(_multiply(counted_units, unit_amount), flat)
        return amount if most is None or amount < most else most

    return of


def _tier_of(tiers: Sequence[Tier], units: Decimal) -> int:
    """The index of the tier that a quantity falls into."""
    return next(i for i, tier in enumerate(tiers) if tier.up_to is None or units <= tier.up_to)


def _volume(price: VolumePrice, money: Callable[[Decimal], str]) -> _Amount:
    tiers, flat_at_zero = price.tiers, price.flat_at_zero
    steps = _tiers(tiers)
    words = []
    for number, tier in enumerate(tiers, start=1):
        flat = f" plus {money(tier.flat_amount)}" if tier.flat_amount else ""
        block = "" if tier.block_size is None else f" for each {plain(tier.block_size)}"
        words.append(f"volume, tier {number} at {money(tier.unit_amount)}{block}{flat}")

    def of(units: Decimal, _events: int) -> tuple[Decimal, str]:
        if not units and not flat_at_zero:
            return _ZERO, "volume, no tier reached"
        at = _tier_of(tiers, units)
        return steps[at][1](units), words[at]

    return of


def _volume_unit_amounts(price: VolumePrice) -> Callable[[Decimal], Decimal | None]:
    """The price of a unit where the tier has nothing else."""
    tiers, flat_at_zero = price.tiers, price.flat_at_zero

    def of(units: Decimal) -> Decimal | None:
        if not units and not flat_at_zero:
            return None
        tier = tiers[_tier_of(tiers, units)]
        return None if tier.flat_amount or tier.block_size or tier.max_amount else tier.unit_amount

    return of
