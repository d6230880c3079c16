"""The answer of a price model: the steps that add up to an exact amount."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

StepKind = Literal[
    "flat", "units", "blocks", "packages", "percent", "events", "prices", "event_bounds"
]

_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Step:
    """One part of an amount: `quantity` x `unit_amount` + `flat_amount` = `amount`.

    `kind` says what `quantity` counts: units, blocks, packages, the base of a
    percentage (whose `unit_amount` is the rate as a fraction of 1), events, or prices
    that events brought. In `event_bounds`, `quantity` counts the events whose amount a
    bound changed, `flat_amount` is by how much. `tier` counts from 1; None where the
    price has no tiers. `limit` is the most that the step may add.
    """

    kind: StepKind
    quantity: Fraction
    unit_amount: Fraction
    flat_amount: Fraction = _ZERO
    tier: int | None = None
    limit: Fraction | None = None

    @property
    def amount(self) -> Fraction:
        """What this step adds, exact."""
        amount = self.quantity * self.unit_amount + self.flat_amount
        return amount if self.limit is None else min(amount, self.limit)


@dataclass(frozen=True, slots=True)
class Priced:
    """What a price model says: the steps; their sum is the exact amount."""

    steps: tuple[Step, ...]

    @property
    def amount(self) -> Fraction:
        """The exact amount, the sum of the steps."""
        return sum((step.amount for step in self.steps), _ZERO)
