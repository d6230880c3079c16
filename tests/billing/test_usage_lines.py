"""Lines of charges that are priced by group, converted or discounted."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.builder import UsageOf, build_invoice, quote
from billing.prices import convert_quantity, rate
from billing.single_events import Single
from meters.catalog import Convert, Meter, UnitPrice
from meters.errors import ConfigurationError
from tests.billing.documents import slots, used, written
from tests.billing.given import instant, plan

UNIT: dict[str, Any] = {"model": "unit", "unit_amount": "2"}
BY_REGION: dict[str, Any] = {"id": "calls", "meter": "m", "price_by": ["region"]}
NOON = instant("2026-11-03T12:00:00Z")


def billed(charge: dict[str, Any], usage: UsageOf | None, **given: Any) -> dict[str, Any]:
    tariff = plan([charge])
    slot = slots(tariff, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")[0]
    return written(build_invoice(slot, tariff, {} if usage is None else {"m": usage}, **given))


def by_region(**values: str) -> UsageOf:
    keys = ("region",)
    groups = {
        json.dumps({"region": name}, separators=(",", ":")): used(v) for name, v in values.items()
    }
    return UsageOf(sum((Decimal(v) for v in values.values()), Decimal(0)), 1, 0, {keys: groups})


def amounts(invoice: dict[str, Any]) -> dict[str | None, str]:
    return {line["group"].get("region"): line["amount"] for line in invoice["lines"]}


def test_each_group_has_a_line_with_tiers_and_included_units_of_its_own() -> None:
    tiers = [{"up_to": 10, "unit_amount": "1"}, {"unit_amount": "0.5"}]
    charge = {**BY_REGION, "included": 5, "price": {"model": "graduated", "tiers": tiers}}
    invoice = billed(charge, by_region(us="20", eu="16"))
    assert amounts(invoice) == {"eu": "10.50", "us": "12.50"}
    assert [line["group"] for line in invoice["lines"]] == [{"region": "eu"}, {"region": "us"}]
    assert len({line["line_id"] for line in invoice["lines"]}) == 2
    assert invoice["lines"][0]["description"] == (
        "calls (region eu): 16 units, 5 included, graduated, 2 reached of 2 tiers"
    )


def test_the_first_price_that_matches_a_group_counts_and_else_the_default() -> None:
    charge = {
        "id": "calls",
        "meter": "m",
        "prices": [
            {"when": {"region": "eu"}, "price": UNIT},
            {"when": {"region": "us"}, "price": {**UNIT, "unit_amount": "3"}},
        ],
        "default_price": {**UNIT, "unit_amount": "5"},
    }
    invoice = billed(charge, by_region(eu="1", us="1", cn="1"))
    assert amounts(invoice) == {"eu": "2.00", "us": "3.00", "cn": "5.00"}


def test_usage_of_a_group_without_a_price_holds_the_invoice_and_is_not_free() -> None:
    charge = {"id": "calls", "meter": "m", "prices": [{"when": {"region": "eu"}, "price": UNIT}]}
    held = billed(charge, by_region(eu="1", us="7"))
    assert (held["status"], held["hold_reason"]) == ("held", "missing_price")
    assert [(line["quantity"], line["amount"]) for line in held["lines"]] == [
        ("1", "2.00"),
        ("7", "0.00"),
    ]
    assert held["lines"][1]["description"] == "calls (region us): 7 units, no price"
    preview = billed(charge, by_region(us="7"), status="preview")
    assert (preview["status"], preview["hold_reason"]) == ("preview", "missing_price")
    assert billed(charge, by_region(eu="1"))["status"] == "draft"


def test_without_usage_a_charge_by_group_has_one_line_with_quantity_0() -> None:
    flat = {"model": "graduated", "tiers": [{"flat_amount": "3.5"}]}
    for charge, amount in (
        ({**BY_REGION, "price": flat}, "3.50"),
        ({**BY_REGION, "prices": [{"when": {"region": "eu"}, "price": flat}]}, "0.00"),
    ):
        invoice = billed(charge, None)
        assert invoice["status"] == "draft"
        assert [(line["quantity"], line["amount"]) for line in invoice["lines"]] == [("0", amount)]


def test_events_without_a_price_of_their_own_hold_the_invoice() -> None:
    charge = {"id": "x", "meter": "m", "price": {"model": "dynamic", "property": "cost"}}
    singles = [Single(NOON, "a", Decimal(1), {"cost": Decimal("0.25")})]
    fine = billed(charge, UsageOf(Decimal(1), 1, 0, singles=tuple(singles)))
    assert (fine["status"], fine["total"]) == ("draft", "0.25")
    singles.append(Single(NOON, "b", Decimal(1)))
    held = billed(charge, UsageOf(Decimal(2), 2, 0, singles=tuple(singles)))
    assert (held["hold_reason"], held["lines"][0]["quantity"]) == ("missing_price", "2")


def test_single_events_are_priced_by_group_in_their_order() -> None:
    price = {"model": "percentage", "rate": "10", "free_events": 1}
    charge = {**BY_REGION, "price": price}
    singles = tuple(
        Single(NOON, name, Decimal(value), {}, json.dumps({"other": 1, "region": region}))
        for name, value, region in (("b", 50, "eu"), ("a", 7, "eu"), ("c", 3, "us"))
    )
    invoice = billed(charge, UsageOf(Decimal(60), 3, 0, singles=singles))
    assert amounts(invoice) == {"eu": "5.00", "us": "0.00"}


def test_a_converted_quantity_stands_on_the_line_and_the_metered_one_in_words() -> None:
    charge = {"id": "x", "meter": "m", "price": UNIT, "included": 1}
    charge["convert"] = {"divide_by": 1000, "round": "up"}
    line = billed(charge, used("2400"))["lines"][0]
    assert (line["quantity"], line["amount"]) == ("3", "4.00")
    assert line["description"] == "x: 2400 units, billed as 3, 1 included, at 2.00"
    third = billed({**charge, "convert": {"divide_by": 3}}, used("4"))["lines"][0]
    assert third["quantity"].startswith("1.3333333333")
    assert third["amount"] == "0.67"


def test_a_discount_of_the_charge_comes_before_maximum_and_minimum() -> None:
    charge = {"id": "x", "meter": "m", "price": UNIT, "discount": {"percent": "25"}}
    line = billed(charge, used("10"))["lines"][0]
    assert (line["amount"], line["description"]) == (
        "15.00",
        "x: 10 units, at 2.00, less 25 percent",
    )
    assert billed({**charge, "maximum": 14}, used("10"))["total"] == "14.00"
    assert billed({**charge, "minimum": 16}, used("10"))["total"] == "16.00"


def test_tiers_are_rounded_one_by_one_only_where_the_charge_says_so() -> None:
    tiers = [{"up_to": 1, "unit_amount": "0.004"}, {"unit_amount": "0.004"}]
    charge = {"id": "x", "meter": "m", "price": {"model": "graduated", "tiers": tiers}}
    assert billed(charge, used("2"))["total"] == "0.01"
    assert billed({**charge, "round": "tier"}, used("2"))["total"] == "0.00"


METER = Meter(id="m", event_name="e", aggregation="sum", property="x", group_by=["region"])


def test_a_quote_takes_the_default_price_and_refuses_what_it_cannot_know() -> None:
    listed = {"id": "x", "meter": "m", "prices": [{"when": {"region": "eu"}, "price": UNIT}]}
    usage = {"m": Decimal(10)}
    with pytest.raises(ConfigurationError, match="it depends on the group"):
        quote(plan([listed]), {"m": METER}, usage)
    assert quote(plan([listed]), {"m": METER}, {}).total == 0
    assert quote(plan([{**listed, "default_price": UNIT}]), {"m": METER}, usage).total == 20
    dynamic = {"id": "x", "meter": "m", "price": {"model": "dynamic", "property": "cost"}}
    with pytest.raises(ConfigurationError, match="each event brings its own"):
        quote(plan([dynamic]), {"m": METER}, usage)
    by_event = {
        "id": "x",
        "meter": "m",
        "price": {"model": "percentage", "rate": 10, "free_events": 0},
    }
    by_event["price"]["minimum_per_event"] = 3
    assert quote(plan([by_event]), {"m": METER}, usage).total == 3


converts = st.builds(
    Convert,
    divide_by=st.integers(1, 5000).map(lambda n: Decimal(n) / 4),
    round=st.sampled_from(["up", "down", "half_up"]),
    precision=st.integers(-3, 6),
)


@given(converts, st.decimals(-(10**6), 10**6, places=6))
def test_conversion_rounds_to_a_neighbour_on_the_side_that_it_names(
    convert: Convert, quantity: Decimal
) -> None:
    exact = Fraction(quantity) / Fraction(convert.divide_by)
    found = convert_quantity(convert, quantity)
    grid = Fraction(10) ** -convert.precision
    assert (found / grid).denominator == 1
    if convert.round == "up":
        assert 0 <= found - exact < grid
    elif convert.round == "down":
        assert 0 <= exact - found < grid
    else:
        assert abs(found - exact) <= grid / 2
        assert convert_quantity(convert, -quantity) == -found


@given(converts, st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_steps_of_a_converted_quantity_add_up_to_the_bill_in_one_go(
    convert: Convert, parts: list[int]
) -> None:
    price = UnitPrice(model="unit", unit_amount=Decimal("0.333"))
    before, paid = 0, Decimal(0)
    for part in parts:
        paid += rate(price, part, before, paid, exponent=2, convert=convert).amount
        before += part
    assert paid == rate(price, before, exponent=2, convert=convert).amount
