"""Units that a customer's subscriptions share."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from meters.catalog_terms import span_conflicts
from meters.catalog_values import Id, Instant, Misfit, Model, Positive


class Entitlement(Model):
    """`units` of a meter that are free in each period, for all subscriptions of a customer.

    Periods are counted from `start`, as those of a subscription are. An invoice takes
    from the period in which what it bills begins, in the order in which invoices are
    billed, after the included units of its own charge.
    """

    id: Id
    customer: Id
    meter: Id
    units: Positive
    period: Literal["day", "week", "month", "quarter", "year"] = "month"
    start: Instant
    end: Instant | None = None
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if conflicts := span_conflicts(self.start, self.end, "end"):
            raise Misfit(conflicts)
        return self
