"""Taxes: for each of them on the net sum of its lines, rounded once, spread over them.

    lines with discount and credit --group by tax--> net sum x rate, rounded --spread--> lines

An inclusive tax is contained in the prices: the tax is taken out of the sum, and the
amount of each line is lowered by its part, so that the total stays what was priced.
Spreading is by largest remainders over the exact shares, so the lines of a tax sum to
it to the last unit, also beside lines that give money back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

from billing.invoice import Line
from billing.money import from_minor_units, spread_shares, whole_units
from meters.catalog_terms import Tax


def add_taxes(
    lines: Sequence[Line], tax_of: Callable[[Line], Tax | None], exponent: int
) -> tuple[Line, ...]:
    """The lines with their taxes, in the same order, by which ties are broken.

    `tax_of` says which tax a line has, None for none. `exponent`: decimals of the
    currency.
    """
    taxed = list(lines)
    groups: dict[str, tuple[Tax, list[int]]] = {}
    for index, line in enumerate(lines):
        tax = tax_of(line)
        if tax is not None:
            groups.setdefault(tax.id, (tax, []))[1].append(index)
    for tax, members in groups.values():
        factor = _factor(tax.rate, tax.inclusive)
        nets = [net_units(lines[index], exponent) * factor.numerator for index in members]
        for index, part in zip(members, spread_shares(nets, factor.denominator), strict=True):
            amount = from_minor_units(part, exponent)
            line = taxed[index]
            line = line.replaced(tax_code=tax.id, tax_rate=tax.rate, tax=amount)
            if tax.inclusive:
                words = f"{line.description}, tax included"
                line = line.replaced(amount=line.amount - amount, description=words)
            taxed[index] = line
    return tuple(taxed)


def net_units(line: Line, exponent: int) -> int:
    """What is taxed of a line, in minor units: its amount less discount and credit."""
    units = whole_units(line.amount, exponent)
    if line.discount:
        units -= whole_units(line.discount, exponent)
    if line.credit:
        units -= whole_units(line.credit, exponent)
    return units


@lru_cache(maxsize=256)
def _factor(percent: Decimal, inclusive: bool) -> Fraction:
    rate = Fraction(percent) / 100
    return rate / (1 + rate) if inclusive else rate
