"""Charges of a plan: fees, and meters with a price.

A usage charge is priced by one `price` for all usage together, by one `price` for
each value of `price_by`, or by `prices` that differ by group value.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from meters.catalog_prices import (
    GraduatedPrice,
    PackagePrice,
    Price,
    UnitPrice,
    VolumePrice,
    by_event,
)
from meters.catalog_values import (
    Conflict,
    FilterValue,
    Id,
    Misfit,
    Model,
    NonNegative,
    Percent,
    Positive,
)
from meters.scalars import Scalar, canonical_scalar

Proration = Literal["day", "second", "none"]


class Fee(Model):
    """A fixed fee of a plan, charged in advance or in arrears of each period.

    `tax` takes the place of the customer's.
    """

    id: Id
    fee: NonNegative
    when: Literal["advance", "arrears"] = "arrears"
    proration: Proration = "day"
    tax: Id | None = None
    description: str = ""


class Convert(Model):
    """From metered to billed units: divided, then rounded to `precision` decimals.

    `up` is towards plus infinity, `down` towards minus infinity, `half_up` to the
    nearest with halves away from zero. Without `round` the quotient stays exact. A
    negative precision rounds to tens, hundreds ...
    """

    divide_by: Positive = Decimal(1)
    round: Literal["up", "down", "half_up"] | None = None
    precision: Annotated[int, Field(ge=-12, le=12)] = 0

    @model_validator(mode="after")
    def _rounds(self) -> Self:
        if self.precision and self.round is None:
            message = f"must be left out without round (got {self.precision})"
            raise Misfit([(("precision",), message)])
        return self


class ChargeDiscount(Model):
    """`percent` off the exact amount of a charge, before its maximum and minimum."""

    percent: Percent


class GroupPrice(Model):
    """The price of usage whose group has all values of `when`."""

    when: Annotated[dict[Id, FilterValue], Field(min_length=1)]
    price: Price

    def matches(self, group: Mapping[str, Scalar]) -> bool:
        """Whether a group has these values; a missing key is null."""
        return all(
            canonical_scalar(group.get(name)) == canonical_scalar(value)
            for name, value in self.when.items()
        )


class Rollover(Model):
    """What is left of the included units is there for so many more periods.

    `maximum` bounds what rolls over out of one period.
    """

    periods: Annotated[int, Field(ge=1, le=1200)] = 1
    maximum: Positive | None = None


class UsageCharge(Model):
    """A priced meter of a plan.

    `included` units are free in each period, and with `rollover` later where they are
    left. Tiers restart where a change of plan cuts a period, or `continue`. `minimum`
    and `maximum` bound the amount of the line. `price_by` names `group_by` properties
    of the meter: each of their values is priced alone, on a line, with tiers and
    included units of its own.
    The first of `prices` that matches a group has its price, else `default_price`;
    usage of a group without a price holds the invoice. With `prorate_events` units
    count from their event to the end of the period. `tax` takes the place of the
    customer's.
    """

    id: Id
    meter: Id
    price: Price | None = None
    price_by: list[Id] = Field(default_factory=list)
    prices: list[GroupPrice] = Field(default_factory=list)
    default_price: Price | None = None
    convert: Convert | None = None
    included: NonNegative = Decimal(0)
    rollover: Rollover | None = None
    tiers: Literal["restart", "continue"] = "restart"
    discount: ChargeDiscount | None = None
    minimum: NonNegative | None = None
    maximum: NonNegative | None = None
    round: Literal["line", "tier"] = "line"
    proration: Proration = "day"
    prorate_events: bool = False
    tax: Id | None = None
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts: list[Conflict] = []
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            message = f"must not be above the maximum, {self.maximum} (got {self.minimum})"
            conflicts.append((("minimum",), message))
        if self.rollover is not None and not self.included:
            conflicts.append((("rollover",), "must be left out without included units"))
        conflicts += self._prices_conflict()
        if self.prorate_events:
            for path, price in self.placed_prices:
                if not isinstance(price, UnitPrice | GraduatedPrice | PackagePrice | VolumePrice):
                    message = "must be unit, package, graduated or volume beside prorate_events"
                    conflicts.append(((*path, "model"), f"{message} (got {price.model})"))
        if self.by_event:
            conflicts += [
                ((name,), "must be left out: this price is taken of single events")
                for name, given in (
                    ("included", self.included),
                    ("convert", self.convert),
                    ("tiers", self.tiers == "continue"),
                )
                if given
            ]
        if conflicts:
            raise Misfit(conflicts)
        return self

    def _prices_conflict(self) -> list[Conflict]:
        found: list[Conflict] = []
        if not self.prices:
            if self.price is None:
                found.append((("price",), "must be given"))
            if self.default_price is not None:
                found.append((("default_price",), "must be left out without prices"))
        elif self.price is not None:
            found.append((("price",), "must be left out beside prices; see default_price"))
        for index, name in enumerate(self.price_by):
            if name in self.price_by[:index]:
                found.append((("price_by", index), f"must not be repeated (got {name!r} twice)"))
        for index, entry in enumerate(self.prices):
            for name in entry.when:
                if self.price_by and name not in self.price_by:
                    message = f"must be one of price_by, {', '.join(self.price_by)} (got {name!r})"
                    found.append((("prices", index, "when", name), message))
            for before in self.prices[:index]:
                if before.matches(entry.when) and before.when.keys() <= entry.when.keys():
                    message = "must not be matched by an entry before it, or it has no effect"
                    found.append((("prices", index, "when"), message))
                    break
        return found

    @cached_property
    def group_keys(self) -> tuple[str, ...]:
        """The properties whose values are priced alone, sorted; none: all usage together."""
        return tuple(sorted({*self.price_by, *(name for e in self.prices for name in e.when)}))

    @cached_property
    def by_event(self) -> bool:
        """Whether any of its prices needs the single events of a period."""
        return self.prorate_events or any(by_event(price) for price in self.all_prices)

    @property
    def all_prices(self) -> list[Price]:
        """Every price that it may have."""
        return [price for _, price in self.placed_prices]

    @property
    def placed_prices(self) -> list[tuple[tuple[str | int, ...], Price]]:
        """Every price that it may have, with its path below the charge."""
        placed: list[tuple[tuple[str | int, ...], Price | None]]
        placed = [(("price",), self.price), (("default_price",), self.default_price)]
        placed += [(("prices", at, "price"), entry.price) for at, entry in enumerate(self.prices)]
        return [(path, price) for path, price in placed if price is not None]

    def price_of(self, group: Mapping[str, Scalar]) -> Price | None:
        """The price of a group; None where the catalog has none for it."""
        if self.price is not None:
            return self.price
        found = next((entry.price for entry in self.prices if entry.matches(group)), None)
        return found or self.default_price


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
