from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.money import (
    EXACT_DIGITS,
    add_amounts,
    decimal_text,
    format_amount,
    format_price,
    from_minor_units,
    minor_units,
    round_amount,
    spread,
)
from meters.currencies import currency_exponent

exponents = st.integers(min_value=0, max_value=4)
fractions = st.fractions(min_value=-(10**9), max_value=10**9)


@pytest.mark.parametrize(
    ("exact", "currency", "written"),
    [
        ("12.3", "EUR", "12.30"),
        ("0", "EUR", "0.00"),
        ("0.005", "EUR", "0.01"),
        ("-0.005", "EUR", "-0.01"),
        ("0.0049999999999999999999999999999999", "EUR", "0.00"),
        ("-0.004", "EUR", "0.00"),
        ("2.675", "USD", "2.68"),
        ("0.015", "EUR", "0.02"),
        ("0.025", "EUR", "0.03"),
        ("12.4", "JPY", "12"),
        ("12.5", "JPY", "13"),
        ("-12.5", "JPY", "-13"),
        ("0.5", "JPY", "1"),
        ("1.2344", "KWD", "1.234"),
        ("1.2345", "KWD", "1.235"),
        ("-1.2345", "KWD", "-1.235"),
        ("1.00005", "CLF", "1.0001"),
    ],
)
def test_amounts_round_half_away_from_zero_to_the_decimals_of_the_currency(
    exact: str, currency: str, written: str
) -> None:
    exponent = currency_exponent(currency)
    assert format_amount(round_amount(Fraction(exact), exponent), exponent) == written


def test_a_third_rounds_down_and_two_thirds_round_up() -> None:
    assert round_amount(Fraction(1, 3), 2) == Decimal("0.33")
    assert round_amount(Fraction(2, 3), 2) == Decimal("0.67")


@given(fractions, exponents)
def test_rounding_moves_by_half_a_minor_unit_at_most(exact: Fraction, exponent: int) -> None:
    off = abs(Fraction(round_amount(exact, exponent)) - exact)
    assert off <= Fraction(1, 2 * 10**exponent)


@given(fractions, exponents)
def test_rounding_mirrors_at_zero(exact: Fraction, exponent: int) -> None:
    assert minor_units(-exact, exponent) == -minor_units(exact, exponent)


@given(st.integers(), exponents)
def test_a_rounded_amount_rounds_to_itself(units: int, exponent: int) -> None:
    amount = from_minor_units(units, exponent)
    assert minor_units(Fraction(amount), exponent) == units
    assert amount.as_tuple().exponent == -exponent


def test_sums_are_exact_beyond_the_28_digits_of_the_decimal_context() -> None:
    large = Decimal("12345678901234567890123456789012345.67")
    total = add_amounts([large, Decimal("0.01"), large.copy_negate()], 2)
    assert total == Decimal("0.01")
    assert format_amount(large, 2) == "12345678901234567890123456789012345.67"


def test_an_amount_with_digits_below_the_minor_unit_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"at most 2 decimals \(got 0.001\)"):
        format_amount(Decimal("0.001"), 2)


@pytest.mark.parametrize(
    ("price", "exponent", "written"),
    [
        ("49", 2, "49.00"),
        ("0.5", 2, "0.50"),
        ("0.002", 2, "0.002"),
        ("0.00200", 2, "0.002"),
        ("1E-8", 2, "0.00000001"),
        ("12", 0, "12"),
        ("0.5", 0, "0.5"),
        ("1E+3", 3, "1000.000"),
    ],
)
def test_a_price_is_written_in_full_with_at_least_the_decimals_of_the_currency(
    price: str, exponent: int, written: str
) -> None:
    assert format_price(Decimal(price), exponent) == written


@pytest.mark.parametrize(
    ("exact", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(1500), "1500"),
        (Fraction(-3, 8), "-0.375"),
        (Fraction(1, 10**15), "0.000000000000001"),
        (Fraction(10**40 + 1, 10), "1" + "0" * 39 + ".1"),
        (Fraction(1, 3), "0." + "3" * 30),
        (Fraction(-2, 3), "-0." + "6" * 30),
        (Fraction(200, 3), "66." + "6" * 28),
        (Fraction(1, 3000), "0.000" + "3" * 30),
        (Fraction(490, 31), "15.8064516129032258064516129032"),
        (Fraction(10**31, 3), "3" * 31),
    ],
)
def test_a_fraction_is_written_in_full_or_cut_after_30_digits(exact: Fraction, text: str) -> None:
    assert decimal_text(exact) == text


@given(fractions, exponents)
def test_rounding_the_text_of_an_exact_amount_gives_the_amount(
    exact: Fraction, exponent: int
) -> None:
    text = decimal_text(exact)
    assert round_amount(Fraction(text), exponent) == round_amount(exact, exponent)


@given(fractions)
def test_the_text_of_a_fraction_is_within_its_last_digit(exact: Fraction) -> None:
    off = abs(Fraction(decimal_text(exact)) - exact)
    assert off <= abs(exact) / 10 ** (EXACT_DIGITS - 1)


weights = st.lists(
    st.fractions(min_value=0, max_value=1000, max_denominator=1000), min_size=1, max_size=12
).filter(any)


@given(st.integers(min_value=-(10**9), max_value=10**9), weights)
def test_a_spread_sums_to_the_whole_and_each_part_is_within_one_unit(
    units: int, shares: list[Fraction]
) -> None:
    parts = spread(units, shares)
    assert sum(parts) == units
    for part, share in zip(parts, shares, strict=True):
        assert abs(part - units * share / sum(shares)) < 1


@given(st.integers(min_value=0, max_value=10**6), weights, st.randoms(use_true_random=False))
def test_a_spread_gives_the_same_parts_in_any_order_of_unequal_weights(
    units: int, shares: list[Fraction], shuffle: random.Random
) -> None:
    distinct = sorted(set(shares))
    shuffled = list(distinct)
    shuffle.shuffle(shuffled)
    remainders = [units * share / sum(distinct) % 1 for share in distinct]
    if len(set(remainders)) == len(remainders):
        by_weight = dict(zip(distinct, spread(units, distinct), strict=True))
        assert spread(units, shuffled) == [by_weight[share] for share in shuffled]


def test_equal_remainders_go_to_the_earlier_weight() -> None:
    assert spread(5, [Fraction(1)] * 3) == [2, 2, 1]
    assert spread(-5, [Fraction(1)] * 3) == [-2, -2, -1]


def test_nothing_spreads_over_nothing() -> None:
    assert spread(0, []) == []
    assert spread(0, [Fraction(0)]) == [0]


def test_weights_that_cannot_carry_a_spread_are_refused() -> None:
    with pytest.raises(ValueError, match="must have a sum above 0 to spread 5"):
        spread(5, [Fraction(0)])
    with pytest.raises(ValueError, match=r"must not be negative \(got -1\)"):
        spread(5, [Fraction(2), Fraction(-1)])
