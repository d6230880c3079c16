from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.warehouse.rows import T0
from warehouse.client import Warehouse
from warehouse.parameters import Parameters, chunks, json_list, plain_value

texts = st.text(max_size=20)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=5.75)))
few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@few
@given(text=texts, items=st.lists(texts, max_size=4), pairs=st.lists(st.tuples(texts, texts)))
def test_texts_come_back_as_they_went(
    warehouse: Warehouse, text: str, items: list[str], pairs: list[tuple[str, str]]
) -> None:
    sql = (
        "SELECT {text:String} AS text, {items:Array(String)} AS items, "
        "arrayMap(pair -> pair.1, {pairs:Array(Tuple(String, String))}) AS lefts, "
        "arrayMap(pair -> pair.2, {pairs:Array(Tuple(String, String))}) AS rights"
    )
    parameters: Parameters = {"text": text, "items": items, "pairs": pairs}
    assert warehouse.query_rows(sql, parameters) == [
        {
            "text": text,
            "items": items,
            "lefts": [left for left, _ in pairs],
            "rights": [right for _, right in pairs],
        }
    ]


@pytest.mark.parametrize(
    "text",
    [
        "'; DROP TABLE events; --",
        "\\",
        "\\'",
        "\\N",
        "NULL",
        "{text:String}",
        "a\0b\r\n\t\b\f\v",
        "`",
        "é😀",
    ],
)
def test_text_that_looks_like_syntax_stays_text(warehouse: Warehouse, text: str) -> None:
    found = warehouse.query_rows(
        "SELECT {text:String} AS text, {texts:Array(String)} AS texts",
        {"text": text, "texts": [text]},
    )
    assert found == [{"text": text, "texts": [text]}]


@few
@given(
    number=st.integers(-(2**63), 2**63 - 1),
    decimal=st.decimals(-(10**20), 10**20, places=12),
    microseconds=st.integers(0, 230 * 365 * 86_400_000_000),
)
def test_numbers_and_instants_come_back_as_they_went(
    warehouse: Warehouse, number: int, decimal: Decimal, microseconds: int
) -> None:
    instant = EPOCH + timedelta(microseconds=microseconds)
    found = warehouse.query_rows(
        "SELECT {number:Int64} AS number, {decimal:Decimal(38, 12)} AS decimal, "
        "{instant:DateTime64(6, 'UTC')} AS instant, {yes:Bool} AS yes, "
        "{none:Nullable(String)} AS none",
        {"number": number, "decimal": decimal, "instant": instant, "yes": True, "none": None},
    )
    assert found == [
        {"number": number, "decimal": decimal, "instant": instant, "yes": True, "none": None}
    ]


def test_a_list_longer_than_a_url_arrives_whole(warehouse: Warehouse) -> None:
    items = [f"customer-{number}'" for number in range(2000)]
    found = warehouse.query_rows("SELECT length({items:Array(String)}) AS n", {"items": items})
    assert found == [{"n": 2000}]


@pytest.mark.parametrize("value", [1.5, b"x", T0.replace(tzinfo=None), object(), {"a": 1}, [1.5]])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        plain_value(value)  # type: ignore[arg-type]


@few
@given(
    items=st.lists(st.tuples(texts, st.integers(-(2**63), 2**63 - 1)), max_size=5),
    microseconds=st.integers(0, 230 * 365 * 86_400_000_000),
)
def test_a_json_list_comes_back_as_it_went(
    warehouse: Warehouse, items: list[tuple[str, int]], microseconds: int
) -> None:
    instant = EPOCH + timedelta(microseconds=microseconds)
    rows = [(*item, instant) for item in items]
    found = warehouse.query_rows(
        "SELECT row.1 AS text, row.2 AS number, fromUnixTimestamp64Micro(row.3, 'UTC') AS instant "
        "FROM (SELECT arrayJoin(JSONExtract({rows:String}, 'Array(Tuple(String, Int64, Int64))')) "
        "AS row)",
        {"rows": json_list(rows)},
    )
    assert [tuple(row.values()) for row in found] == rows


def test_a_json_list_holds_texts_integers_and_instants_alone() -> None:
    for item in (1j, b"x", T0.replace(tzinfo=None), object()):
        with pytest.raises(TypeError, match="an item must be"):
            json_list([item])  # type: ignore[list-item]


@given(items=st.lists(texts), most=st.integers(1, 200))
def test_chunks_keep_every_item_in_order_and_within_bounds(items: list[str], most: int) -> None:
    pieces = list(chunks(items, most))
    assert [item for piece in pieces for item in piece] == items
    for piece in pieces:
        assert len(piece) == 1 or sum(len(item.encode()) for item in piece) <= most


def test_instants_are_sent_in_utc_with_microseconds() -> None:
    instant = T0.replace(microsecond=5).astimezone(timezone(timedelta(hours=-3)))
    assert plain_value(instant) == "2026-03-01 00:00:00.000005"
