"""Our answers to the cases of peers about prices: amounts, rounding and what is billed later."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from billing.money import minor_units, round_amount, spread
from billing.prices import Rated, convert_quantity, price_amount, rate
from billing.single_events import Single
from meters.catalog import (
    Convert,
    DynamicPrice,
    GraduatedPercentagePrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    RateTier,
    Tier,
    UnitPrice,
    VolumePrice,
)
from meters.currencies import currency_exponent
from tests.billing.given import instant

CENTS = 2
FINE = 12
"""Decimals where a peer states an amount before rounding."""


def number(value: str | int | None) -> Decimal:
    return Decimal(value or 0)


def optional(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def tier_list(rows: list[dict[str, Any]]) -> list[Tier]:
    """Tiers in any of the peers' notations; ours leave the last one open.

    Lago's `to` and Meteroid's `first_unit` count whole units, Kill Bill's numbers of
    blocks are sizes of tiers.
    """
    tiers, upper = [], Decimal(0)
    for index, row in enumerate(rows):
        if "max_blocks" in row:
            upper += number(row["max_blocks"]) * number(row["block_size"])
            bound: Decimal | None = upper
        elif "first_unit" in row:
            bound = None if row is rows[-1] else number(rows[index + 1]["first_unit"]) - 1
        else:
            end = row["up_to"] if "up_to" in row else row["to"]
            bound = None if end is None else number(end)
        tiers.append(
            Tier(
                up_to=None if row is rows[-1] else bound,
                unit_amount=number(row.get("unit", row.get("block_price"))),
                flat_amount=number(row.get("flat")),
                block_size=None if "block_size" not in row else number(row["block_size"]),
                max_amount=None if "tier_cap" not in row else number(row["tier_cap"]),
            )
        )
    return tiers


def unit(amount: str) -> UnitPrice:
    return UnitPrice(model="unit", unit_amount=number(amount))


def package(given: dict[str, Any]) -> PackagePrice:
    return PackagePrice(
        model="package",
        amount=number(given.get("package_price")),
        size=number(given["package_size"]),
        free_units=number(given.get("free_units")),
    )


def price_of(kind: str, given: dict[str, Any]) -> Price:
    if kind == "graduated_percentage":
        tiers = [
            RateTier(
                up_to=None if row["up_to"] is None else number(row["up_to"]),
                rate=number(row["rate_percent"]),
                flat_amount=number(row["flat"]),
            )
            for row in given["tiers"]
        ]
        return GraduatedPercentagePrice(model="graduated_percentage", tiers=tiers)
    if kind.startswith("dynamic"):
        return DynamicPrice(model="dynamic", multiplier=number(given["multiplier"]))
    if "graduated" in kind:
        return GraduatedPrice(model="graduated", tiers=tier_list(given["tiers"]))
    if "volume" in kind:
        return VolumePrice(model="volume", tiers=tier_list(given["tiers"]))
    if "package" in kind:
        return package(given)
    return unit(given.get("unit_price") or given["multiplier"])


def amount(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """A price on a quantity; amounts are compared before rounding."""
    price = price_of(kind, given)
    rated = rate(
        price,
        number(given.get("quantity", given.get("metered_amount"))),
        exponent=currency_exponent(given["currency"]) if "currency" in given else FINE,
        minimum=number(given.get("minimum_spend")),
    )
    return {"amount": rated.amount}


def blocks(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    price = price_of(kind, given)
    priced = price_amount(price, number(given["quantity"]))
    return {"amount": priced.amount, "lines": [step.amount for step in priced.steps]}


def package_count(_: str, given: dict[str, Any]) -> dict[str, Any]:
    packages = price_amount(package(given), number(given["quantity"])).steps[0].quantity
    return {"packages": packages, "billed_units": packages * int(given["package_size"])}


def percentage(_: str, given: dict[str, Any]) -> dict[str, Any]:
    """Of events as they are given, or by the sums before each of them."""
    values = [number(value) for value in given.get("events", [])]
    if "running_total_before" in given:
        sums = [Decimal(0), *map(number, given["running_total_before"]), number(given["units"])]
        values = [after - before for before, after in pairwise(sums)]
    price = PercentagePrice(
        model="percentage",
        rate=number(given["rate_percent"]),
        fixed_amount=number(given.get("fixed_per_event")),
        free_events=given.get("free_events") or 0,
        free_units=number(given.get("free_units_total")),
        minimum_per_event=optional(given.get("per_event_min")),
        maximum_per_event=optional(given.get("per_event_max")),
    )
    singles = [
        Single(instant("2026-01-01T00:00Z"), f"{n}", value) for n, value in enumerate(values)
    ]
    units = number(given.get("units")) or sum(values, Decimal(0))
    count = given.get("event_count", len(values))
    return {"amount": price_amount(price, units, count, singles).amount}


def converted(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """A quantity in other units, rounded; its amount where there is a price."""
    names = {"ceiling": "up", "ceil": "up", "floor": "down", "round": "half_up"}
    mode = given.get("mode") or given.get("function") or given["round"]
    convert = Convert.model_validate(
        {
            "divide_by": given.get("divide_by", "1"),
            "round": names.get(mode, mode),
            "precision": given.get("precision", 0),
        }
    )
    quantity = number(given.get("raw") or given.get("raw_quantity") or given.get("value"))
    billed = convert_quantity(convert, quantity)
    answer: dict[str, Any] = dict.fromkeys(
        ("value", "invoiced_quantity", "billed_quantity"), billed
    )
    if kind != "quantity_rounding":
        rated = rate(price_of(kind, given), quantity, exponent=CENTS, convert=convert)
        steps = [step.amount for step in rated.priced.steps]
        answer |= {"amount": rated.amount, "lines": steps}
    return answer


def discounted(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    price = price_of(kind, given)
    half = Fraction(given["percent_discount"])
    billed = number(given["previously_billed"])
    before = Fraction(billed) / (price_amount(price, 1).amount * (1 - half / 100))
    rated = rate(
        price,
        number(given["quantity_this_line"]),
        before,
        billed,
        exponent=CENTS,
        discount_percent=half,
        maximum=number(given["maximum_spend"]),
    )
    return {"amount": rated.amount}


def currency_rounding(_: str, given: dict[str, Any]) -> dict[str, Any]:
    custom = given["currency"] == "custom(4dp)"
    exponent = 4 if custom else currency_exponent(given["currency"])
    return {"rounded": round_amount(Fraction(given["amount"]), exponent)}


def more(kind: str, given: dict[str, Any]) -> Rated:
    """What this line adds to what was billed before."""
    price = price_of(kind, given)
    before = number(given.get("already_billed_quantity"))
    billed = given.get("previously_billed")
    return rate(
        price,
        number(given.get("quantity_this_line", given.get("quantity"))),
        before,
        rate(price, before, exponent=CENTS).amount if billed is None else number(billed),
        exponent=CENTS,
        minimum=number(given.get("minimum_spend")),
        maximum=None if "maximum_spend" not in given else number(given["maximum_spend"]),
    )


def continued(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    rated = more(kind, given)
    before = price_amount(price_of(kind, given), number(given.get("already_billed_quantity")))
    packages = rated.priced.steps[-1].quantity - before.steps[-1].quantity
    return {"amount": rated.amount, "minimum_spend_line": rated.amount, "packages": packages}


def delta(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """From one cumulative quantity to another, up or down."""
    price = price_of(kind, given)
    maximum = None if "maximum_spend" not in given else number(given["maximum_spend"])
    old, new = number(given["billed_cumulative"]), number(given["new_cumulative"])
    first = rate(price, old, exponent=CENTS, maximum=maximum)
    second = rate(
        price,
        new - old,
        old,
        first.amount,
        exponent=CENTS,
        minimum=number(given.get("minimum_spend")),
        maximum=maximum,
    )
    return {"first": first.amount, "delta": second.amount}


def late_usage_incremental(_: str, given: dict[str, Any]) -> dict[str, Any]:
    price = package({"package_size": given["block_size"], "package_price": given["block_price"]})
    rated = rate(price, sum(given["usage"]), 0, number(given["already_billed"]), exponent=CENTS)
    return {"additional": rated.amount}


def late_usage_period_attribution(_: str, given: dict[str, Any]) -> dict[str, Any]:
    price = unit(given["unit_price"])
    billed, now = number(given["period1_billed"]), number(given["period1_now"])
    paid = rate(price, billed, exponent=CENTS).amount
    correction = rate(price, now - billed, billed, paid, exponent=CENTS)
    second = rate(price, number(given["cumulative_period2"]) - now, exponent=CENTS)
    return {"period1_correction": correction.amount, "period2": second.amount}


def usage_discount_progressive(_: str, given: dict[str, Any]) -> dict[str, Any]:
    included, seen = number(given["discount_quantity"]), number(given["already_seen_quantity"])
    this = Fraction(given["quantity_this_line"])
    first = rate(unit("1"), seen, exponent=CENTS, included=included)
    second = rate(unit("1"), this, seen, first.amount, exponent=CENTS, included=included)
    billed_now = second.billable - first.billable
    return {
        "billed_quantity_this_line": billed_now,
        "discount_used_this_line": this - billed_now,
        "already_billed_quantity": first.billable,
    }


def largest_remainder_allocation(_: str, given: dict[str, Any]) -> dict[str, Any]:
    custom = given["currency"] == "custom(4dp)"
    exponent = 4 if custom else currency_exponent(given["currency"])
    units = minor_units(Fraction(given["amount"]), exponent)
    parts = spread(units, [Fraction(weight) for weight in given["weights"]])
    return {"allocations": [Fraction(part, 10**exponent) for part in parts]}


def discount_distribution(_: str, given: dict[str, Any]) -> dict[str, Any]:
    lines = given["lines_cents"]
    parts = spread(given["discount_cents"], [Fraction(cents) for cents in lines])
    return {"net_cents": [line - part for line, part in zip(lines, parts, strict=True)]}
