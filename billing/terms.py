"""The terms under which a subscription's invoice is settled, and the settling itself.

    rounded lines -> coupons -> taxes -> lines of the invoice

The order of these steps is that of `docs/semantics.md`, "From quantity to amount".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from billing.coupons import coupons_in_force, redeem
from billing.invoice import Line, Redemption
from billing.taxes import add_taxes
from meters.catalog import Catalog, Customer, Plan, Subscription
from meters.catalog_terms import Coupon, Tax


@dataclass(frozen=True)
class Terms:
    """Coupons in force on one invoice, and the tax of each charge.

    `taxes` maps the id of a charge to its own tax; other lines have `default_tax`. An
    `exempt` customer has no tax on any line.
    """

    coupons: tuple[Coupon, ...] = ()
    taxes: Mapping[str, Tax] = field(default_factory=dict)
    default_tax: Tax | None = None
    exempt: bool = False

    def tax_of(self, line: Line) -> Tax | None:
        """The tax of a line, None for none."""
        return None if self.exempt else self.taxes.get(line.charge, self.default_tax)


NO_TERMS = Terms()


def terms_of(
    catalog: Catalog,
    subscription: Subscription,
    plan: Plan,
    billing_date: datetime,
    earlier: Sequence[datetime],
) -> Terms:
    """The terms of one invoice; `earlier` as in `billing.coupons.coupons_in_force`."""
    customer: Customer = catalog.customers_by_id[subscription.customer]
    taxes = catalog.taxes_by_id
    coupons = [catalog.coupons_by_id[name] for name in subscription.coupons]
    return Terms(
        coupons=coupons_in_force(coupons, billing_date, earlier),
        taxes={each.id: taxes[each.tax] for each in plan.charges if each.tax is not None},
        default_tax=None if customer.tax is None else taxes[customer.tax],
        exempt=bool(customer.tax_exempt_reason),
    )


def settle(
    lines: Sequence[Line], terms: Terms, exponent: int
) -> tuple[tuple[Line, ...], tuple[Redemption, ...]]:
    """The lines with discounts and taxes, and what the coupons took off."""
    discounted, redemptions = redeem(lines, terms.coupons, exponent)
    return add_taxes(discounted, terms.tax_of, exponent), redemptions
