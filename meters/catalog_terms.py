"""What is taken off an invoice and put on it: coupons, taxes and credit grants.

The arithmetic is `billing.coupons`, `billing.taxes` and `billing.credits`;
`docs/catalog.md` explains every key.
"""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_DOWN, Context, Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meters.catalog_values import (
    Conflict,
    Currency,
    Id,
    Instant,
    Misfit,
    Model,
    Percent,
    Positive,
)
from meters.currencies import currency_exponent
from meters.timestamps import format_instant

_WIDE = Context(prec=60)


def span_conflicts(start: datetime | None, end: datetime | None, name: str) -> list[Conflict]:
    """An end that is not after the start, as a conflict of the key `name`."""
    if start is None or end is None or end > start:
        return []
    message = f"must be after the start, {format_instant(start)} (got {format_instant(end)})"
    return [((name,), message)]


def amount_conflicts(amount: Decimal, currency: str) -> list[Conflict]:
    """An amount that is finer than the minor unit of its currency, as a conflict."""
    exponent = currency_exponent(currency)
    if amount == amount.quantize(Decimal(1).scaleb(-exponent), ROUND_DOWN, _WIDE):
        return []
    return [
        (("amount",), f"must have at most the {exponent} decimals of {currency} (got {amount})")
    ]


class Coupon(Model):
    """A discount on invoices: `percent`, or an `amount` of one currency for each invoice.

    It applies to lines of the given `charges`, else to those of the given `plans`, else
    to the whole invoice. It takes part in invoices dated from `start` to before `end`;
    with `periods` in the first so many of them of a subscription (1: once), else in
    all.
    """

    id: Id
    percent: Percent | None = None
    amount: Positive | None = None
    currency: Currency | None = None
    charges: list[Id] = Field(default_factory=list)
    plans: list[Id] = Field(default_factory=list)
    periods: Annotated[int, Field(ge=1)] | None = None
    start: Instant | None = None
    end: Instant | None = None
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts: list[Conflict] = []
        if (self.percent is None) == (self.amount is None):
            got = "neither" if self.percent is None else "both"
            conflicts.append((("percent",), f"must have either percent or amount (got {got})"))
        if self.amount is not None and self.currency is None:
            conflicts.append((("currency",), "must be given: an amount is of one currency"))
        if self.amount is None and self.currency is not None:
            conflicts.append((("currency",), "must be left out without amount"))
        if self.charges and self.plans:
            conflicts.append((("plans",), "must be left out beside charges"))
        if self.amount is not None and self.currency is not None:
            conflicts += amount_conflicts(self.amount, self.currency)
        conflicts += span_conflicts(self.start, self.end, "end")
        if conflicts:
            raise Misfit(conflicts)
        return self


class Tax(Model):
    """A tax: `rate` percent on top of net amounts, or contained in `inclusive` ones."""

    id: Id
    rate: Percent
    inclusive: bool = False
    description: str = ""


class CreditGrant(Model):
    """Money that a customer's invoices burn down before anything is due.

    A `paid` grant is a payment in advance, taken after tax; a `promotional` one is a
    discount, taken before tax. It is burnt by invoices dated from `start` to before
    `expires`, on lines of the given `charges`, else of the given `plans`, else on all.
    A smaller `priority` burns first.
    """

    id: Id
    customer: Id
    amount: Positive
    currency: Currency
    kind: Literal["paid", "promotional"] = "paid"
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    start: Instant
    expires: Instant | None = None
    charges: list[Id] = Field(default_factory=list)
    plans: list[Id] = Field(default_factory=list)
    description: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        conflicts = amount_conflicts(self.amount, self.currency)
        if self.charges and self.plans:
            conflicts.append((("plans",), "must be left out beside charges"))
        conflicts += span_conflicts(self.start, self.expires, "expires")
        if conflicts:
            raise Misfit(conflicts)
        return self
