"""The invoice and its lines: immutable, and written as the JSON of `beammeter bill`.

Sums of the header are computed from the lines, so they cannot disagree:
`total = subtotal - discount - credit + tax` and `due = total - prepaid`. Amounts
in the JSON are strings with exactly the currency's decimals, quantities are in
plain notation, times in RFC 3339 UTC, dates in ISO 8601; null where nothing
applies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

import msgspec

from billing.money import add_amounts, decimal_text, format_amount, format_price
from billing.prices import Rated
from meters.currencies import currency_exponent
from meters.numbers import plain
from meters.scalars import parse_json
from meters.timestamps import format_instant

Kind = Literal["invoice", "credit_note", "debit_note"]
Status = Literal["draft", "preview", "held", "finalized", "quote"]
Chain = Literal["", "period", "subscription", "customer"]
"""Which later invoices are computed from what an earlier one has left: none, those of its
period, of its subscription, or of its customer. Credits are no chain: the ledger has them."""

NO_GROUP = "{}"
"""The group of a line that merges all groups of its meter, or has no meter."""


class Line(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One charge of one segment (and of one group where the price depends on it).

    `group` is canonical JSON text. Exact numbers are decimals, and fractions where none
    is finite. `quantity` is the meter's value over the
    service span, converted where the charge says so, before included units (1 for a
    fee). `unit_amount` is given where
    every unit has one price. `amount_exact` is the amount before rounding, in the
    units of the currency. `discount`, `credit` and `tax` are amounts of the
    currency. `revision` is the highest revision of the usage that was billed, 0
    for a fee. `plan` is the plan of the charge, `own_tax` the tax that the charge names,
    `rated` its steps where it was rated by fractions, `billed` what was billed of it before
    at thresholds; they are no part of the JSON.
    """

    line_id: str
    subscription: str | None
    charge: str
    plan_version: str | None
    meter: str | None
    group: str
    service_start: datetime | None
    service_end: datetime | None
    quantity: Decimal | Fraction
    unit_amount: Decimal | None
    amount_exact: Decimal | Fraction
    amount: Decimal
    description: str
    revision: int = 0
    discount: Decimal = Decimal(0)
    credit: Decimal = Decimal(0)
    tax_code: str | None = None
    tax_rate: Decimal | None = None
    tax: Decimal = Decimal(0)
    plan: str | None = None
    own_tax: str | None = None
    rated: Rated | None = None
    billed: Decimal = Decimal(0)

    def __eq__(self, other: object) -> bool:
        """Whether all is equal but the steps: those are how, not what."""
        return isinstance(other, Line) and _COMPARED(self) == _COMPARED(other)

    def replaced(self, **values: Any) -> Line:
        """The line with other values."""
        return msgspec.structs.replace(self, **values)

    def to_dict(self, exponent: int) -> dict[str, object]:
        """The line as in the JSON of `bill`; `exponent`: decimals of the currency.

        Fractional numbers in `group` are `Decimal`, so that none becomes a float.
        """
        return {
            "line_id": self.line_id,
            "subscription": self.subscription,
            "charge": self.charge,
            "plan_version": self.plan_version,
            "meter": self.meter,
            "group": {} if self.group == NO_GROUP else parse_json(self.group),
            "service_start": _instant(self.service_start),
            "service_end": _instant(self.service_end),
            "description": self.description,
            "quantity": decimal_text(self.quantity),
            "unit_amount": (
                None if self.unit_amount is None else format_price(self.unit_amount, exponent)
            ),
            "amount_exact": decimal_text(self.amount_exact),
            "amount": format_amount(self.amount, exponent),
            "discount": format_amount(self.discount, exponent),
            "credit": format_amount(self.credit, exponent),
            "tax_code": self.tax_code,
            "tax_rate": None if self.tax_rate is None else plain(self.tax_rate),
            "tax": format_amount(self.tax, exponent),
            "revision": self.revision,
        }


_COMPARED = attrgetter(*(name for name in Line.__struct_fields__ if name != "rated"))


@dataclass(frozen=True, slots=True)
class Redemption:
    """What one coupon took off one invoice, in the units of the currency."""

    coupon: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Burn:
    """What one invoice took of one credit grant, in the units of the currency."""

    grant: str
    kind: Literal["paid", "promotional"]
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Committed:
    """How far a subscription is in its commitment, from invoice to invoice.

    `spent` counts in the span so far and `overage` was billed for it; `ahead` was
    billed in advance for the period to come.
    """

    spent: Fraction = Fraction(0)
    overage: Decimal = Decimal(0)
    ahead: Fraction = Fraction(0)


NOTHING_COMMITTED = Committed()


@dataclass(frozen=True, slots=True)
class Invoice:
    """One document: a header and its lines, in one currency.

    `period_start` and `period_end` are half-open UTC instants, null on a quote.
    `number`, `issuer`, `issue_date` and `due_date` come with finalization.
    `prepaid` is what paid credits cover, `redemptions` what each coupon took off,
    `burns` what it took of each credit grant, `committed` how far the subscription is in
    its commitment after it, `allowances` the free units that are left for those after it,
    `chain` which later ones go on from it, and `within` says that it bills usage within its
    period, at a threshold (none of these is part of the JSON).
    `hold_reason` says why a held invoice was not finalized.
    """

    invoice_id: str
    tenant: str
    kind: Kind
    status: Status
    customer: str | None
    subscription: str | None
    currency: str
    billing_date: datetime | None
    sequence: int
    period_start: datetime | None
    period_end: datetime | None
    lines: tuple[Line, ...]
    catalog_hash: str | None = None
    number: str | None = None
    issuer: str | None = None
    issue_date: date | None = None
    due_date: date | None = None
    hold_reason: str | None = None
    prepaid: Decimal = Decimal(0)
    redemptions: tuple[Redemption, ...] = ()
    burns: tuple[Burn, ...] = ()
    committed: Committed = NOTHING_COMMITTED
    allowances: str = ""
    chain: Chain = ""
    within: bool = False

    @property
    def subtotal(self) -> Decimal:
        """The sum of the lines' amounts, before discounts, credits and tax."""
        return self._sum(line.amount for line in self.lines)

    @property
    def discount(self) -> Decimal:
        """What coupons take off."""
        return self._sum(line.discount for line in self.lines if line.discount)

    @property
    def credit(self) -> Decimal:
        """What promotional credits take off."""
        return self._sum(line.credit for line in self.lines if line.credit)

    @property
    def tax(self) -> Decimal:
        """Tax on the net sum."""
        return self._sum(line.tax for line in self.lines)

    @property
    def total(self) -> Decimal:
        """`subtotal - discount - credit + tax`."""
        return self._total(self.subtotal, self.discount, self.credit, self.tax)

    @property
    def due(self) -> Decimal:
        """What is left to pay: `total - prepaid`."""
        return self._less(self.total, self.prepaid)

    def to_dict(self) -> dict[str, object]:
        """The invoice as in the JSON of `bill`."""
        exponent = currency_exponent(self.currency)
        sums = self.subtotal, self.discount, self.credit, self.tax
        subtotal, discount, credit, tax = (format_amount(each, exponent) for each in sums)
        total = self._total(*sums)
        return {
            "invoice_id": self.invoice_id,
            "kind": self.kind,
            "status": self.status,
            "hold_reason": self.hold_reason,
            "number": self.number,
            "issuer": self.issuer,
            "customer": self.customer,
            "subscription": self.subscription,
            "currency": self.currency,
            "billing_date": _instant(self.billing_date),
            "sequence": self.sequence,
            "period_start": _instant(self.period_start),
            "period_end": _instant(self.period_end),
            "issue_date": None if self.issue_date is None else self.issue_date.isoformat(),
            "due_date": None if self.due_date is None else self.due_date.isoformat(),
            "catalog_hash": self.catalog_hash,
            "lines": [line.to_dict(exponent) for line in self.lines],
            "subtotal": subtotal,
            "discount": discount,
            "credit": credit,
            "tax": tax,
            "total": format_amount(total, exponent),
            "prepaid": format_amount(self.prepaid, exponent),
            "due": format_amount(self._less(total, self.prepaid), exponent),
        }

    def _total(
        self, subtotal: Decimal, discount: Decimal, credit: Decimal, tax: Decimal
    ) -> Decimal:
        return self._sum((subtotal, discount.copy_negate(), credit.copy_negate(), tax))

    def _less(self, amount: Decimal, other: Decimal) -> Decimal:
        return self._sum((amount, other.copy_negate()))

    def _sum(self, amounts: Iterable[Decimal]) -> Decimal:
        return add_amounts(amounts, currency_exponent(self.currency))


@lru_cache(maxsize=1024)
def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else format_instant(instant)
