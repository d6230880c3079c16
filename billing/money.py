"""Money: exact until it is rounded, and how it is written.

    exact Fraction --round_amount--> Decimal with the currency's decimals --format_amount--> text

Rounding is half away from zero (2.5 -> 3, -2.5 -> -3), to the minor unit of the
currency: `exponent` is its number of decimals (`meters.currencies`). The default
context of `decimal`, which rounds sums at 28 digits without a word, is never used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal, Inexact
from fractions import Fraction
from functools import reduce
from math import lcm

from meters.numbers import EXACT, plain

EXACT_DIGITS = 30
"""Significant digits of an exact amount that no decimal can write in full."""

_QUANTA = [Decimal(1).scaleb(-exponent) for exponent in range(7)]
_ZEROS = [str(Decimal(0).scaleb(-exponent)) for exponent in range(7)]


def minor_units(exact: Fraction, exponent: int) -> int:
    """`exact` in minor units (cents), rounded half away from zero."""
    return _rounded(exact.numerator * 10**exponent, exact.denominator)


def _rounded(numerator: int, denominator: int) -> int:
    """A quotient rounded half away from zero; the denominator is above 0."""
    units, rest = divmod(abs(numerator), denominator)
    if 2 * rest >= denominator:
        units += 1
    return -units if numerator < 0 else units


def whole_units(amount: Decimal, exponent: int) -> int:
    """A rounded amount in minor units.

    Raises ValueError where `amount` has digits below the minor unit: rounding is
    a step of its own and happens once.
    """
    scaled = amount.scaleb(exponent, EXACT)
    units = int(scaled)
    if not amount.same_quantum(_QUANTA[exponent]) and units != scaled:
        raise ValueError(f"amount must have at most {exponent} decimals (got {amount})")
    return units


def from_minor_units(units: int, exponent: int) -> Decimal:
    """The amount of so many minor units, with exactly `exponent` decimals."""
    return Decimal(units).scaleb(-exponent, EXACT)


def round_amount(exact: Fraction, exponent: int) -> Decimal:
    """`exact` rounded half away from zero to `exponent` decimals."""
    return from_minor_units(minor_units(exact, exponent), exponent)


def add_amounts(amounts: Iterable[Decimal], exponent: int) -> Decimal:
    """The sum of rounded amounts of one currency: exact, or `decimal.Inexact` is raised."""
    return reduce(EXACT.add, amounts, from_minor_units(0, exponent))


def format_amount(amount: Decimal, exponent: int) -> str:
    """The amount with exactly the currency's decimals: `12.30`, JPY `12`, KWD `1.234`.

    Raises ValueError where `amount` has digits below the minor unit: rounding is
    a step of its own and happens once.
    """
    if not amount:
        return _ZEROS[exponent]
    text = str(amount)
    if text[-exponent - 1 : -exponent] == "." and "E" not in text:
        return text
    try:
        fixed = amount.quantize(_QUANTA[exponent], context=EXACT)
    except Inexact:
        raise ValueError(f"amount must have at most {exponent} decimals (got {amount})") from None
    return str(fixed)


def format_price(price: Decimal, exponent: int) -> str:
    """A price in full, with at least the currency's decimals: `49.00`, `0.002`."""
    text = plain(price)
    decimals = len(text.partition(".")[2])
    return text if decimals >= exponent else format_amount(price, exponent)


def decimal_text(exact: Decimal | Fraction) -> str:
    """An exact number in plain notation: in full where a decimal can write it.

    Otherwise (thirds, sevenths ...) the text is cut, not rounded, after
    `EXACT_DIGITS` significant digits. So rounding the text to a minor unit gives
    the same amount as rounding the Fraction.
    """
    if isinstance(exact, Decimal):
        return plain(exact)
    places = _decimal_places(exact.denominator)
    if places is None:
        magnitude = abs(exact)
        leading = len(str(int(magnitude))) if magnitude >= 1 else -_leading_zeros(magnitude)
        places = max(EXACT_DIGITS - leading, 0)
    scaled = abs(exact.numerator) * 10**places // exact.denominator
    text = _fixed(-scaled if exact < 0 else scaled, places)
    return text.rstrip("0").rstrip(".") if places else text


def spread(units: int, weights: Sequence[int | Fraction]) -> list[int]:
    """`units` minor units over `weights` by largest remainder; the sum is `units`.

    Ties go to the earlier weight, so the caller brings the weights in a stable
    order (subscription, order of the charge, group), never in input order.
    Raises ValueError where a weight is negative or where units cannot be spread
    because no weight is above 0.
    """
    if any(weight < 0 for weight in weights):
        raise ValueError(f"weights must not be negative (got {min(weights)})")
    whole = lcm(*(weight.denominator for weight in weights))
    numerators = [int(weight * whole) for weight in weights]
    total = sum(numerators)
    if total == 0:
        if units:
            raise ValueError(f"weights must have a sum above 0 to spread {units} (got 0)")
        return [0] * len(weights)
    parts = _by_largest_remainder([abs(units) * each for each in numerators], total, abs(units))
    return parts if units >= 0 else [-part for part in parts]


def spread_shares(numerators: Sequence[int], denominator: int) -> list[int]:
    """Whole units near the exact shares, summing to their sum, rounded half away from zero.

    A share is its numerator over the denominator (above 0), and may be negative. Each
    part is its share rounded down, or one more for the largest remainders; ties go to
    the earlier share.
    """
    total = _rounded(sum(numerators), denominator)
    return _by_largest_remainder(numerators, denominator, total)


def _by_largest_remainder(numerators: Sequence[int], denominator: int, total: int) -> list[int]:
    parts = [numerator // denominator for numerator in numerators]
    rests = [numerator % denominator for numerator in numerators]
    # Also the reverse order is a stable one: ties stay with the earlier part.
    by_remainder = sorted(range(len(parts)), key=rests.__getitem__, reverse=True)
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts


def _fixed(units: int, places: int) -> str:
    digits = str(abs(units)).rjust(places + 1, "0")
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{text}" if units < 0 else text


def _decimal_places(denominator: int) -> int | None:
    """How many decimals 1/denominator has; None where they never end."""
    twos = (denominator & -denominator).bit_length() - 1
    rest, fives = denominator >> twos, 0
    while rest % 5 == 0:
        rest //= 5
        fives += 1
    return max(twos, fives) if rest == 1 else None


def _leading_zeros(fraction: Fraction) -> int:
    """Zeros between the point and the first digit of a positive Fraction below 1."""
    zeros = max(len(str(fraction.denominator)) - len(str(fraction.numerator)) - 1, 0)
    while fraction * 10 ** (zeros + 1) < 1:
        zeros += 1
    return zeros
