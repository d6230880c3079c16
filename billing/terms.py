"""The terms under which a subscription's invoice is settled, and the settling itself.

    rounded lines -> coupons -> promotional credits -> taxes -> lines of the invoice
                                                            -> paid credits

The order of these steps is that of `docs/semantics.md`, "From quantity to amount".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from billing.coupons import coupons_in_force, redeem
from billing.credits import Balances, burn_paid, burn_promotional, burnable
from billing.invoice import Burn, Line, Redemption
from billing.money import add_amounts
from billing.slots import Slot
from billing.taxes import add_taxes
from meters.catalog import Catalog
from meters.catalog_terms import Coupon, CreditGrant, Tax


@dataclass(frozen=True)
class Terms:
    """Coupons and credit grants in force on one invoice, and its taxes.

    `taxes` has all taxes by id; lines whose charge names none have `default_tax`. An
    `exempt` customer has no tax on any line. `grants` stand in the order in which they
    are burnt, `balances` says what is left of each.
    """

    coupons: tuple[Coupon, ...] = ()
    taxes: Mapping[str, Tax] = field(default_factory=dict)
    default_tax: Tax | None = None
    exempt: bool = False
    grants: tuple[CreditGrant, ...] = ()
    balances: Balances = field(default_factory=dict)

    def tax_of(self, line: Line) -> Tax | None:
        """The tax of a line, None for none."""
        if self.exempt:
            return None
        return self.default_tax if line.own_tax is None else self.taxes[line.own_tax]


NO_TERMS = Terms()


def terms_of(
    catalog: Catalog, slot: Slot, earlier: Sequence[datetime], balances: Balances
) -> Terms:
    """The terms of one invoice.

    `earlier` as in `billing.coupons.coupons_in_force`; `balances` is what earlier
    invoices of the customer have left of the grants.
    """
    subscription = catalog.subscriptions_by_id[slot.subscription]
    customer = catalog.customers_by_id[slot.customer]
    taxes = catalog.taxes_by_id
    coupons = [
        coupon
        for coupon in (catalog.coupons_by_id[name] for name in subscription.coupons)
        # An amount is taken off once for each period, at its end.
        if slot.until is None or coupon.amount is None
    ]
    grants = catalog.grants_by_customer.get(customer.id, ())
    return Terms(
        coupons=coupons_in_force(coupons, slot.billing_date, earlier),
        taxes=taxes,
        default_tax=None if customer.tax is None else taxes[customer.tax],
        exempt=bool(customer.tax_exempt_reason),
        grants=burnable(grants, slot.currency, slot.billing_date, balances),
        balances=balances,
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """Lines with discounts, credits and taxes, and where these came from."""

    lines: tuple[Line, ...]
    redemptions: tuple[Redemption, ...]
    burns: tuple[Burn, ...]
    prepaid: Decimal


def settle(lines: Sequence[Line], terms: Terms, exponent: int) -> Settled:
    """Coupons, promotional credits, taxes and paid credits, in this order."""
    discounted, redemptions = redeem(lines, terms.coupons, exponent)
    credited, promotional = burn_promotional(discounted, terms.grants, terms.balances, exponent)
    taxed = add_taxes(credited, terms.tax_of, exponent)
    paid = burn_paid(taxed, terms.grants, terms.balances, exponent)
    prepaid = add_amounts((burn.amount for burn in paid), exponent)
    return Settled(taxed, redemptions, (*promotional, *paid), prepaid)
