"""Explanations in words: one short text for each step, in the customer's language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.explanations import COUNTED
from billing.money import round_amount
from billing.wording import Words
from meters.currencies import currency_exponent

_MONEY = {"unit_amount", "flat_amount", "amount", "limit"}
_NUMBERS = {"quantity", "included", "divide_by", "percent", "rate", "tier", "events"}
_PRODUCTS = {"units", "blocks", "packages", "percent", "events", "prices"}
"""Steps of a quantity times something, whose result is said."""
_PLAIN_UNITS = {"prices"}
"""Steps whose `unit_amount` is a factor and no price."""


def step_words(step: Mapping[str, Any], currency: str, words: Words) -> str:
    """One step of an explanation."""
    kind = step["step"]
    values: dict[str, str] = {}
    for name, value in step.items():
        if value is None:
            continue
        if name in _MONEY and not (name == "unit_amount" and kind in _PLAIN_UNITS):
            values[name] = words.short_money(value, currency)
        elif name in _NUMBERS or name in _MONEY:
            values[name] = words.short_number(str(value))
        else:
            values[name] = str(value)
    key = f"step_{kind}"
    if kind == "converted" and step.get("round") is not None:
        key = f"step_converted_{step['round']}"
    text = words.text(key, **values)
    if kind in _PRODUCTS:
        if "flat_amount" in values:
            text = words.text("step_sum", step=text, flat_amount=values["flat_amount"])
        if "limit" in values:
            text = words.text("step_with_limit", step=text, limit=values["limit"])
        text = words.text("step_result", step=text, amount=values["amount"])
    return words.text("step_tier", tier=values["tier"], step=text) if "tier" in values else text


def line_words(line: Mapping[str, Any], currency: str, words: Words) -> Iterator[str]:
    """How the amount of one explained line came about, step by step."""
    for step in line["steps"]:
        yield step_words(step, currency, words)
    if not line["matches"]:
        yield _difference(line, currency, words)
    elif line["rounding"] != "0":
        exact = words.text("exact", amount=words.short_money(line["amount_exact"], currency))
        yield f"{exact}, {words.text('rounded', amount=words.money(_rounded(line), currency))}"
    if line["tax_contained"] is not None:
        yield words.text("tax_contained", amount=words.money(line["tax_contained"], currency))


def _difference(line: Mapping[str, Any], currency: str, words: Words) -> str:
    """What a line would be now; of amounts that agree the quantity differs."""
    exact, then = Fraction(line["amount_exact"]), line["quantity"]
    counted = [step["quantity"] for step in line["steps"] if step["step"] in COUNTED]
    same_amount = round_amount(exact, currency_exponent(currency)) == Decimal(_rounded(line))
    if same_amount and counted and counted[-1] != then:
        now = words.short_number(counted[-1])
        return words.text("differs_quantity", now=now, quantity=words.short_number(then))
    now = words.short_money(line["amount_exact"], currency)
    return words.text("differs", now=now, amount=words.money(_rounded(line), currency))


def _rounded(line: Mapping[str, Any]) -> str:
    """The rounded amount, before a contained tax is taken out."""
    contained = Decimal(line["tax_contained"] or 0)
    return str(Decimal(line["amount"]) + contained)
