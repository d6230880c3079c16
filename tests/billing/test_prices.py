"""Golden cases of each price model, and of the way from a quantity to an amount."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from billing.prices import Step, price_amount, rate
from meters.catalog import (
    FlatPrice,
    GraduatedPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    UnitPrice,
    VolumePrice,
)
from tests.billing.given import tiers

FLAT = FlatPrice(model="flat", amount=Decimal("10"))
UNIT = UnitPrice(model="unit", unit_amount=Decimal("0.002"))
PACKAGE = PackagePrice(
    model="package", amount=Decimal("5"), size=Decimal("10"), free_units=Decimal("20")
)
ROWS = (("10", "1", "2"), ("20", "0.5", "3"), (None, "0.1", "4"))
GRADUATED = GraduatedPrice(model="graduated", tiers=tiers(*ROWS))
VOLUME = VolumePrice(model="volume", tiers=tiers(*ROWS))


@pytest.mark.parametrize(
    ("price", "quantity", "amount"),
    [
        (FLAT, "0", "10"),
        (FLAT, "1000", "10"),
        (UNIT, "0", "0"),
        (UNIT, "1500", "3"),
        (UNIT, "0.5", "0.001"),
        (PACKAGE, "0", "0"),
        (PACKAGE, "20", "0"),
        (PACKAGE, "20.000000000001", "5"),
        (PACKAGE, "30", "5"),
        (PACKAGE, "30.1", "10"),
        (GRADUATED, "0", "2"),
        (GRADUATED, "10", "12"),
        (GRADUATED, "10.5", "15.25"),
        (GRADUATED, "20", "20"),
        (GRADUATED, "20.000000000001", "24.0000000000001"),
        (GRADUATED, "30", "25"),
        (VOLUME, "0", "2"),
        (VOLUME, "10", "12"),
        (VOLUME, "10.5", "8.25"),
        (VOLUME, "20", "13"),
        (VOLUME, "30", "7"),
    ],
)
def test_a_quantity_has_this_exact_amount(price: Price, quantity: str, amount: str) -> None:
    assert price_amount(price, Decimal(quantity)).amount == Fraction(amount)


@pytest.mark.parametrize("model", ["graduated", "volume"])
def test_the_first_flat_amount_can_be_left_out_at_quantity_0(model: str) -> None:
    given: dict[str, object] = {"model": model, "tiers": tiers(*ROWS), "flat_at_zero": False}
    price = (GraduatedPrice if model == "graduated" else VolumePrice).model_validate(given)
    assert price_amount(price, 0).amount == 0
    assert price_amount(price, Fraction(1, 1000)).amount == Fraction("2.001")


def test_a_percentage_is_of_the_quantity_above_the_free_units() -> None:
    price = PercentagePrice(model="percentage", rate=Decimal("2.9"), free_units=Decimal("100"))
    assert price_amount(price, 100).amount == 0
    assert price_amount(price, 300).amount == Fraction("5.8")


def test_a_percentage_adds_its_fixed_amount_for_each_event() -> None:
    price = PercentagePrice(model="percentage", rate=Decimal("2.9"), fixed_amount=Decimal("0.30"))
    assert price_amount(price, Decimal("100"), events=4).amount == Fraction("4.10")


def test_the_steps_of_a_graduated_price_say_what_each_tier_adds() -> None:
    assert price_amount(GRADUATED, 12).steps == (
        Step("units", Fraction(10), Fraction(1), Fraction(2), tier=1),
        Step("units", Fraction(2), Fraction(1, 2), Fraction(3), tier=2),
    )


@pytest.mark.parametrize("price", [FLAT, UNIT, PACKAGE, GRADUATED, VOLUME])
def test_a_negative_quantity_is_priced_as_0(price: Price) -> None:
    assert price_amount(price, -7) == price_amount(price, 0)
    assert rate(price, -7, exponent=2, included=5).amount >= 0


def test_included_units_come_off_before_the_tiers() -> None:
    rated = rate(GRADUATED, 25, exponent=2, included=10)
    assert rated.billable == 15
    assert rated.amount == Decimal("17.50")
    assert rate(GRADUATED, 5, exponent=2, included=10).billable == 0


def test_the_maximum_comes_before_the_minimum_and_both_before_rounding() -> None:
    capped = rate(UNIT, 10_000, exponent=2, maximum=Decimal("5.005"))
    assert (capped.exact, capped.amount, capped.bound) == (
        Fraction("5.005"),
        Decimal("5.01"),
        "maximum",
    )
    raised = rate(UNIT, 10, exponent=2, minimum=Decimal("5.005"), maximum=Decimal("9"))
    assert (raised.amount, raised.bound) == (Decimal("5.01"), "minimum")
    between = rate(UNIT, 3000, exponent=2, minimum=5, maximum=9)
    assert (between.amount, between.bound) == (Decimal("6.00"), None)


def test_a_line_is_rounded_once_and_not_tier_by_tier() -> None:
    thirds = tiers(("1", "0.004", "0"), ("2", "0.004", "0"), (None, "0.004", "0"))
    price = GraduatedPrice(model="graduated", tiers=thirds)
    assert rate(price, 3, exponent=2).amount == Decimal("0.01")


def test_a_delta_is_the_rounded_cumulative_amount_minus_what_was_billed() -> None:
    price = UnitPrice(model="unit", unit_amount=Decimal("0.004"))
    first = rate(price, 1, exponent=2)
    second = rate(price, 1, 1, first.amount, exponent=2)
    assert (first.amount, second.amount) == (Decimal("0.00"), Decimal("0.01"))
    assert second.exact == Fraction("0.008")
    back = rate(price, -2, 2, Decimal("0.01"), exponent=2)
    assert back.amount == Decimal("-0.01")


def test_a_price_without_an_open_last_tier_is_refused_at_the_gap() -> None:
    gap = VolumePrice.model_construct(
        model="volume", tiers=tiers(("10", "1", "0")), flat_at_zero=True
    )
    with pytest.raises(ValueError, match=r"last tier must have no upper bound \(got 10\)"):
        price_amount(gap, 11)
