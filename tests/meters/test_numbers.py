"""Numbers: the grammar of JSON, one rounding, one bound."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meters.errors import Rejected
from meters.numbers import (
    LIMIT,
    SCALE,
    divide_half_even,
    fits,
    from_scaled,
    parse_number,
    plain,
    rounds,
    to_scaled,
)
from tests.oracle import number as exact

MOST = 10**27 - 1
scaled_numbers = st.integers(-MOST, MOST)


@st.composite
def grammatical(draw: st.DrawFn) -> str:
    """Texts by RFC 8259, section 6, around and far beyond what fits."""
    sign = draw(st.sampled_from(["", "-"]))
    whole = draw(st.one_of(st.just("0"), st.integers(1, 10**18).map(str)))
    digits = st.text("0123456789", min_size=1, max_size=30)
    fraction = draw(st.one_of(st.just(""), digits.map(lambda text: f".{text}")))
    power = st.integers(-45, 20).map(str)
    signed = st.builds(
        "{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), power
    )
    exponent = draw(st.one_of(st.just(""), signed))
    return f"{sign}{whole}{fraction}{exponent.replace('--', '-').replace('+-', '-')}"


def outcome(text: str) -> Decimal | str:
    try:
        return parse_number(text)
    except Rejected as error:
        return error.reason


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.0e5", "0"),
        ("1", "1"),
        ("-1.50", "-1.5"),
        ("1e2", "100"),
        ("1E+2", "100"),
        ("25e-1", "2.5"),
        ("0.0000000000005", "0"),
        ("0.0000000000015", "2e-12"),
        ("0.00000000000050000000000000000000000000001", "1e-12"),
        ("-0.0000000000015", "-2e-12"),
        ("-0.0000000000025", "-2e-12"),
        ("999999999999999", "999999999999999"),
        ("999999999999999.999999999999", "999999999999999.999999999999"),
        ("999999999999999.9999999999994", "999999999999999.999999999999"),
        ("-999999999999999.999999999999", "-999999999999999.999999999999"),
        ("1e-40", "0"),
        ("1e-999999999", "0"),
        ("0e400", "0"),
        ("0." + "1" * 50, "0.111111111111"),
        ("1" + "0" * 14 + "." + "9" * 36, "100000000000001"),
    ],
)
def test_a_json_number_is_its_decimal_at_12_places_half_even(text, value):
    assert parse_number(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    "1e15 -1e15 1000000000000000 999999999999999.9999999999995 123e13 1e400 1e999999999999 "
    f"1e9999999999999999999999 {'9' * 50}".split(),
)
def test_a_magnitude_of_1e15_or_more_is_out_of_range(text):
    with pytest.raises(Rejected, match="a number with a magnitude below 1e15") as caught:
        parse_number(text, "size")
    assert (caught.value.reason, caught.value.field) == ("number_out_of_range", "size")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "Infinity",
        "-Infinity",
        "inf",
        "true",
        "null",
        "01",
        "-01",
        "+1",
        ".5",
        "1.",
        "1.e2",
        "1e",
        "1e+",
        "-",
        "--1",
        " 1",
        "1 ",
        "1\n",
        "1,5",
        "1_000",
        "0x10",
        "1.5.2",
        "x",
        "٣",
        "\uff11",
        "1e٣",
        "\u22121",
        "1\xa0",
        "\x00",
        "½",
    ],
)
def test_what_is_no_json_number_is_invalid(text):
    with pytest.raises(Rejected, match="value must be a decimal number") as caught:
        parse_number(text)
    assert caught.value.reason == "invalid_number"


@given(st.one_of(grammatical(), st.text("0123456789.eE+- x\n", max_size=8)))
@example("-0")
def test_a_number_is_what_exact_fractions_say(text):
    try:
        expected = exact(text)
    except ValueError:
        assert outcome(text) in ("invalid_number", "number_out_of_range")
    else:
        assert outcome(text) == Decimal(expected.numerator) / Decimal(expected.denominator)
        assert Fraction(parse_number(text)) == expected


@given(st.one_of(st.text("0123456789.eE+-", max_size=6), st.text(max_size=4)))
def test_the_grammar_is_that_of_a_json_parser(text):
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_number = is_number and text == text.strip() and "N" not in text and "y" not in text
    assert is_number == (outcome(text) != "invalid_number")


@given(grammatical())
def test_a_number_rounds_where_its_decimal_is_not_what_was_written(text):
    if not isinstance(outcome(text), str):
        assert rounds(text) == (Fraction(Decimal(text)) != Fraction(parse_number(text)))


@given(scaled_numbers)
def test_scaling_is_exact_both_ways(scaled):
    assert to_scaled(from_scaled(scaled)) == scaled
    assert Fraction(from_scaled(scaled)) == Fraction(scaled, SCALE)
    assert parse_number(plain(from_scaled(scaled))) == from_scaled(scaled)


@given(st.integers(-(10**45), 10**45), st.integers(1, 10**11))
def test_division_rounds_half_to_even(numerator, denominator):
    quotient = divide_half_even(numerator, denominator)
    twice_off = abs(2 * (quotient * denominator - numerator))
    assert twice_off <= denominator
    assert twice_off < denominator or quotient % 2 == 0


@given(scaled_numbers)
def test_plain_notation_has_no_exponent_and_no_trailing_zeros(scaled):
    text = plain(from_scaled(scaled))
    assert Decimal(text) == from_scaled(scaled)
    assert "e" not in text.lower()
    assert not (text.startswith("-") and Decimal(text) == 0)
    assert "." not in text or text[-1] not in "0."


@pytest.mark.parametrize(
    ("number", "places", "expected"),
    [
        ("1.5", 1, True),
        ("1.50", 1, False),
        ("999999999999999.9", 1, True),
        (str(LIMIT), 0, False),
        ("1e14", 0, True),
        ("NaN", 0, False),
    ],
)
def test_a_number_fits_by_its_magnitude_and_by_the_decimals_written(number, places, expected):
    assert fits(Decimal(number), places) is expected
