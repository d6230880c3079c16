"""Plans and subscriptions in time: versions, plan changes, overrides, seats and trials.

Which plan, version and quantity hold at an instant is worked out by
`billing.tariffs`; `docs/catalog.md` explains every key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from meters.catalog_charges import Charge, Proration, UsageCharge, repeated_charge
from meters.catalog_terms import span_conflicts
from meters.catalog_values import (
    Conflict,
    Currency,
    Id,
    Instant,
    Misfit,
    Model,
    NonNegative,
    Positive,
)
from meters.timestamps import format_instant

PeriodUnit = Literal["day", "week", "month", "quarter", "year"]


def _at_least_1(value: Decimal) -> Decimal:
    if value < 1:
        raise ValueError(f"must be at least 1 (got {value})")
    return value


def _repeated(charges: Sequence[Charge]) -> Iterator[Conflict]:
    ids = [charge.id for charge in charges]
    for index, name in enumerate(ids):
        if name in ids[:index]:
            yield ("charges", index, "id"), repeated_charge(name)


def _not_rising(instants: Sequence[datetime], key: str) -> Iterator[Conflict]:
    for index in range(1, len(instants)):
        if instants[index] <= instants[index - 1]:
            before, found = format_instant(instants[index - 1]), format_instant(instants[index])
            yield (key, index, "from"), f"must be after the one before it, {before} (got {found})"


class PlanVersion(Model):
    """The charges of a plan for the periods that start at `from` or later."""

    version: Id
    from_: Instant = Field(alias="from")
    charges: list[Charge] = Field(default_factory=list)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if conflicts := list(_repeated(self.charges)):
            raise Misfit(conflicts)
        return self


class Commitment(Model):
    """What a subscription pays at least for each `period` of the plan, or each `year`.

    What is missing at the end is billed as a true-up; what is spent beyond it costs
    `overage_factor` times as much. `id` names its lines.
    """

    id: Id = "commitment"
    amount: Positive
    period: Literal["period", "year"] = "period"
    overage_factor: Annotated[Positive, AfterValidator(_at_least_1)] = Decimal(1)
    proration: Proration = "day"
    tax: Id | None = None
    description: str = ""


class Plan(Model):
    """What a subscription pays: charges in one currency, for each period.

    The charges stand on the plan, or in `versions`, the earlier first. Usage is billed
    within its period when it has cost one of the `thresholds`.
    """

    id: Id
    name: str = ""
    currency: Currency
    period: PeriodUnit = "month"
    charges: list[Charge] = Field(default_factory=list)
    versions: list[PlanVersion] = Field(default_factory=list)
    commitment: Commitment | None = None
    thresholds: list[Positive] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts = list(_repeated(self.charges))
        if self.charges and self.versions:
            conflicts.append(
                (("charges",), "must be left out beside versions, which have their own")
            )
        if self.commitment is not None:
            conflicts += self.commitment_conflicts(self.commitment)
        for index in range(1, len(self.thresholds)):
            before, found = self.thresholds[index - 1 : index + 1]
            if found <= before:
                message = f"must be above the one before it, {before} (got {found})"
                conflicts.append((("thresholds", index), message))
        names = [each.version for each in self.versions]
        for index, name in enumerate(names):
            if name in names[:index]:
                message = f"must be unique in its plan (got {name!r} again)"
                conflicts.append((("versions", index, "version"), message))
        conflicts += _not_rising([each.from_ for each in self.versions], "versions")
        if conflicts:
            raise Misfit(conflicts)
        return self

    def commitment_conflicts(self, commitment: Commitment) -> Iterator[Conflict]:
        """Why a commitment does not fit this plan; paths from its owner."""
        if any(charge.id == commitment.id for charge in self.every_charge):
            message = f"must differ from the charges of plan {self.id} (got {commitment.id!r})"
            yield ("commitment", "id"), message
        if commitment.period == "year" and self.period in ("day", "week"):
            message = f"must be period: a year has no whole number of periods (got {self.period})"
            yield ("commitment", "period"), message

    @property
    def every_charge(self) -> list[Charge]:
        """The charges of all versions, or those of the plan."""
        return [*self.charges, *(charge for each in self.versions for charge in each.charges)]

    @property
    def meters(self) -> frozenset[str]:
        """The ids of the meters that this plan charges, in any version."""
        return frozenset(c.meter for c in self.every_charge if isinstance(c, UsageCharge))


class PlanChange(Model):
    """Another plan, or another version of the same, from an instant on."""

    from_: Instant = Field(alias="from")
    plan: Id
    pin_version: Id | None = None


class Quantity(Model):
    """How many units of a fee are paid from an instant on: seats, say."""

    charge: Id
    from_: Instant = Field(alias="from")
    quantity: NonNegative


class Subscription(Model):
    """A customer on a plan, from `start` to `end` (half-open; no end: for ever).

    `changes` put it on other plans in the course of time. A plan with versions is
    taken in the version in force when a period (or a change) begins, or in
    `pin_version`. `overrides` maps a charge to keys of it that differ for this
    subscription, `commitment` takes the place of the plan's. Nothing before `trial_end`
    is charged. `coupons` are taken in the
    order given, after the order of steps.
    """

    id: Id
    customer: Id
    plan: Id
    start: Instant
    end: Instant | None = None
    pin_version: Id | None = None
    changes: list[PlanChange] = Field(default_factory=list)
    overrides: dict[Id, dict[str, object]] = Field(default_factory=dict)
    quantities: list[Quantity] = Field(default_factory=list)
    trial_end: Instant | None = None
    commitment: Commitment | None = None
    coupons: list[Id] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts = span_conflicts(self.start, self.end, "end")
        conflicts += span_conflicts(self.start, self.trial_end, "trial_end")
        conflicts += _not_rising([each.from_ for each in self.changes], "changes")
        for index, change in enumerate(self.changes):
            if change.from_ <= self.start or (self.end is not None and change.from_ >= self.end):
                message = "must lie after the start and before the end of the subscription"
                got = format_instant(change.from_)
                conflicts.append((("changes", index, "from"), f"{message} (got {got})"))
        seen: set[tuple[str, datetime]] = set()
        for index, entry in enumerate(self.quantities):
            if (entry.charge, entry.from_) in seen:
                message = f"must differ from the other ones of charge {entry.charge}"
                conflicts.append(
                    (
                        ("quantities", index, "from"),
                        f"{message} (got {format_instant(entry.from_)})",
                    )
                )
            seen.add((entry.charge, entry.from_))
        for index, name in enumerate(self.coupons):
            if name in self.coupons[:index]:
                conflicts.append((("coupons", index), f"must not be repeated (got {name!r} twice)"))
        if conflicts:
            raise Misfit(conflicts)
        return self

    @property
    def plans(self) -> list[str]:
        """The ids of all plans that it is ever on."""
        return list(dict.fromkeys([self.plan, *(change.plan for change in self.changes)]))
