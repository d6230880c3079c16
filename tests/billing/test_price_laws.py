"""Laws that every price keeps, and a slow oracle that prices grain by grain."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from billing.money import minor_units
from billing.prices import price_amount, rate
from meters.catalog import GraduatedPrice, Price, UnitPrice, VolumePrice
from tests.billing.given import (
    GRAIN,
    amounts,
    graduated,
    prices,
    quantities,
    rising_prices,
    unit_prices,
    volume,
)
from tests.billing.oracle import slow_amount

events = st.integers(min_value=0, max_value=20)
exponents = st.sampled_from([0, 2, 3])
tiny = st.fractions(min_value=Fraction(1, 10**12), max_value=GRAIN / 2)


@given(prices, quantities, events)
def test_a_price_equals_the_slow_oracle(price: Price, quantity: Fraction, count: int) -> None:
    assert price_amount(price, quantity, count).amount == slow_amount(price, quantity, count)


@given(rising_prices, quantities, quantities, events)
def test_more_usage_never_costs_less(
    price: Price, quantity: Fraction, more: Fraction, count: int
) -> None:
    dearer = price_amount(price, quantity + more, count).amount
    assert dearer >= price_amount(price, quantity, count).amount


@given(prices, quantities, events)
def test_no_amount_is_negative(price: Price, quantity: Fraction, count: int) -> None:
    assert price_amount(price, quantity, count).amount >= 0
    assert price_amount(price, -quantity, count) == price_amount(price, 0, count)


@given(graduated(flats=False), tiny)
def test_a_graduated_price_without_flat_amounts_has_no_jump_at_a_bound(
    price: GraduatedPrice, step: Fraction
) -> None:
    for index, tier in enumerate(price.tiers[:-1]):
        assert tier.up_to is not None
        at = price_amount(price, tier.up_to).amount
        above = price_amount(price, Fraction(tier.up_to) + step).amount
        assert above - at == step * Fraction(price.tiers[index + 1].unit_amount)


@given(volume(), tiny)
def test_a_quantity_just_above_a_bound_belongs_to_the_higher_tier(
    price: VolumePrice, step: Fraction
) -> None:
    for number, tier in enumerate(price.tiers[:-1], start=1):
        assert tier.up_to is not None
        assert price_amount(price, tier.up_to).steps[0].tier == number
        assert price_amount(price, Fraction(tier.up_to) + step).steps[0].tier == number + 1


@given(unit_prices, quantities, quantities)
def test_a_unit_price_is_additive(price: UnitPrice, one: Fraction, other: Fraction) -> None:
    apart = price_amount(price, one).amount + price_amount(price, other).amount
    assert price_amount(price, one + other).amount == apart


@given(graduated(), quantities)
def test_the_tiers_of_a_graduated_price_share_out_the_whole_quantity(
    price: GraduatedPrice, quantity: Fraction
) -> None:
    steps = price_amount(price, quantity).steps
    assert sum(step.quantity for step in steps) == quantity
    assert [step.tier for step in steps] == list(range(1, len(steps) + 1))


@given(prices, st.lists(quantities, min_size=1, max_size=6), exponents, quantities)
def test_bills_in_steps_add_up_to_the_bill_in_one_go(
    price: Price, parts: list[Fraction], exponent: int, included: Fraction
) -> None:
    billed_quantity, billed_amount = Fraction(0), Fraction(0)
    for part in parts:
        rated = rate(
            price, part, billed_quantity, billed_amount, exponent=exponent, included=included
        )
        billed_quantity += part
        billed_amount += Fraction(rated.amount)
    whole = rate(price, sum(parts, Fraction(0)), exponent=exponent, included=included)
    assert billed_amount == Fraction(whole.amount)


@given(prices, quantities, quantities, exponents)
def test_taking_usage_back_takes_back_what_it_had_cost(
    price: Price, kept: Fraction, voided: Fraction, exponent: int
) -> None:
    first = rate(price, kept + voided, exponent=exponent)
    back = rate(price, -voided, kept + voided, first.amount, exponent=exponent)
    assert first.amount + back.amount == rate(price, kept, exponent=exponent).amount


@given(prices, quantities, exponents, amounts, amounts, quantities)
def test_an_amount_stays_within_its_bounds_to_the_last_unit(
    price: Price,
    quantity: Fraction,
    exponent: int,
    one: Decimal,
    other: Decimal,
    included: Fraction,
) -> None:
    low, high = sorted([one, other])
    rated = rate(price, quantity, exponent=exponent, included=included, minimum=low, maximum=high)
    assert low <= rated.exact <= high
    assert minor_units(Fraction(low), exponent) <= rated.amount * 10**exponent
    assert rated.amount * 10**exponent <= minor_units(Fraction(high), exponent)


@given(rising_prices, quantities, quantities, quantities)
def test_more_included_units_never_cost_more(
    price: Price, quantity: Fraction, included: Fraction, more: Fraction
) -> None:
    cheaper = rate(price, quantity, exponent=2, included=included + more).exact
    assert cheaper <= rate(price, quantity, exponent=2, included=included).exact
