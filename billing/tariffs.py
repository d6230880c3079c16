"""Tariffs: what a subscription pays at an instant.

    plan, versions, changes, overrides, quantities, trial --at(instant)--> Tariff

A version holds from the start of a period (or from a change of plan) to its end; a
change of plan and the end of a trial cut a period into segments that are rated apart.
A change of quantity cuts fees alone, so that tiers of usage go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

from meters.catalog import Charge, Plan, PlanChange, Quantity, Subscription, UsageCharge
from meters.catalog_subscriptions import overridden
from meters.periods import Span


@dataclass(frozen=True)
class Tariff:
    """The charges of one version of a plan, with a subscription's overrides.

    In a `trial` usage is shown and nothing is charged.
    """

    plan: str
    version: str | None
    charges: tuple[Charge, ...]
    trial: bool = False

    @cached_property
    def rolls_over(self) -> bool:
        """Whether units that a period has left are there in a later one."""
        return any(isinstance(c, UsageCharge) and c.rollover is not None for c in self.charges)


class _First(NamedTuple):
    """What a subscription begins with, in the words of a change of plan."""

    from_: datetime
    plan: str
    pin_version: str | None


class Tariffs:
    """The tariffs of one subscription in time."""

    def __init__(self, subscription: Subscription, plans: Mapping[str, Plan]) -> None:
        self._plans = plans
        self._overrides = subscription.overrides
        self._quantities = sorted(subscription.quantities, key=lambda entry: entry.from_)
        self._trial_end = subscription.trial_end
        first = _First(subscription.start, subscription.plan, subscription.pin_version)
        self._phases: list[_First | PlanChange] = [first, *subscription.changes]
        self._known: dict[tuple[str, str | None, bool], Tariff] = {}

    def at(self, instant: datetime, period_start: datetime) -> Tariff:
        """The tariff at an instant of the period that starts at `period_start`."""
        phase = self._phases[0]
        for later in self._phases[1:]:
            if later.from_ <= instant:
                phase = later
        plan = self._plans[phase.plan]
        version: str | None = None
        charges = plan.charges
        for each in plan.versions:
            chosen = (
                each.from_ <= max(period_start, phase.from_)
                if phase.pin_version is None
                else each.version == phase.pin_version
            )
            if chosen:
                version, charges = each.version, each.charges
        trial = self._trial_end is not None and instant < self._trial_end
        key = plan.id, version, trial
        if key not in self._known:
            own = tuple(
                overridden(charge, self._overrides[charge.id])
                if charge.id in self._overrides
                else charge
                for charge in charges
            )
            self._known[key] = Tariff(plan.id, version, own, trial)
        return self._known[key]

    def cuts(self, part: Span) -> list[datetime]:
        """The instants within a part of a period at which another tariff begins."""
        found = [phase.from_ for phase in self._phases[1:]]
        if self._trial_end is not None:
            found.append(self._trial_end)
        return sorted({at for at in found if part.start < at < part.end})

    def quantity(self, charge: str, instant: datetime) -> Decimal:
        """How many units of a fee are paid at an instant; 1 where nothing says."""
        return self._quantity([each for each in self._quantities if each.from_ <= instant], charge)

    def quantity_before(self, charge: str, instant: datetime) -> Decimal:
        """How many units of a fee are paid until an instant."""
        return self._quantity([each for each in self._quantities if each.from_ < instant], charge)

    def _quantity(self, entries: list[Quantity], charge: str) -> Decimal:
        found = [entry.quantity for entry in entries if entry.charge == charge]
        return found[-1] if found else Decimal(1)

    def quantity_cuts(self, charge: str, part: Span) -> list[datetime]:
        """The instants within a span at which the quantity of a fee changes."""
        found = [entry.from_ for entry in self._quantities if entry.charge == charge]
        return [at for at in found if part.start < at < part.end]
