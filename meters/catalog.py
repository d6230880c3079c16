"""The catalog: meters, customers, plans and subscriptions of one tenant.

Pydantic models only; their values are `meters.catalog_values`, reading YAML and
reporting file and line is `meters.catalog_file`, and `docs/catalog.md` explains every
key. Unknown keys are refused everywhere.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from meters.catalog_values import (
    CelText,
    Currency,
    EventName,
    FilterValue,
    Id,
    Instant,
    Misfit,
    NonNegative,
    Positive,
    Zone,
)
from meters.scalars import canonical_scalar
from meters.timestamps import format_instant

Aggregation = Literal["count", "sum", "max", "min", "avg", "latest", "unique_count"]
PeriodUnit = Literal["day", "week", "month", "quarter", "year"]
Proration = Literal["day", "second", "none"]


class Model(BaseModel):
    """Base of all catalog models: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Meter(Model):
    """What is measured: which events, which value of them, and how they combine.

    `filters` maps a property to its allowed values; all must match. `group_by`
    names the properties whose values keep usage apart. `property` and
    `expression` (CEL over the properties, see `meters.expressions`) exclude each
    other; `count` takes neither, every other aggregation takes one.
    """

    id: Id
    event_name: EventName
    aggregation: Aggregation
    property: Id | None = None
    expression: CelText | None = None
    filters: dict[str, Annotated[list[FilterValue], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    group_by: list[Id] = Field(default_factory=list)
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts: list[tuple[tuple[str | int, ...], str]] = []
        given = [name for name in ("property", "expression") if getattr(self, name) is not None]
        if self.aggregation == "count":
            conflicts += [
                ((name,), "must be left out: count counts events and takes no value")
                for name in given
            ]
        elif len(given) != 1:
            conflicts.append(
                (
                    tuple(given[:1]),
                    f"must have either property or expression, which {self.aggregation} is taken "
                    f"of (got {'both' if given else 'neither'})",
                )
            )
        for index, name in enumerate(self.group_by):
            if name in self.group_by[:index]:
                conflicts.append(
                    (("group_by", index), f"must not be repeated (got {name!r} twice)")
                )
        if conflicts:
            raise Misfit(conflicts)
        return self

    @cached_property
    def allowed(self) -> dict[str, frozenset[str]]:
        """`filters` as canonical JSON scalars, as events are compared with them."""
        return {
            name: frozenset(canonical_scalar(value) for value in values)
            for name, values in self.filters.items()
        }


class Customer(Model):
    """Who is billed. `time_zone` cuts hours, days and billing periods."""

    id: Id
    name: str = ""
    time_zone: Zone = "UTC"
    currency: Currency | None = None


class Tier(Model):
    """One step of a tiered price; `up_to` is inclusive, the last tier has none."""

    up_to: Positive | None = None
    unit_amount: NonNegative = Decimal(0)
    flat_amount: NonNegative = Decimal(0)


class FlatPrice(Model):
    """A fixed `amount` for each billing period, whatever the quantity."""

    model: Literal["flat"]
    amount: NonNegative


class UnitPrice(Model):
    """`unit_amount` for each unit."""

    model: Literal["unit"]
    unit_amount: NonNegative


class PackagePrice(Model):
    """`amount` for each package of `size` units begun, after `free_units`."""

    model: Literal["package"]
    amount: NonNegative
    size: Positive
    free_units: NonNegative = Decimal(0)


class _Tiered(Model):
    tiers: Annotated[list[Tier], Field(min_length=1)]
    flat_at_zero: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        conflicts: list[tuple[tuple[str | int, ...], str]] = []
        last = len(self.tiers) - 1
        before = Decimal(0)
        for index, tier in enumerate(self.tiers):
            path = ("tiers", index, "up_to")
            if index == last and tier.up_to is not None:
                message = "must be left out of the last tier, or usage above it would have no price"
                conflicts.append((path, f"{message} (got {tier.up_to})"))
            elif index < last and tier.up_to is None:
                conflicts.append((path, "must be given: only the last tier has no upper bound"))
            elif tier.up_to is not None and tier.up_to <= before:
                message = f"must be above the bound before it, {before} (got {tier.up_to})"
                conflicts.append((path, message))
            before = tier.up_to or before
        if conflicts:
            raise Misfit(conflicts)
        return self


class GraduatedPrice(_Tiered):
    """Each unit at the price of the tier that it falls into."""

    model: Literal["graduated"]


class VolumePrice(_Tiered):
    """All units at the price of the tier that the whole quantity falls into."""

    model: Literal["volume"]


class PercentagePrice(Model):
    """`rate` percent of the quantity (2.9 is 2.9 %), plus a `fixed_amount` an event.

    `free_units` of the quantity and `free_events` events carry no charge.
    """

    model: Literal["percentage"]
    rate: NonNegative
    fixed_amount: NonNegative = Decimal(0)
    free_units: NonNegative = Decimal(0)
    free_events: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _needs_no_single_events(self) -> Self:
        why = "it needs single events, which are not rated yet"
        if self.free_events:
            raise Misfit([(("free_events",), f"must be left out: {why}")])
        if self.fixed_amount and self.free_units:
            raise Misfit([(("fixed_amount",), f"must be left out beside free_units: {why}")])
        return self


PRICE_MODELS: dict[str, type[Model]] = {
    "flat": FlatPrice,
    "unit": UnitPrice,
    "package": PackagePrice,
    "graduated": GraduatedPrice,
    "volume": VolumePrice,
    "percentage": PercentagePrice,
}
"""Every price model by the name that a catalog calls it."""


def _price_tag(value: object) -> str | None:
    model = value.get("model") if isinstance(value, dict) else getattr(value, "model", None)
    return f"({model})" if isinstance(model, str) else None


# Tags are in brackets so that the loader can tell them from keys in pydantic's locations.
Price = Annotated[
    Annotated[FlatPrice, Tag("(flat)")]
    | Annotated[UnitPrice, Tag("(unit)")]
    | Annotated[PackagePrice, Tag("(package)")]
    | Annotated[GraduatedPrice, Tag("(graduated)")]
    | Annotated[VolumePrice, Tag("(volume)")]
    | Annotated[PercentagePrice, Tag("(percentage)")],
    Discriminator(_price_tag),
]


class Fee(Model):
    """A fixed fee of a plan, charged in advance or in arrears of each period."""

    id: Id
    fee: NonNegative
    when: Literal["advance", "arrears"] = "arrears"
    proration: Proration = "day"
    description: str = ""


class UsageCharge(Model):
    """A priced meter of a plan.

    `included` units are free in each period; `minimum` and `maximum` bound the
    amount of the line.
    """

    id: Id
    meter: Id
    price: Price
    included: NonNegative = Decimal(0)
    minimum: NonNegative | None = None
    maximum: NonNegative | None = None
    proration: Proration = "day"
    description: str = ""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            message = f"must not be above the maximum, {self.maximum} (got {self.minimum})"
            raise Misfit([(("minimum",), message)])
        return self


def _charge_kind(value: object) -> str:
    has_fee = "fee" in value if isinstance(value, dict) else isinstance(value, Fee)
    return "(fee)" if has_fee else "(usage)"


Charge = Annotated[
    Annotated[Fee, Tag("(fee)")] | Annotated[UsageCharge, Tag("(usage)")],
    Discriminator(_charge_kind),
]


def repeated_charge(charge: str) -> str:
    """What is wrong with a charge whose id another one of its plan has."""
    return f"must be unique in its plan (got {charge!r} again)"


class Plan(Model):
    """What a subscription pays: charges in one currency, for each period."""

    id: Id
    name: str = ""
    currency: Currency
    period: PeriodUnit = "month"
    charges: list[Charge] = Field(default_factory=list)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [charge.id for charge in self.charges]
        conflicts: list[tuple[tuple[str | int, ...], str]] = [
            (("charges", index, "id"), repeated_charge(name))
            for index, name in enumerate(ids)
            if name in ids[:index]
        ]
        if conflicts:
            raise Misfit(conflicts)
        return self

    @property
    def meters(self) -> frozenset[str]:
        """The ids of the meters that this plan charges."""
        return frozenset(c.meter for c in self.charges if isinstance(c, UsageCharge))


class Subscription(Model):
    """A customer on a plan, from `start` to `end` (half-open; no end: for ever)."""

    id: Id
    customer: Id
    plan: Id
    start: Instant
    end: Instant | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.end is not None and self.end <= self.start:
            start, end = format_instant(self.start), format_instant(self.end)
            raise Misfit([(("end",), f"must be after the start, {start} (got {end})")])
        return self


class Catalog(Model):
    """All that one tenant meters and bills. References are checked by the loader."""

    meters: list[Meter] = Field(default_factory=list)
    customers: list[Customer] = Field(default_factory=list)
    plans: list[Plan] = Field(default_factory=list)
    subscriptions: list[Subscription] = Field(default_factory=list)

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
