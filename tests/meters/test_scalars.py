"""JSON scalars and values in one canonical text."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.scalars import canonical_json, canonical_scalar, is_json, parse_json
from tests.generators import to_json

decimals = st.builds(
    lambda digits, power: Decimal(digits).scaleb(power),
    st.integers(-(10**20), 10**20),
    st.integers(-30, 30),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), decimals, texts)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ("1e0", "1"),
        ("10e-1", "1"),
        ("1e2", "100"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("-0e7", "0"),
        ("-2.50", "-2.5"),
        ("0.1", "0.1"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("true", "true"),
        ("null", "null"),
        ('"1"', '"1"'),
        ('""', '""'),
        (r'"\u0041\/\u00e9"', '"A/é"'),
        (r'"\ud83d\ude00"', '"😀"'),
        (r'"\u0001\n\"\\"', r'"\u0001\n\"\\"'),
        ('"\u007f\u2028"', '"\u007f\u2028"'),
    ],
)
def test_equal_scalars_have_one_text(written, canonical):
    assert canonical_scalar(parse_json(written)) == canonical


@given(scalars, scalars)
def test_two_scalars_have_the_same_text_exactly_where_they_are_equal_by_type(left, right):
    def typed(value: object) -> object:
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            return "number", Fraction(value)
        return type(value).__name__, value

    assert (canonical_scalar(left) == canonical_scalar(right)) == (typed(left) == typed(right))


@given(values)
def test_canonical_json_is_json_that_says_the_same(value):
    text = canonical_json(value)
    assert canonical_json(parse_json(text)) == text
    assert canonical_json(parse_json(to_json(value))) == text
    assert parse_json(text) == value


@given(st.dictionaries(texts, scalars, max_size=4))
def test_the_order_of_keys_does_not_matter(value):
    backwards = dict(reversed(value.items()))
    assert canonical_json(backwards) == canonical_json(value)


def test_canonical_json_has_sorted_keys_and_no_spaces():
    assert canonical_json(parse_json('{"b": [1.0, {"d": 1, "c": null}], "a": "é"}')) == (
        '{"a":"é","b":[1,{"c":null,"d":1}]}'
    )


@pytest.mark.parametrize(
    "text", ["1e400", "-25e100000000", "1e-400", "1e-999999999999", "7e999999999999"]
)
def test_a_number_of_any_size_has_a_short_text_of_its_own(text):
    canonical = canonical_scalar(parse_json(text))
    assert len(canonical) < 30
    assert parse_json(canonical) == parse_json(text)
    assert canonical_scalar(parse_json(canonical)) == canonical


def test_however_a_large_number_is_written_its_text_is_one():
    written = ["1e400", "10e399", "1.00E+400", "0.01e402", "1" + "0" * 400]
    assert {canonical_scalar(parse_json(text)) for text in written} == {
        canonical_scalar(Decimal("1e400"))
    }


@pytest.mark.parametrize(
    "text",
    ["", "NaN", "Infinity", "-Infinity", "{", "[1,]", "1 2", "'a'", "1e99999999999999999999"],
)
def test_what_is_no_json_or_no_number_at_all_is_refused(text):
    assert not is_json(text)
    with pytest.raises(ValueError, match=r"Expecting|Illegal|Extra|is not JSON|19 digits"):
        parse_json(text)


def test_nesting_without_end_is_no_json_and_not_a_crash():
    assert not is_json("[" * 100_000 + "]" * 100_000)


def test_numbers_are_exact():
    assert parse_json("[1, 1.10, 0.1, 12345678901234567890.5]") == [
        1,
        Decimal("1.10"),
        Decimal("0.1"),
        Decimal("12345678901234567890.5"),
    ]
    assert type(parse_json("1")) is int
    assert json.loads("0.1") != parse_json("0.1")


def test_only_json_values_have_a_canonical_text():
    with pytest.raises(TypeError, match="not a JSON value: float"):
        canonical_json([1.5])
