"""Bills of the oracle: periods and quantities to lines and invoices, in exact fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle import Oracle, plain
from tests.oracle_times import EPOCH, TICK, rfc3339, zone_of

Row = dict[str, Any]
EXPONENTS = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}


def money(value: Fraction, currency: str) -> str:
    """Half away from zero to the minor unit, with exactly the currency's decimals."""
    exponent = EXPONENTS[currency]
    units = math.floor(abs(value) * 10**exponent + Fraction(1, 2))
    text = str(units).rjust(exponent + 1, "0")
    if exponent:
        text = f"{text[:-exponent]}.{text[-exponent:]}"
    return f"-{text}" if value < 0 and units else text


class Bills:
    """The invoices of everything that an `Oracle` knows."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def bill(self, as_of: datetime) -> list[Row]:
        """One row for each period that ended by `as_of`, and each start with a fee in advance."""
        return [row for name in self.oracle.subscriptions for row in self._invoices(name, as_of)]

    def _invoices(self, name: str, as_of: datetime) -> Iterator[Row]:
        subscription = self.oracle.subscriptions[name]
        plan = self.oracle.plans[subscription["plan"]]
        zone = self.oracle.zone(subscription["customer"])
        fees = [c for c in plan["charges"] if "fee" in c]
        advance = [c for c in fees if c.get("when") == "advance"]
        spans = self.oracle.periods(name)
        start, end, whole = next(spans)
        if advance and start <= as_of:
            lines = [_fee(c, start, end, whole, zone) for c in advance]
            yield _invoice(subscription, plan, start, start, lines)
        while end <= as_of:
            lines = []
            for charge in plan["charges"]:
                if "fee" not in charge:
                    usage = self.oracle.quantity(name, charge["meter"], start)
                    lines.append(_usage_line(charge, *usage, start, end, whole, zone))
                elif charge not in advance:
                    lines.append(_fee(charge, start, end, whole, zone))
            following = next(spans, None)
            if following is not None:
                lines += [_fee(c, *following, zone) for c in advance]
            yield _invoice(subscription, plan, start, end, lines)
            if following is None:
                return
            start, end, whole = following

    def quote(self, plan_id: str, quantities: dict[str, Fraction]) -> Row:
        """What a whole period of a plan costs with these quantities."""
        plan = self.oracle.plans[plan_id]
        start, end = EPOCH, EPOCH + timedelta(days=31)
        lines = [
            _fee(c, start, end, end, zone_of("UTC"))
            if "fee" in c
            else _usage_line(
                c, quantities.get(c["meter"], Fraction(0)), 0, start, end, end, zone_of("UTC")
            )
            for c in plan["charges"]
        ]
        return _invoice({"id": None, "customer": None}, plan, start, end, lines)


def _factor(
    charge: Row, start: datetime, end: datetime, whole: datetime, zone: ZoneInfo
) -> Fraction:
    mode = charge.get("proration", "day")
    if end == whole or mode == "none":
        return Fraction(1)
    if mode == "second":
        return Fraction((end - start) // TICK, (whole - start) // TICK)
    dates = [moment.astimezone(zone).date() for moment in (start, end, whole)]
    return Fraction((dates[1] - dates[0]).days, (dates[2] - dates[0]).days)


def _fee(charge: Row, start: datetime, end: datetime, whole: datetime, zone: ZoneInfo) -> Row:
    exact = Fraction(charge["fee"]) * _factor(charge, start, end, whole, zone)
    return {
        "charge": charge["id"],
        "meter": None,
        "exact": exact,
        "quantity": Fraction(1),
        "service": (rfc3339(start), rfc3339(end)),
    }


def _usage_line(
    charge: Row,
    quantity: Fraction,
    events: int,
    start: datetime,
    end: datetime,
    whole: datetime,
    zone: ZoneInfo,
) -> Row:
    factor = _factor(charge, start, end, whole, zone)
    billable = max(Fraction(0), quantity - Fraction(charge.get("included", 0)) * factor)
    exact = price(charge["price"], billable, events)
    if charge.get("maximum") is not None:
        exact = min(exact, Fraction(charge["maximum"]) * factor)
    if charge.get("minimum") is not None:
        exact = max(exact, Fraction(charge["minimum"]) * factor)
    return {
        "charge": charge["id"],
        "meter": charge["meter"],
        "exact": exact,
        "quantity": quantity,
        "service": (rfc3339(start), rfc3339(end)),
    }


def price(model: Row, quantity: Fraction, events: int = 0) -> Fraction:
    """The exact amount of a price model."""
    kind = model["model"]
    if kind == "flat":
        return Fraction(model["amount"])
    if kind == "unit":
        return Fraction(model["unit_amount"]) * quantity
    if kind in ("package", "percentage"):
        quantity = max(Fraction(0), quantity - Fraction(model.get("free_units", 0)))
        if kind == "package":
            return Fraction(model["amount"]) * math.ceil(quantity / Fraction(model["size"]))
        fixed = Fraction(model.get("fixed_amount", 0)) * events
        return quantity * Fraction(model["rate"]) / 100 + fixed
    total, low = Fraction(0), Fraction(0)
    for index, tier in enumerate(model["tiers"]):
        high = Fraction(tier["up_to"]) if tier.get("up_to") is not None else None
        unit, flat = (Fraction(tier.get(k) or 0) for k in ("unit_amount", "flat_amount"))
        here = high is None or quantity <= high
        if index == 0 and quantity == 0 and model.get("flat_at_zero") is False:
            flat = Fraction(0)
        if kind == "volume" and here:
            return quantity * unit + flat
        if kind == "graduated":
            total += flat + unit * ((quantity if here else high) - low)
            if here:
                return total
        low = high
    raise AssertionError("tiers must be open at the end")


def _invoice(subscription: Row, plan: Row, start: datetime, end: datetime, lines: list[Row]) -> Row:
    currency = plan["currency"]
    printed = [
        {**line, "quantity": plain(line["quantity"]), "amount": money(line["exact"], currency)}
        for line in lines
    ]
    total = money(sum((Fraction(line["amount"]) for line in printed), Fraction(0)), currency)
    zero = money(Fraction(0), currency)
    return {
        "customer": subscription["customer"],
        "subscription": subscription["id"],
        "currency": currency,
        "period_start": rfc3339(start),
        "period_end": rfc3339(end),
        "lines": printed,
        "subtotal": total,
        "discount": zero,
        "credit": zero,
        "tax": zero,
        "total": total,
    }
