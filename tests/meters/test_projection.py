"""Projection: what the columns say of an event is what the scalar rules say of it."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meters.aggregators import Reading
from meters.catalog import Catalog, Meter
from meters.errors import Rejected
from meters.event import QUARANTINE_SCHEMA, identity_hash
from meters.numbers import parse_number, to_scaled
from meters.projection import (
    Projected,
    Projection,
    applies,
    counts,
    event_names,
    value_column,
)
from meters.property_columns import NO_SCALAR, canonical_column, number_column
from meters.readings import reading_of
from meters.scalars import canonical_scalar, parse_json
from meters.timestamps import parse_timestamp
from meters.usage import group_key
from tests.meters.chain import catalog_of, decoded, event, meter

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
number_texts = st.one_of(
    st.integers().map(str),
    st.from_regex(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,16})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(
        [
            "-0",
            "-0.0",
            "0e400",
            "1e2",
            "1.0",
            "1e400",
            "-7e-400",
            "9" * 5000,
            "1e99999999999999999999",
            "999999999999999.9999999999995",
            "1e15",
            "1e-13",
            "5e-13",
            "15e-13",
        ]
    ),
)
string_texts = st.one_of(
    texts, number_texts, st.sampled_from(["", "NaN", "true", " 1", "01"])
).flatmap(
    lambda text: st.sampled_from(
        [
            json.dumps(text),
            json.dumps(text, ensure_ascii=False),
            json.dumps(text).replace("/", r"\/"),
        ]
    )
)
scalar_texts = st.one_of(number_texts, string_texts, st.sampled_from(["true", "false", "null"]))
composite_texts = st.sampled_from(
    ["[]", "{}", "[1]", '{"x":1}', '[\n"a",\n2]', "[" * 90 + "]" * 90]
)
json_texts = st.one_of(scalar_texts, composite_texts)
"""Raw JSON values as they stand in an event."""


def series(values: list[str]) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


# Columns of raw JSON


def number_or_none(raw: str) -> Decimal | None:
    if raw[:1] == '"':
        raw = json.loads(raw)
    try:
        return parse_number(raw)
    except Rejected:
        return None


def loses_digits(raw: str) -> bool:
    number = number_or_none(raw)
    return number is not None and Fraction(json.loads(raw) if raw[:1] == '"' else raw) != number


@given(st.lists(st.one_of(json_texts, st.just("")), max_size=8))
@example(['"', "1"][1:])
@example(["0.1234567890123", '"1e-13"', "1.5000000000000", "1e-12", "5e-13", "-0.0000000000004"])
@example(["1e2", '"1e2"', '"\\u0031"', '""', "", "null", "true", "[1]", "-0", '"-0.0"'])
def test_a_column_of_numbers_equals_the_scalar_rule(raw):
    numbers, rounded = number_column(series(raw))
    assert numbers.to_list() == [number_or_none(text) for text in raw]
    assert rounded.to_list() == [row for row, text in enumerate(raw) if loses_digits(text)]


def canonical_or_mark(raw: str) -> str | None:
    if raw in ("", "null"):
        return None
    if raw[0] in "[{":
        return NO_SCALAR
    try:
        return canonical_scalar(parse_json(raw))
    except ValueError:
        return NO_SCALAR


@given(st.lists(st.one_of(json_texts, st.just("")), max_size=8))
@example(
    [r'"\ud83d\ude00"', '"😀"', r'"a\/b"', '"a/b"', "1e2", "100", "1.0", "-0.0", '"\\"', "\x7f"][:8]
)
@example(['"!"', "[]"])
def test_a_column_of_canonical_scalars_equals_the_scalar_rule(raw):
    assert canonical_column(series(raw)).to_list() == [canonical_or_mark(text) for text in raw]


def test_a_text_is_never_mistaken_for_a_composite_value():
    assert canonical_column(series(['"!"', "[]"])).to_list() == ['"!"', NO_SCALAR]


# Whole events


EXPRESSIONS = ["x * 2", "x + y", "y", "x > 1", "has(x) ? x : 7", "f", "double(y)", "10 / x"]


@st.composite
def meters(draw: st.DrawFn, name: str) -> Meter:
    aggregation = draw(st.sampled_from(["count", "sum", "max", "latest", "unique_count"]))
    value: dict[str, Any] = {}
    if aggregation != "count":
        value = draw(
            st.one_of(
                st.sampled_from([{"property": "x"}, {"property": "y"}, {"property": "é :"}]),
                st.sampled_from(EXPRESSIONS).map(lambda text: {"expression": text}),
            )
        )
    allowed = st.lists(st.sampled_from([None, 1, True, "eu", "1", Decimal("2.5"), ""]), min_size=1)
    return meter(
        aggregation,
        id=name,
        **({"property": None} | value),
        filters=draw(st.one_of(st.just({}), allowed.map(lambda values: {"f": values}))),
        group_by=draw(st.sampled_from([[], ["g"], ["x", "g"], ["f"]])),
    )


values = st.one_of(
    json_texts, st.sampled_from(["1", "1.0", '"1"', "true", "null", '"eu"', "2.50", "0"])
)
properties = st.dictionaries(st.sampled_from(["x", "y", "f", "g", "é :", "z"]), values, max_size=5)


def written(values: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(key)}: {text}" for key, text in values.items()) + "}"


def by_columns(each: Meter, made: Projected, names: dict[str, int]) -> list[object]:
    """What the projection says of each event, for one meter."""
    column = value_column(each)
    frame = made.slim.select(
        applies(each, names).alias("applies"),
        counts(each).alias("counts"),
        (pl.lit(None) if column is None else pl.col(column)).alias("value"),
        group_key(each.group_by).alias("group"),
    )
    reasons = {
        row["origin_row"]: row["reason"]
        for row in made.refused.to_pylist()
        if row["meter"] == each.id
    }
    found: list[object] = []
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        if not row["applies"]:
            found.append(None)
        elif not row["counts"]:
            found.append(reasons.pop(number))
        else:
            value = row["value"]
            found.append((row["group"], to_scaled(value) if isinstance(value, Decimal) else value))
    assert not reasons, "refused, but not by the columns"
    return found


def by_scalars(each: Meter, text: str) -> object:
    """What the scalar rule says of one event."""
    try:
        found = reading_of(
            each,
            event_name="e",
            event_id="i",
            timestamp=parse_timestamp("2026-01-31T10:17:33Z"),
            properties=parse_json(text),  # type: ignore[arg-type]
        )
    except Rejected as error:
        return error.reason
    if found is None:
        return None
    group, reading = found
    return group, reading.value_hash if each.aggregation == "unique_count" else reading.scaled


def parses(text: str) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


@settings(max_examples=100)
@given(st.lists(properties, min_size=1, max_size=6), meters("m"), meters("n"))
def test_an_event_means_the_same_in_columns_and_by_itself(found, first, second):
    sent = [text for text in map(written, found) if parses(text)]
    catalog = catalog_of(first, second)
    made = Projection(catalog).project(
        decoded([event(n, properties=text) for n, text in enumerate(sent)]).events
    )
    names = {name: index for index, name in enumerate(event_names(catalog))}
    for each in catalog.meters:
        assert by_columns(each, made, names) == [by_scalars(each, text) for text in sent]


def only(each: Meter, **sent: Any) -> object:
    """What one event with these properties means, which both forms must agree on."""
    text = sent.pop("text", None) or json.dumps(sent)
    made = Projection(catalog_of(each)).project(decoded([event(properties=text)]).events)
    [found] = by_columns(each, made, {"e": 0})
    assert found == by_scalars(each, text)
    return found


@pytest.mark.parametrize(
    ("given", "sent", "outcome"),
    [
        ({}, {}, "missing_property"),
        ({}, {"x": None}, "missing_property"),
        ({}, {"x": True}, "invalid_number"),
        ({}, {"x": ""}, "invalid_number"),
        ({}, {"x": [1]}, "invalid_number"),
        ({}, {"x": "1e15"}, "number_out_of_range"),
        ({}, {"x": "1.5"}, ("{}", 15 * 10**11)),
        ({"group_by": ["g"]}, {"x": 1}, ('{"g":null}', 10**12)),
        ({"group_by": ["g"]}, {"x": 1, "g": None}, ('{"g":null}', 10**12)),
        ({"group_by": ["g"]}, {"x": 1, "g": 1.0}, ('{"g":1}', 10**12)),
        ({"group_by": ["g"]}, {"x": 1, "g": "!"}, ('{"g":"!"}', 10**12)),
        ({"group_by": ["g"]}, {"x": 1, "g": []}, "invalid_group"),
        ({"group_by": ["g"]}, {"x": "no", "g": {}}, "invalid_group"),
        ({"group_by": ["g"], "expression": "x * 2"}, {"x": "no", "g": {}}, "invalid_group"),
        ({"group_by": ["g", "a"]}, {"x": 1, "a": True}, ('{"a":true,"g":null}', 10**12)),
        ({"filters": {"f": [None]}}, {"x": 1}, ("{}", 10**12)),
        ({"filters": {"f": [None]}}, {"x": 1, "f": None}, ("{}", 10**12)),
        ({"filters": {"f": [None]}}, {"x": 1, "f": "null"}, None),
        ({"filters": {"f": [None]}}, {"x": 1, "f": [None]}, None),
        ({"filters": {"f": [1]}}, {"x": 1, "f": 1.0}, ("{}", 10**12)),
        ({"filters": {"f": [1]}}, {"x": 1, "f": True}, None),
        ({"filters": {"f": [1]}}, {"x": 1, "f": "1"}, None),
        ({"filters": {"f": [1]}}, {}, None),
        ({"expression": "x * 2"}, {"x": 1.5}, ("{}", 3 * 10**12)),
        ({"expression": "f"}, {"f": "12"}, "invalid_number"),
        ({"expression": "x > 1"}, {"x": 2}, "invalid_number"),
        ({"expression": "x * 2"}, {}, "missing_property"),
    ],
)
def test_values_groups_and_filters_of_one_event(given, sent, outcome):
    assert only(meter("sum", **given), **sent) == outcome


def test_distinct_values_are_json_scalars_by_type():
    each = meter("unique_count")
    hashes = {
        text: only(each, text=f'{{"x":{text}}}')
        for text in ["1", "1.0", "1e0", '"1"', "true", '"A"', r'"\u0041"']
    }
    assert hashes["1"] == hashes["1.0"] == hashes["1e0"]
    assert hashes['"A"'] == hashes[r'"\u0041"']
    assert len(set(map(str, hashes.values()))) == 4
    assert only(each, x=[1]) == "invalid_value"
    assert only(each, x=None) == "missing_property"


def test_of_a_repeated_key_the_last_one_counts_in_both_forms():
    assert only(meter("sum"), text='{"x":1,"x":2}') == ("{}", 2 * 10**12)
    assert only(meter("sum", expression="x"), text='{"x":1,"x":2}') == ("{}", 2 * 10**12)


def test_half_a_surrogate_pair_is_no_text_for_the_scalar_rule_either():
    # In columns such an event is refused as a whole: its JSON is no Unicode.
    for fields in ({"group_by": ["x"]}, {"aggregation": "unique_count"}):
        with pytest.raises(Rejected):
            reading_of(
                meter(**{"aggregation": "count", **fields}),
                event_name="e",
                event_id="i",
                timestamp=parse_timestamp("2026-01-31T10:17:33Z"),
                properties=parse_json(r'{"x":"\ud800"}'),  # type: ignore[arg-type]
            )


# What is no event, and what no meter wants


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[]",
        "null",
        '"x"',
        "{",
        '{"x":1',
        '{"x":1}}',
        '{"x":NaN}',
        '{"x":01}',
        '{"x":"\\ud800"}',
        "{'x':1}",
        '{"x":1,}',
        '{"x":"\t"}',
        "\ufeff{}",
        "[" * 100_000,
        '{"x":' * 100_000,
    ],
)
def test_properties_that_are_no_json_object_are_no_event(text):
    made = Projection(catalog_of(meter())).project(
        decoded([event(1, properties={"x": 1}), event(2, properties=text)]).events
    )
    assert made.events["event_id"].to_pylist() == [event(1, properties={"x": 1})["event_id"]]
    assert made.slim["n:x"].to_list() == [Decimal(1)]
    [row] = made.broken.to_pylist()
    assert (row["reason"], row["field"], row["meter"]) == ("invalid_json", "properties", "")
    assert (row["event_id"], row["origin_row"]) == ("event 2", 2)
    assert json.loads(row["payload"])["event_id"] == "event 2"
    assert made.refused.num_rows == 0


@pytest.mark.parametrize(
    "unused",
    ["9" * 5000, "1e99999999999999999999", "1e999999999", "[" * 900 + "]" * 900],
)
@pytest.mark.parametrize("given", [{}, {"expression": "x * 2"}, {"filters": {"z": [None, "a"]}}])
def test_what_no_meter_asks_for_does_no_harm(unused, given):
    text = f'{{"x":"no number","z":{unused}}}'
    catalog = catalog_of(meter("sum", **given))
    made = Projection(catalog).project(decoded([event(1, properties=text)]).events)
    assert made.broken.num_rows == 0
    assert made.refused.num_rows == ("filters" not in given)
    for row in made.refused.to_pylist():
        assert unused in row["payload"]
        assert len(row["payload"]) < 10_000


def test_a_refused_value_is_reported_with_its_event_once_for_each_meter():
    catalog = catalog_of(meter("sum", id="a"), meter("max", id="b"), meter("count", id="c"))
    sent = event(1, properties={"x": "no"}, source="api", external_subscription_id="s")
    made = Projection(catalog).project(decoded([sent]).events)
    assert made.refused.schema == QUARANTINE_SCHEMA
    rows = made.refused.to_pylist()
    assert [(row["meter"], row["reason"], row["field"]) for row in rows] == [
        ("a", "invalid_number", "x"),
        ("b", "invalid_number", "x"),
    ]
    payload = json.loads(rows[0]["payload"])
    for time in ("timestamp", "ingested_at"):
        assert parse_timestamp(payload.pop(time)) == parse_timestamp(sent[time])
    assert payload == {key: sent[key] for key in sent if key not in ("timestamp", "ingested_at")}


def test_nothing_is_reported_for_unknown_customers_nor_without_report():
    projection = Projection(catalog_of(meter("sum")))
    stranger = decoded([event(1, external_customer_id="stranger")]).events
    assert projection.project(stranger).refused.num_rows == 0
    known = decoded([event(1)]).events
    assert projection.project(known).refused.num_rows == 1
    assert projection.project(known, report=False).refused.num_rows == 0


# Slim columns


def test_slim_columns_carry_identity_order_and_only_what_meters_need():
    catalog = catalog_of(
        meter("latest"), meter("unique_count", id="u", property="y", group_by=["g"])
    )
    sent = [event(1, properties={"x": 1, "wide": "w" * 1000}), event(2, external_customer_id="s")]
    table = decoded(sent).events
    slim = Projection(catalog).project(table).slim
    assert set(slim.columns) == {
        *("customer", "unknown", "event_name", "subscription", "timestamp", "ingested_at"),
        *("identity", "identity_low", "content", "event_id", "n:x", "j:g", "h:y"),
    }
    assert slim["customer"].to_list() == [0, None]
    assert slim["unknown"].to_list() == [None, "s"]
    first = slim.row(0, named=True)
    words = first["identity"].to_bytes(8, "big") + first["identity_low"].to_bytes(8, "big")
    assert words == identity_hash("event 1")
    assert first["content"].to_bytes(8, "big") == table["content_hash"][0].as_py()[:8]


def test_batches_of_any_size_and_slices_give_the_same_rows():
    catalog = catalog_of(meter("sum"), meter("unique_count", id="u", group_by=["x"]))
    events = [event(n, properties={"x": n % 3 if n % 4 else "é"}) for n in range(10)]
    projection = Projection(catalog)
    table = decoded(events).events
    whole = projection.project(table).slim
    pieces = [projection.project(table.slice(at, 3)).slim for at in range(0, 10, 3)]
    assert pl.concat(pieces).equals(whole)
    chunked = pa.concat_tables([table.slice(0, 4), table.slice(4)])
    assert projection.project(chunked).slim.equals(whole)


def test_no_events_have_the_same_columns():
    catalog = catalog_of(meter("latest"), meter("unique_count", id="u", group_by=["g"]))
    projection = Projection(catalog)
    some, none = (
        projection.project(decoded([event()]).events),
        projection.project(decoded([]).events),
    )
    assert none.slim.schema == some.slim.schema
    assert none.slim.is_empty()


@pytest.mark.parametrize(
    "name", ["a b", "é", "😀", ":", "=m", "a.b", 'a"b', "a\\b", "a\nb", "\x7f"]
)
def test_a_property_may_have_any_name(name):
    catalog = catalog_of(
        meter("sum", property=name, group_by=[name], filters={name: [1]}),
        meter("sum", id="m2", expression="x * 3"),
    )
    made = Projection(catalog).project(decoded([event(properties={name: 1, "x": 5})]).events)
    [row] = made.slim.to_dicts()
    for each, value in zip(catalog.meters, (1, 15), strict=True):
        assert row[value_column(each)] == value


def test_an_expression_and_a_property_are_never_mistaken_for_each_other():
    catalog = catalog_of(meter("sum", property="=m2"), meter("sum", id="m2", expression="x * 3"))
    made = Projection(catalog).project(decoded([event(properties={"=m2": 1, "x": 5})]).events)
    [row] = made.slim.to_dicts()
    assert [row[value_column(each)] for each in catalog.meters] == [1, 15]


def test_a_catalog_without_meters_or_customers_projects_too():
    for catalog in (Catalog(), catalog_of()):
        made = Projection(catalog).project(decoded([event(properties={"x": 1})]).events)
        assert made.slim.height == 1


def test_it_is_the_same_after_pickling():
    projection = Projection(catalog_of(meter("sum"), meter("max", id="n", expression="x * 2")))
    again = pickle.loads(pickle.dumps(projection))
    table = decoded([event(properties={"x": 1})]).events
    assert again.project(table).slim.equals(projection.project(table).slim)


def test_a_reading_has_what_orders_and_counts_it():
    found = reading_of(
        meter("latest"),
        event_name="e",
        event_id="é",
        timestamp=parse_timestamp("1970-01-01T00:00:01Z"),
        properties={"x": "2.5"},
    )
    assert found == ("{}", Reading(at=1_000_000, event_id="é", scaled=25 * 10**11))
    assert found[1].value_hash is None
