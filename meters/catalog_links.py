"""What items of a catalog are only wrong together: a charge and its meter, say.

References that lead nowhere are the loader's (`meters.catalog_file`); here both
ends exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from meters.catalog import Catalog, Coupon, CreditGrant, Meter, Plan, Subscription
from meters.catalog_charges import Charge, UsageCharge
from meters.catalog_prices import PercentagePrice, by_event
from meters.catalog_subscriptions import subscription_conflicts
from meters.catalog_values import Conflict

Path = tuple[str | int, ...]


def link_conflicts(catalog: Catalog) -> Iterator[tuple[str, int, Path, str]]:
    """Every conflict: section, position in it, path below the item, and the message.

    The catalog may be unchecked otherwise; items that could not be read are missing.
    """
    meters = {meter.id: meter for meter in catalog.meters}
    for position, plan in enumerate(catalog.plans):
        for path, message in _plan_conflicts(plan, meters):
            yield "plans", position, path, message
    charges = {charge.id for plan in catalog.plans for charge in plan.every_charge}
    scoped: list[tuple[str, int, Coupon | CreditGrant]] = []
    scoped += [("coupons", position, each) for position, each in enumerate(catalog.coupons)]
    scoped += [("credits", position, each) for position, each in enumerate(catalog.credits)]
    for section, position, item in scoped:
        for index, name in enumerate(item.charges):
            if name not in charges:
                message = f"must be the id of a charge of one of the plans (got {name!r})"
                yield section, position, ("charges", index), message
    plans = {plan.id: plan for plan in catalog.plans}
    yield from _unusable_grants(catalog, plans)
    coupons = {coupon.id: coupon for coupon in catalog.coupons}
    zones = {customer.id: customer.time_zone for customer in catalog.customers}
    for position, subscription in enumerate(catalog.subscriptions):
        for path, message in _coupon_conflicts(subscription, plans, coupons):
            yield "subscriptions", position, path, message
        zone = zones.get(subscription.customer)
        for path, message in subscription_conflicts(subscription, plans, zone):
            yield "subscriptions", position, path, message


def _unusable_grants(
    catalog: Catalog, plans: Mapping[str, Plan]
) -> Iterator[tuple[str, int, Path, str]]:
    """Grants in a currency that their customer is never billed in."""
    billed: dict[str, set[str]] = {}
    for subscription in catalog.subscriptions:
        if subscription.plan in plans:
            currency = plans[subscription.plan].currency
            billed.setdefault(subscription.customer, set()).add(currency)
    for position, grant in enumerate(catalog.credits):
        currencies = billed.get(grant.customer, set())
        if grant.currency not in currencies:
            known = ", ".join(sorted(currencies)) or "none: it has no subscription"
            must = f"must be a currency that customer {grant.customer} is billed in, {known}"
            yield "credits", position, ("currency",), f"{must} (got {grant.currency!r})"


def _coupon_conflicts(
    subscription: Subscription, plans: Mapping[str, Plan], coupons: Mapping[str, Coupon]
) -> Iterator[Conflict]:
    """Coupons that could never take anything off the invoices of a subscription."""
    plan = plans.get(subscription.plan)
    for index, name in enumerate(subscription.coupons):
        coupon = coupons.get(name)
        if plan is None or coupon is None:
            continue
        if coupon.currency is not None and coupon.currency != plan.currency:
            must = f"must be a coupon in the currency of plan {plan.id}, {plan.currency}"
            yield ("coupons", index), f"{must} (got {name!r} in {coupon.currency})"


def _plan_conflicts(plan: Plan, meters: Mapping[str, Meter]) -> Iterator[Conflict]:
    """Charges that do not fit their meters."""
    placed: list[tuple[Path, Charge]]
    placed = [(("charges", index), charge) for index, charge in enumerate(plan.charges)]
    for number, version in enumerate(plan.versions):
        for index, charge in enumerate(version.charges):
            placed.append((("versions", number, "charges", index), charge))
    for at, charge in placed:
        if isinstance(charge, UsageCharge) and charge.meter in meters:
            for path, message in charge_conflicts(charge, meters[charge.meter]):
                yield (*at, *path), message


def charge_conflicts(charge: UsageCharge, meter: Meter) -> Iterator[Conflict]:
    """A charge that does not fit its meter; paths below the charge."""
    known = ", ".join(meter.group_by) or "none"
    must = f"must be a group_by property of meter {meter.id}: {known}"
    for position, name in enumerate(charge.price_by):
        if name not in meter.group_by:
            yield ("price_by", position), f"{must} (got {name!r})"
    for position, entry in enumerate(charge.prices):
        for name in entry.when:
            if name not in meter.group_by:
                yield ("prices", position, "when", name), f"{must} (got {name!r})"
    counted = ("sum", "unique_count")
    if charge.prorate_events and (meter.aggregation not in counted or meter.bucket is not None):
        yield (
            ("prorate_events",),
            f"must be left out unless the meter is a {' or '.join(counted)} without bucket "
            f"(got {meter.aggregation})",
        )
    for path, price in charge.placed_prices:
        if not by_event(price):
            continue
        allowed = ("sum",) if isinstance(price, PercentagePrice) else ("sum", "count")
        if meter.aggregation not in allowed:
            yield (
                path,
                f"must be a price of the whole quantity: single events are priced of a meter "
                f"whose aggregation is {' or '.join(allowed)} (got {meter.aggregation})",
            )
