import json
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import celpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meters.errors import Rejected
from meters.expressions import MAX_DEPTH, MAX_LENGTH, MAX_STEPS, Expression
from meters.numbers import LIMIT, PLACES, SCALE, parse_number
from meters.scalars import parse_json

EVENT = """{
    "tokens": 7, "prompt": 3, "completion": 4, "size": 1536, "rate": 0.1, "debt": -3,
    "name": "abc", "price": "12.50", "paid": true, "nothing": null, "huge": 1e400,
    "fine": 0.12345678901234567, "usage": {"input": {"cached": 5}, "none": null},
    "tags": [1, "x", null, {"k": 2}], "two words": 9, "properties": 6, "math": {"size": 3}
}"""
PROPERTIES: Any = parse_json(EVENT)


def evaluate(text: str, properties: Any = PROPERTIES) -> object:
    return Expression(text).evaluate(properties)


def refusal(text: str, properties: Any = PROPERTIES) -> Rejected:
    with pytest.raises(Rejected) as caught:
        evaluate(text, properties)
    return caught.value


# Values.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tokens * 0.001", "0.007"),
        ("prompt + completion * 3", "15"),
        ("(prompt + completion) * 3", "21"),
        ("size / 1024", "1.5"),
        ("7 / 2", "3.5"),
        ("int(7 / 2)", "3"),
        ("debt / 2", "-1.5"),
        ("int(debt / 2)", "-1"),
        ("debt % 2", "-1"),
        ("7 % -3", "1"),
        ("7.5 % 2", "1.5"),
        ("-debt", "3"),
        ("tokens - -1", "8"),
        ("tokens -1", "6"),
        ("10 / 3", "3.333333333333"),
        ("2 / 3", "0.666666666667"),
        ("10 / 3 * 3", "10"),
        ("0.1 + 0.2", "0.3"),
        ("1e3 + 0x10 + 2u + .5", "1018.5"),
        ("usage.input.cached", "5"),
        ('usage["input"].cached', "5"),
        ("tags[3].k + tags[0]", "3"),
        ('properties["two words"]', "9"),
        ("properties.properties", "6"),
        ("tokens > 5 ? prompt : missing", "3"),
        ("false ? missing : completion", "4"),
        ('{"eu": 2, "us": rate}["us"] * 10', "1"),
        ("double(price) * 2", "25"),
        ("decimal(price)", "12.5"),
        ('int("7") + uint(2.9)', "9"),
        ("size(name) + name.size() + size(tags) + size(usage)", "12"),
        ("size(tags.filter(t, t != null))", "3"),
        ("math.size", "3"),
        ("math.ceil(size / 1000)", "2"),
        ("math.greatest(tokens, size, rate)", "1536"),
        ("math.least(tokens, rate)", "0.1"),
        ("min(3, 1, 2) + max(3, 1, 2)", "4"),
        ("abs(debt) + math.abs(-0.5)", "3.5"),
        ("floor(-2.5)", "-3"),
        ("trunc(-2.59, 1)", "-2.5"),
        ("round(1250, -2)", "1300"),
        ("fine", "0.123456789012"),
        ("fine * 1000000", "123456.789012"),
        ("1e-30 * 1e14 * 1e14", "0.01"),
        ("0 * debt", "0"),
    ],
)
def test_numbers_are_exact_decimals(text: str, expected: str) -> None:
    result = evaluate(text)
    assert isinstance(result, Decimal)
    assert result == Decimal(expected)
    assert result.as_tuple().exponent == -PLACES
    assert str(result)[0] != "-" or result < 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate + 0.2 == 0.3", True),
        ("1 / 3 + 1 / 3 + 1 / 3 == 1", True),
        ("1 / 3 > 0.333333333333", True),
        ("1 == 1.0 && 1 != 2", True),
        ('1 == "1"', False),
        ("paid == 1", False),
        ('"a" < "b" && !(2 <= 1)', True),
        ('tokens in [1, 7.0, "x"]', True),
        ('"x" in tags', True),
        ("2 in tags", False),
        ('"input" in usage', True),
        ('"tokens" in properties', True),
        ('"nothing" in properties || "absent" in properties', False),
        ("has(tokens) && has(usage.input.cached)", True),
        ("has(nothing) || has(absent) || has(usage.none) || has(usage.a.b)", False),
        ("has(properties.tokens)", True),
        ("nothing == null && usage.none == null && tokens != null", True),
        ("null in [nothing]", True),
        ('name.startsWith("ab") && name.endsWith("bc") && name.contains("b")', True),
        ('name.matches("^a.c$") && !name.matches("^b")', True),
        ('tags.exists(t, t == "x")', True),
        ('tags.exists_one(t, t == "x")', True),
        ('["ab", "ac"].all(t, t.startsWith("a"))', True),
        ("[1, 2].exists(x, [2, 3].exists(y, x == y && y == completion - 2))", True),
        ('usage.exists(k, k == "none")', True),
        ('bool("true") && !bool(false)', True),
        ("paid ? paid : false", True),
    ],
)
def test_conditions_are_booleans(text: str, expected: bool) -> None:
    assert evaluate(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name", "abc"),
        ('name + "-" + string(rate) + string(paid)', "abc-0.1true"),
        ('tokens > 5 ? "large" : "small"', "large"),
        ("price", "12.50"),
        ('"\\u00e9\\n\\"" + r"\\n"', 'é\n"\\n'),
        ("'''a'b'''", "a'b"),
        ('" Ä b ".trim().upperAscii()', "Ä B"),
        ("string(1 / 3)", "0.333333333333"),
    ],
)
def test_text_is_text(text: str, expected: str) -> None:
    assert evaluate(text) == expected


def test_rounding_answers_as_lago_does() -> None:
    cases = json.loads(
        (Path(__file__).parent.parent / "data" / "peer_cases.json").read_text(encoding="utf-8")
    )
    found = [case for case in cases if case["kind"] == "expression"]
    assert found
    for case in found:
        expected = Decimal(case["expected"]["value"])
        assert evaluate(case["input"]["expression"]) == expected, case


def test_a_decimal_string_is_text_until_it_is_converted() -> None:
    error = refusal("price * 2")
    assert (error.reason, error.field, error.value) == ("expression_failed", "price * 2", "12.50")
    assert "double(...)" in error.expected
    assert evaluate("double(price) * 2") == 25


# What goes to quarantine.


@pytest.mark.parametrize("text", ["absent", "absent + 1", "-absent", "absent == null", "absent.x"])
def test_a_missing_property_is_named(text: str) -> None:
    error = refusal(text)
    assert (error.reason, error.field) == ("missing_property", "absent")


def test_null_counts_as_missing() -> None:
    assert refusal("nothing + 1").reason == "missing_property"
    assert refusal("usage.none * 2").field == "usage.none"
    assert refusal("tokens > 1 ? nothing : 0").field == "nothing"
    assert evaluate("has(nothing) ? nothing : 0") == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("name * 2", "abc"),
        ("paid + 1", "true"),
        ("tokens + name", "abc"),
        ("tokens / 0", "0"),
        ("tokens % (rate - rate)", "0"),
        ("!tokens", "7"),
        ("tokens ? 1 : 2", "7"),
        ("paid && name", "abc"),
        ("-name", "abc"),
        ("name < 1", "abc"),
        ("tags == tags", "a list"),
        ("usage", "an object"),
        ("tags[9]", "9"),
        ("tags[0.5]", "0.5"),
        ("tags.name", "a list"),
        ("1 in name", "abc"),
        ("double(name)", "abc"),
        ('double("1e99999999999999999999")', "1e99999999999999999999"),
        ("int(price)", "12.5"),
        ("uint(debt)", "-3"),
        ("bool(name)", "abc"),
        ("size(tokens)", "7"),
        ('tokens.startsWith("a")', "7"),
        ("name.all(n, true)", "abc"),
        ("tags.all(t, t)", "1"),
        ("round(1, 31)", "31"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_its_value(text: str, value: str) -> None:
    error = refusal(text)
    assert (error.reason, error.field, error.value) == ("expression_failed", text, value)
    assert str(error).startswith(f"{text} must be ")


def test_numbers_out_of_range_are_refused_where_they_are_read_and_at_the_end() -> None:
    assert refusal("huge * 0").field == "huge"
    assert refusal("huge").reason == "number_out_of_range"
    assert refusal("999999999999999 + 1").reason == "number_out_of_range"
    assert refusal("999999999999999.9999999999996").reason == "number_out_of_range"
    assert evaluate("999999999999999.9999999999994") == Decimal("999999999999999.999999999999")
    assert refusal("1e14 * 1e14 / 3").reason == "number_out_of_range"
    assert evaluate("1e14 * 1e14 / 1e14") == Decimal("1e14")


def test_one_side_of_and_and_or_makes_up_for_a_failure_of_the_other() -> None:
    assert evaluate("absent > 1 || true") is True
    assert evaluate("true || absent > 1") is True
    assert evaluate("name > 1 && false") is False
    assert evaluate("tags.exists(t, t > 0)") is True
    assert refusal("absent > 1 || false").field == "absent"
    assert refusal("tags.all(t, t > 0)").reason == "expression_failed"


def test_half_a_surrogate_pair_is_refused() -> None:
    broken = parse_json('{"name": "\\ud800"}')
    assert refusal("name", broken).reason == "expression_failed"
    assert refusal('name.matches("a") ? 1 : 2', broken).reason == "expression_failed"


def test_binary_floats_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="exact numbers"):
        Expression("x").evaluate({"x": 0.5})


# Which properties are read.


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1 + 2", set()),
        ("a + b.c", {"a", "b"}),
        ('properties["a-b"] + properties.c', {"a-b", "c"}),
        ('"x" in properties ? y : 0', {"x", "y"}),
        ("has(a.b) && has(c)", {"a", "c"}),
        ("tags.exists(t, t == other)", {"tags", "other"}),
        ("tags.exists(properties, properties == 1)", {"tags"}),
        ("math.ceil(x)", {"x"}),
    ],
)
def test_it_knows_the_properties_that_it_reads(text: str, names: set[str]) -> None:
    assert Expression(text).properties == names


# Texts that are no expression.


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("", (1, 1), "its end"),
        ("a +", (1, 3), "its end"),
        ("(a", (1, 2), "its end"),
        ("a b", (1, 3), "'b'"),
        ("a\n+ )", (2, 3), "')'"),
        ("a # b", (1, 3), "'#'"),
        ('"abc', (1, 1), "'\"'"),
        ("nope(1)", (1, 1), "known function"),
        ("a.map(i, i)", (1, 1), "known function"),
        ("timestamp(a)", (1, 1), "known function"),
        ("size()", (1, 1), "1 arguments"),
        ("round(1, 2, 3)", (1, 1), "1 to 2 arguments"),
        ("1 + has(2)", (1, 5), "has"),
        ("a.exists(1, true)", (1, 1), "a variable"),
        ('b"x"', (1, 1), "bytes"),
        ("a.b{c: 1}", (1, 1), "values, operators"),
        (".a", (1, 1), "values, operators"),
        ('"\\q"', (1, 1), "escapes"),
        ('"\\ud800"', (1, 1), "Unicode"),
        ("properties", (1, 1), "after properties"),
        ("properties[a]", (1, 12), "quoted text"),
        ("1 + if", (1, 5), 'properties["if"]'),
        ("a inlist", (1, 1), "space after in"),
        ("1e15", (1, 1), "below"),
        ("1 + 1e-31", (1, 5), "decimals"),
        ("1e999999999999999999999", (1, 1), "below"),
        ('a.matches("(")', (1, 11), "RE2"),
        ("a.matches(b)", (1, 11), "quoted text"),
        ("{1: 2}", (1, 2), "quoted text"),
        ('{"a": 1, "a": 2}', (1, 10), "once"),
    ],
)
def test_a_wrong_text_is_refused_with_its_place(
    text: str, place: tuple[int, int], part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        Expression(text)
    line, column = place
    assert str(caught.value).endswith(f" at line {line}, column {column})")
    assert part in str(caught.value)
    assert capfd.readouterr() == ("", "")


# Limits.


def test_length_and_depth_are_limited_and_chains_are_not_nested() -> None:
    long_chain = "+".join(["a"] * 500)
    assert Expression(long_chain).evaluate({"a": 1}) == 500
    assert Expression("&&".join(["a"] * 400)).evaluate({"a": True}) is True
    assert Expression("(" * 300 + "a" + ")" * 300).evaluate({"a": 1}) == 1
    with pytest.raises(ValueError, match=f"at most {MAX_LENGTH} characters"):
        Expression("a" * (MAX_LENGTH + 1))
    for deep in ("-(" * 60 + "a" + ")" * 60, "[" * 60 + "]" * 60, "a" + ".b" * 60, "!" * 60 + "a"):
        with pytest.raises(ValueError, match=f"at most {MAX_DEPTH} levels"):
            Expression(deep)


@pytest.mark.parametrize(
    "text",
    [
        "items.exists(a, items.exists(b, a + b < 0))",
        "items.all(a, a in items)",
        "size(items.filter(a, size(items + items) > 0)) > 0",
        'items.exists(a, note.contains("y"))',
    ],
)
def test_a_macro_stops_after_so_many_steps(text: str) -> None:
    properties = {"items": list(range(MAX_STEPS // 2)), "note": "x" * 1000}
    error = refusal(text, properties)
    assert (error.reason, error.expected) == ("expression_failed", f"done within {MAX_STEPS} steps")


# Laws.


def outcome(compute: Callable[[], object]) -> object:
    """What comes out, or the reason why nothing does."""
    try:
        return compute()
    except Rejected as error:
        return error.reason


numbers = st.decimals(
    min_value=-LIMIT + 1, max_value=LIMIT - 1, allow_nan=False, allow_infinity=False, places=12
) | st.integers(-20, 20).map(Decimal)


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False))
@example(10**15)
@example(Decimal("999999999999999.9999999999995"))
@example(Decimal("5e-13"))
@example(Decimal("1e-999999"))
@example(Decimal("-0.0"))
def test_a_property_alone_is_the_number_that_decoding_gives(number: int | Decimal) -> None:
    assert outcome(lambda: evaluate("x", {"x": number})) == outcome(
        lambda: parse_number(str(number))
    )


Tree = Any


def trees(leaves: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    """Arithmetic as (operator, left, right), down to the names of properties."""
    return st.recursive(
        leaves, lambda inner: st.tuples(st.sampled_from("+-*/%"), inner, inner), max_leaves=12
    )


def written(tree: Tree) -> str:
    return tree if isinstance(tree, str) else f"({written(tree[1])} {tree[0]} {written(tree[2])})"


def exact(tree: Tree, values: dict[str, Decimal]) -> Fraction:
    if isinstance(tree, str):
        return Fraction(values[tree] if tree in values else Decimal(tree))
    left, right = exact(tree[1], values), exact(tree[2], values)
    operators: dict[str, Callable[[], Fraction]] = {
        "+": lambda: left + right,
        "-": lambda: left - right,
        "*": lambda: left * right,
        "/": lambda: left / right,
        "%": lambda: left - right * int(left / right),
    }
    return operators[tree[0]]()


@settings(max_examples=300)
@given(
    trees(st.sampled_from(["a", "b", "c", "0.001", "3", "1024", "-7"])),
    st.fixed_dictionaries({"a": numbers, "b": numbers, "c": numbers}),
)
def test_arithmetic_equals_fractions_rounded_once(tree: Tree, values: dict[str, Decimal]) -> None:
    text = written(tree)
    try:
        expected = exact(tree, values)
    except ZeroDivisionError:
        assert refusal(text, values).expected == "free of a division by 0"
        return
    scaled = round(expected * SCALE)
    if abs(scaled) >= LIMIT * SCALE:
        assert refusal(text, values).reason == "number_out_of_range"
    else:
        result = evaluate(text, values)
        assert isinstance(result, Decimal)
        assert Fraction(result) == Fraction(scaled, SCALE)
        comparison = f"{text} == a && {text} >= b"
        assert evaluate(comparison, values) is (
            expected == Fraction(values["a"]) and expected >= Fraction(values["b"])
        )


def library() -> celpy.Environment:
    limit = sys.getrecursionlimit()
    environment = celpy.Environment()
    sys.setrecursionlimit(limit)  # which the library raises for the whole process
    return environment


LIBRARY = library()

small = st.integers(-9, 9)
logic = st.recursive(
    st.sampled_from(["x < y", "x == 1", "p", "q", "x in [1, 2, y]", 's == "a"', "x + y * 2 > 3"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda t: f"!({t})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})"),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(logic, small, small, st.booleans(), st.booleans(), st.sampled_from("ab"))
def test_logic_over_whole_numbers_equals_the_librarys_own_evaluator(
    text: str, x: int, y: int, p: bool, q: bool, s: str
) -> None:
    program = LIBRARY.program(LIBRARY.compile(text))
    properties = {"x": x, "y": y, "p": p, "q": q, "s": s}
    context: Any = {name: celpy.json_to_cel(value) for name, value in properties.items()}
    assert evaluate(text, properties) == bool(program.evaluate(context))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner),
    max_leaves=6,
)
pieces = st.sampled_from(
    [
        *("a", "b", "x", " ", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "+", "-", "*"),
        *("/", "%", "<", "==", "!=", "&&", "||", "!", " in ", "1", "0.5", '"a"', "null", "true"),
        *("has(", "size(", ".exists(x, ", ".filter(x, ", "properties", ".a", "int(", "round("),
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(pieces, max_size=12).map("".join), st.dictionaries(pieces, json_values))
def test_whatever_the_text_and_the_event_it_answers_or_refuses(
    text: str, properties: dict[str, object]
) -> None:
    with suppress(ValueError):
        expression = Expression(text)
        result = outcome(lambda: expression.evaluate({"a": 1, **properties}))
        assert isinstance(result, str | bool | Decimal)


def test_it_is_equal_and_picklable_by_its_text() -> None:
    expression = Expression("a * 2")
    copy = pickle.loads(pickle.dumps(expression))
    assert copy == expression
    assert hash(copy) == hash(expression)
    assert copy != Expression("a * 3")
    assert copy.evaluate({"a": 2}) == 4
    assert repr(copy) == "Expression('a * 2')"
