"""Coupons: what they take off the lines of an invoice.

    line coupons -> plan coupons -> invoice coupons; in each, percentages before amounts

Each is computed on what remains of the lines that it applies to, rounded once to the
minor unit, and spread over them by largest remainders. Neither a line nor the sum of
all lines falls below 0, so what a coupon cannot take off lapses. A line with a
negative amount (money given back) has nothing to take off.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction

from billing.invoice import Line, Redemption
from billing.money import from_minor_units, minor_units, spread, whole_units
from meters.catalog_terms import Coupon


def coupons_in_force(
    coupons: Sequence[Coupon], billing_date: datetime, earlier: Sequence[datetime]
) -> tuple[Coupon, ...]:
    """Those that take part in an invoice of a subscription.

    `earlier` are the billing dates of the subscription's invoices before this one. A
    coupon for N periods takes part in the first N invoices dated within its span.
    """
    return tuple(
        coupon
        for coupon in coupons
        if _dated(coupon, billing_date)
        and (coupon.periods is None or sum(_dated(coupon, at) for at in earlier) < coupon.periods)
    )


def redeem(
    lines: Sequence[Line], coupons: Sequence[Coupon], exponent: int
) -> tuple[tuple[Line, ...], tuple[Redemption, ...]]:
    """The lines with their discounts, and what each coupon took off.

    `lines` come in the order by which ties are broken. `exponent`: decimals of the
    currency. A coupon that finds nothing to take off is not redeemed.
    """
    if not coupons:
        return tuple(lines), ()
    units = [whole_units(line.amount, exponent) for line in lines]
    remaining = [max(each, 0) for each in units]
    given_back = sum(min(each, 0) for each in units)
    taken = [0] * len(lines)
    names: list[list[str]] = [[] for _ in lines]
    redemptions = []
    for coupon in sorted(coupons, key=_order):
        eligible = [
            index for index, line in enumerate(lines) if remaining[index] and _applies(coupon, line)
        ]
        base = sum(remaining[index] for index in eligible)
        off = min(_off(coupon, base, exponent), base, sum(remaining) + given_back)
        if off <= 0:
            continue
        parts = spread(off, [remaining[index] for index in eligible])
        for index, part in zip(eligible, parts, strict=True):
            remaining[index] -= part
            taken[index] += part
            if part:
                names[index].append(coupon.id)
        redemptions.append(Redemption(coupon.id, from_minor_units(off, exponent)))
    discounted = tuple(
        line.replaced(
            discount=from_minor_units(off, exponent),
            description=", ".join([line.description, *(f"coupon {name}" for name in named)]),
        )
        if off
        else line
        for line, off, named in zip(lines, taken, names, strict=True)
    )
    return discounted, tuple(redemptions)


def _dated(coupon: Coupon, at: datetime) -> bool:
    return (coupon.start is None or coupon.start <= at) and (coupon.end is None or at < coupon.end)


def _order(coupon: Coupon) -> tuple[int, bool]:
    level = 0 if coupon.charges else 1 if coupon.plans else 2
    return level, coupon.percent is None


def _applies(coupon: Coupon, line: Line) -> bool:
    if coupon.charges:
        return line.charge in coupon.charges
    return not coupon.plans or line.plan in coupon.plans


def _off(coupon: Coupon, base: int, exponent: int) -> int:
    if coupon.percent is not None:
        return minor_units(base * Fraction(coupon.percent) / 100, 0)
    return minor_units(Fraction(coupon.amount or 0), exponent)
