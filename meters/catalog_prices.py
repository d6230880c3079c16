"""Price models of a catalog: what a quantity, or each single event, costs.

The arithmetic is `billing.prices`; `docs/catalog.md` explains every key. A price is
one of a tagged union, told apart by its `model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from meters.catalog_values import Conflict, Id, Misfit, Model, NonNegative, Positive


class Tier(Model):
    """One step of a tiered price; `up_to` is inclusive, the last tier has none.

    With `block_size`, units are sold in whole blocks and `unit_amount` is the price of
    one block begun. `max_amount` bounds what the tier adds.
    """

    up_to: Positive | None = None
    unit_amount: NonNegative = Decimal(0)
    flat_amount: NonNegative = Decimal(0)
    block_size: Positive | None = None
    max_amount: NonNegative | None = None


class RateTier(Model):
    """One step of `graduated_percentage`: `rate` percent of what falls into it."""

    up_to: Positive | None = None
    rate: NonNegative = Decimal(0)
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


def _check_bounds(tiers: Sequence[Tier | RateTier]) -> None:
    conflicts: list[Conflict] = []
    last = len(tiers) - 1
    before = Decimal(0)
    for index, tier in enumerate(tiers):
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


class _Tiered(Model):
    tiers: Annotated[list[Tier], Field(min_length=1)]
    flat_at_zero: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_bounds(self.tiers)
        return self


class GraduatedPrice(_Tiered):
    """Each unit at the price of the tier that it falls into."""

    model: Literal["graduated"]


class VolumePrice(_Tiered):
    """All units at the price of the tier that the whole quantity falls into."""

    model: Literal["volume"]


class GraduatedPercentagePrice(Model):
    """Each part of the quantity at the rate (in percent) of the tier that it falls into."""

    model: Literal["graduated_percentage"]
    tiers: Annotated[list[RateTier], Field(min_length=1)]
    flat_at_zero: bool = True

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_bounds(self.tiers)
        return self


class PercentagePrice(Model):
    """`rate` percent of the quantity (2.9 is 2.9 %), plus a `fixed_amount` an event.

    An event is free while neither `free_units` of the quantity nor `free_events`
    are used up, whichever ends first; of 0, none is free on that account.
    `minimum_per_event` and `maximum_per_event` bound what an event that is not free
    costs.
    """

    model: Literal["percentage"]
    rate: NonNegative
    fixed_amount: NonNegative = Decimal(0)
    free_units: NonNegative = Decimal(0)
    free_events: Annotated[int, Field(ge=0)] = 0
    minimum_per_event: NonNegative | None = None
    maximum_per_event: NonNegative | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        low, high = self.minimum_per_event, self.maximum_per_event
        if low is not None and high is not None and low > high:
            message = f"must not be above maximum_per_event, {high} (got {low})"
            raise Misfit([(("minimum_per_event",), message)])
        return self

    @property
    def by_event(self) -> bool:
        """Whether the sum and the number of events are not enough to price it."""
        return bool(
            self.free_events
            or (self.fixed_amount and self.free_units)
            or self.minimum_per_event is not None
            or self.maximum_per_event is not None
        )


class DynamicPrice(Model):
    """What the events themselves say that they cost, times `multiplier`.

    `property` names the price on each event. Without it the meter's value is the
    price already (a `sum` of prices).
    """

    model: Literal["dynamic"]
    property: Id | None = None
    multiplier: NonNegative = Decimal(1)


PRICE_MODELS: dict[str, type[Model]] = {
    "flat": FlatPrice,
    "unit": UnitPrice,
    "package": PackagePrice,
    "graduated": GraduatedPrice,
    "volume": VolumePrice,
    "percentage": PercentagePrice,
    "graduated_percentage": GraduatedPercentagePrice,
    "dynamic": DynamicPrice,
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
    | Annotated[PercentagePrice, Tag("(percentage)")]
    | Annotated[GraduatedPercentagePrice, Tag("(graduated_percentage)")]
    | Annotated[DynamicPrice, Tag("(dynamic)")],
    Discriminator(_price_tag),
]


def by_event(price: Price) -> bool:
    """Whether a price needs the single events of its period, not only their sum."""
    if isinstance(price, DynamicPrice):
        return price.property is not None
    return isinstance(price, PercentagePrice) and price.by_event
