"""The catalog: meters, customers, plans and subscriptions of one tenant.

Pydantic models only; their values are `meters.catalog_values`, reading YAML and
reporting file and line is `meters.catalog_file`, and `docs/catalog.md` explains every
key. Unknown keys are refused everywhere.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Annotated

from pydantic import Field

from meters.catalog_charges import Charge as Charge
from meters.catalog_charges import ChargeDiscount as ChargeDiscount
from meters.catalog_charges import Convert as Convert
from meters.catalog_charges import Fee as Fee
from meters.catalog_charges import Proration as Proration
from meters.catalog_charges import UsageCharge as UsageCharge
from meters.catalog_charges import repeated_charge as repeated_charge
from meters.catalog_entitlements import Entitlement as Entitlement
from meters.catalog_issuers import DEFAULT_ISSUER, Party
from meters.catalog_issuers import Issuer as Issuer
from meters.catalog_meters import Aggregation as Aggregation
from meters.catalog_meters import Bucket as Bucket
from meters.catalog_meters import Kind as Kind
from meters.catalog_meters import Meter as Meter
from meters.catalog_plans import Commitment as Commitment
from meters.catalog_plans import PeriodUnit as PeriodUnit
from meters.catalog_plans import Plan as Plan
from meters.catalog_plans import PlanChange as PlanChange
from meters.catalog_plans import PlanVersion as PlanVersion
from meters.catalog_plans import Quantity as Quantity
from meters.catalog_plans import Subscription as Subscription
from meters.catalog_prices import PRICE_MODELS as PRICE_MODELS
from meters.catalog_prices import DynamicPrice as DynamicPrice
from meters.catalog_prices import FlatPrice as FlatPrice
from meters.catalog_prices import GraduatedPercentagePrice as GraduatedPercentagePrice
from meters.catalog_prices import GraduatedPrice as GraduatedPrice
from meters.catalog_prices import PackagePrice as PackagePrice
from meters.catalog_prices import PercentagePrice as PercentagePrice
from meters.catalog_prices import Price as Price
from meters.catalog_prices import RateTier as RateTier
from meters.catalog_prices import Tier as Tier
from meters.catalog_prices import UnitPrice as UnitPrice
from meters.catalog_prices import VolumePrice as VolumePrice
from meters.catalog_terms import Coupon as Coupon
from meters.catalog_terms import CreditGrant as CreditGrant
from meters.catalog_terms import Tax as Tax
from meters.catalog_values import Currency, Id, Language, Zone
from meters.catalog_values import Model as Model


class Customer(Party):
    """Who is billed. `time_zone` cuts hours, days and billing periods.

    `tax` is on all lines whose charge names none; a customer with a
    `tax_exempt_reason` has no tax at all. Its invoices come from its `issuer`, or the
    first of the catalog, in its `language` (`de`, `de-CH`), and are due
    `payment_terms_days` after their date of issue.
    """

    id: Id
    name: str = ""
    time_zone: Zone = "UTC"
    language: Language = "en"
    currency: Currency | None = None
    tax: Id | None = None
    tax_exempt_reason: str = ""
    issuer: Id | None = None
    payment_terms_days: Annotated[int, Field(ge=0, le=3660)] = 30


class Catalog(Model):
    """All that one tenant meters and bills. References are checked by the loader.

    Every step of a pipeline carries it: it is pickled once, and read once in each process.
    """

    meters: list[Meter] = Field(default_factory=list)
    customers: list[Customer] = Field(default_factory=list)
    plans: list[Plan] = Field(default_factory=list)
    subscriptions: list[Subscription] = Field(default_factory=list)
    coupons: list[Coupon] = Field(default_factory=list)
    taxes: list[Tax] = Field(default_factory=list)
    credits: list[CreditGrant] = Field(default_factory=list)
    issuers: list[Issuer] = Field(default_factory=list)
    entitlements: list[Entitlement] = Field(default_factory=list)

    @cached_property
    def meters_by_id(self) -> dict[str, Meter]:
        """Meters by their id."""
        return {meter.id: meter for meter in self.meters}

    @cached_property
    def customers_by_id(self) -> dict[str, Customer]:
        """Customers by their id."""
        return {customer.id: customer for customer in self.customers}

    @cached_property
    def plans_by_id(self) -> dict[str, Plan]:
        """Plans by their id."""
        return {plan.id: plan for plan in self.plans}

    @cached_property
    def subscriptions_by_id(self) -> dict[str, Subscription]:
        """Subscriptions by their id."""
        return {subscription.id: subscription for subscription in self.subscriptions}

    @cached_property
    def coupons_by_id(self) -> dict[str, Coupon]:
        """Coupons by their id."""
        return {coupon.id: coupon for coupon in self.coupons}

    @cached_property
    def taxes_by_id(self) -> dict[str, Tax]:
        """Taxes by their id."""
        return {tax.id: tax for tax in self.taxes}

    @cached_property
    def grants_by_customer(self) -> dict[str, tuple[CreditGrant, ...]]:
        """Credit grants by the id of their customer."""
        found: dict[str, tuple[CreditGrant, ...]] = {}
        for grant in self.credits:
            found[grant.customer] = (*found.get(grant.customer, ()), grant)
        return found

    @cached_property
    def entitlements_by_customer(self) -> dict[str, tuple[Entitlement, ...]]:
        """Shared entitlements by the id of their customer, in the order of the catalog."""
        found: dict[str, tuple[Entitlement, ...]] = {}
        for each in self.entitlements:
            found[each.customer] = (*found.get(each.customer, ()), each)
        return found

    def commitment_of(self, subscription: str) -> Commitment | None:
        """The commitment of a subscription, its own or its plan's."""
        entry = self.subscriptions_by_id[subscription]
        return entry.commitment or self.plans_by_id[entry.plan].commitment

    def issuer_of(self, customer: Customer) -> Issuer:
        """Who issues the invoices of a customer."""
        for issuer in self.issuers:
            if customer.issuer in (None, issuer.id):
                return issuer
        return DEFAULT_ISSUER

    @cached_property
    def pickled(self) -> bytes:
        """What `catalog_of` reads: the fields alone, without what is derived from them.

        Compressed, as Beam does it for every step that has a catalog, and more slowly.
        """
        state = self.__getstate__()
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return zlib.compress(pickle.dumps({**state, "__dict__": fields}), level=1)

    def __reduce__(self) -> tuple[Callable[[bytes], Catalog], tuple[bytes]]:
        return catalog_of, (self.pickled,)


@lru_cache(maxsize=4)
def catalog_of(content: bytes) -> Catalog:
    """The catalog that was `pickled`; the same object each time."""
    catalog = Catalog.__new__(Catalog)
    state = pickle.loads(zlib.decompress(content))  # noqa: S301 (our own bytes, as any pickle)
    catalog.__setstate__(state)
    return catalog
