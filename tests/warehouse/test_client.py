"""What goes in comes out, on both engines."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.errors import WarehouseError
from tests.warehouse.rows import INSTANT, NUMBER, T0, event, events, usage, usage_table
from warehouse.client import Warehouse
from warehouse.writes import insert_events, insert_usage

FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LIMIT = Decimal("9" * 26 + "." + "9" * 12)

numbers = st.integers(-(10**38) + 1, 10**38 - 1).map(
    lambda scaled: Decimal((0 if scaled >= 0 else 1, tuple(map(int, str(abs(scaled)))), -12))
)
instants = st.integers(0, 230 * 365 * 86_400_000_000).map(
    lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
)
texts = st.text(max_size=30)


def stored(warehouse: Warehouse, tenant: str, table: str, columns: str) -> list[dict[str, object]]:
    return warehouse.query_rows(
        f"SELECT {columns} FROM {table} WHERE tenant_id = {{tenant:String}} ORDER BY {columns}",
        {"tenant": tenant},
    )


@FEW
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "sum": numbers,
                "min": st.none() | numbers,
                "max": st.none() | numbers,
                "latest_value": st.none() | numbers,
                "latest_at": st.none() | instants,
                "latest_id": texts,
                "events": st.integers(0, 2**63 - 1),
                "revision": st.integers(0, 2**32 - 1),
                "bucket_end": instants,
            }
        ),
        max_size=8,
    )
)
def test_every_value_comes_back_exactly(
    warehouse: Warehouse, rows: list[dict[str, Any]], unique: Callable[[], str]
) -> None:
    tenant = unique()
    given_rows = [usage(group_key=str(index), **row) for index, row in enumerate(rows)]
    insert_usage(warehouse, tenant, usage_table(*given_rows))
    found = stored(
        warehouse,
        tenant,
        "usage",
        "group_key, sum, min, max, latest_value, "
        "latest_at, latest_id, events, revision, bucket_end",
    )
    assert found == [
        {name: row[name] for name in found[0]}
        for row in sorted(given_rows, key=lambda r: r["group_key"])
    ]


def test_numbers_at_the_limits_come_back_exactly(warehouse: Warehouse, tenant: str) -> None:
    limits = [LIMIT, LIMIT.copy_negate(), Decimal("0.000000000001"), Decimal(0)]
    rows = [
        usage(group_key=str(i), sum=n, min=n, max=n, latest_value=n) for i, n in enumerate(limits)
    ]
    insert_usage(warehouse, tenant, usage_table(*rows))
    found = stored(warehouse, tenant, "usage", "group_key, sum, min, max, latest_value")
    assert [row["sum"] for row in found] == [row["min"] for row in found] == limits
    assert [row["max"] for row in found] == [row["latest_value"] for row in found] == limits


def test_sums_beyond_38_digits_come_back_exactly(warehouse: Warehouse, tenant: str) -> None:
    wide = Decimal("-" + "8" * 64 + "." + "7" * 12)
    table = usage_table(usage())
    position = table.column_names.index("sum")
    table = table.set_column(position, "sum", pa.array([wide], pa.decimal256(76, 12)))
    insert_usage(warehouse, tenant, table)
    assert stored(warehouse, tenant, "usage", "sum") == [{"sum": wide}]


def test_texts_with_any_character_come_back(warehouse: Warehouse, tenant: str) -> None:
    payloads = [
        "",
        "'\"`\\",
        "a\0b",
        "\r\n\t\b",
        "é😀\u2028",
        "\\N",
        "NULL",
        "{x:String}",
        "z" * 70_000,
    ]
    rows = [event(tenant, f"{i}'\0", properties=text) for i, text in enumerate(payloads)]
    insert_events(warehouse, events(rows))
    found = stored(warehouse, tenant, "events", "event_id, properties")
    assert [row["properties"] for row in found] == payloads


def test_results_have_plain_types(warehouse: Warehouse, tenant: str) -> None:
    insert_events(warehouse, events([event(tenant)]))
    table = warehouse.query_arrow(
        "SELECT * FROM events WHERE tenant_id = {t:String}", {"t": tenant}
    )
    types = {field.name: field.type for field in table.schema}
    assert types["external_customer_id"] == types["tenant_id"] == pa.string()
    assert types["timestamp"] == INSTANT
    assert types["identity_hash"] == pa.binary(16)
    assert all(field.nullable for field in table.schema)


def test_an_empty_result_has_the_same_types(warehouse: Warehouse, tenant: str) -> None:
    insert_usage(warehouse, tenant, usage_table(usage()))
    sql = "SELECT * FROM usage WHERE tenant_id = {t:String}"
    full = warehouse.query_arrow(sql, {"t": tenant})
    assert warehouse.query_arrow(sql, {"t": "nobody"}).schema == full.schema
    assert {full.schema.field("sum").type, full.schema.field("min").type} == {
        pa.decimal256(76, 12),
        NUMBER,
    }


@pytest.mark.parametrize("form", ["chunks", "slice", "dictionary", "large", "batch", "order"])
def test_tables_of_any_form_go_in(warehouse: Warehouse, tenant: str, form: str) -> None:
    table = events(
        [
            event(tenant, f"e{i}", properties=f"p{i}", source=None if i % 2 else "s")
            for i in range(10)
        ]
    )
    expected = {(f"e{i}", f"p{i}", "" if i % 2 else "s") for i in range(10)}
    given_rows: pa.Table | pa.RecordBatch = table
    if form == "chunks":
        given_rows = pa.concat_tables([table.slice(7), table.slice(0, 0), table.slice(0, 7)])
    elif form == "slice":
        given_rows = table.slice(3, 4)
        expected = {(f"e{i}", f"p{i}", "" if i % 2 else "s") for i in range(3, 7)}
    elif form == "dictionary":
        for name in ("tenant_id", "event_id", "source"):
            parts = [table.slice(0, 5), table.slice(5)]
            encoded = [part[name].combine_chunks().dictionary_encode() for part in parts]
            position = table.column_names.index(name)
            given_rows = given_rows.set_column(position, name, pa.chunked_array(encoded))
    elif form == "large":
        position = table.column_names.index("properties")
        given_rows = table.set_column(
            position, "properties", table["properties"].cast(pa.large_string())
        )
    elif form == "batch":
        given_rows = table.combine_chunks().to_batches()[0]
    elif form == "order":
        given_rows = table.select(list(reversed(table.column_names)))
    insert_events(warehouse, given_rows)
    found = stored(warehouse, tenant, "events", "event_id, properties, source")
    assert {tuple(row.values()) for row in found} == expected


def test_an_empty_table_goes_in(warehouse: Warehouse, tenant: str) -> None:
    insert_events(warehouse, events([]))
    assert stored(warehouse, tenant, "events", "event_id") == []


def test_years_of_months_go_in_at_once(warehouse: Warehouse, tenant: str) -> None:
    rows = [event(tenant, f"e{i}", timestamp=T0 + timedelta(days=31 * i)) for i in range(150)]
    insert_events(warehouse, events(rows))
    assert len(stored(warehouse, tenant, "events", "event_id")) == 150


def test_blocks_of_a_long_result_add_up(warehouse: Warehouse) -> None:
    batches = list(
        warehouse.iter_arrow("SELECT number, toString(number) AS text FROM numbers(200000)")
    )
    assert len(batches) > 1
    table = pa.Table.from_batches(batches)
    assert table["number"].to_pylist() == list(range(200_000))
    assert table.schema == pa.schema([("number", pa.uint64()), ("text", pa.string())])


def test_a_result_that_is_not_read_to_its_end_blocks_nothing(warehouse: Warehouse) -> None:
    blocks = warehouse.iter_arrow("SELECT number FROM numbers(1000000)")
    next(blocks)
    assert warehouse.query_rows("SELECT 1 AS one") == [{"one": 1}]
    blocks.close()  # type: ignore[attr-defined]
    assert warehouse.query_rows("SELECT 2 AS two") == [{"two": 2}]


def test_a_failure_in_the_middle_of_a_result_is_raised(warehouse: Warehouse) -> None:
    sql = "SELECT throwIf(number = 300000, 'stop here') FROM numbers(400000)"
    with pytest.raises(WarehouseError, match="stop here"):
        list(warehouse.iter_arrow(sql))
    with pytest.raises(WarehouseError, match="stop here"):
        warehouse.query_arrow(sql)


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("event_id", pa.array([None], pa.string()), "events.event_id must be without nulls"),
        ("identity_hash", pa.array([b"short"]), r"events.identity_hash must be fixed_size_binary"),
        ("origin_row", pa.array(["one"]), r"events.origin_row must be int64 \(got string"),
        ("origin_row", pa.array([2**63], pa.uint64()), r"events.origin_row must be int64"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    warehouse: Warehouse, tenant: str, name: str, column: pa.Array, message: str
) -> None:
    table = events([event(tenant)])
    table = table.set_column(table.column_names.index(name), name, column)
    with pytest.raises(WarehouseError, match=message):
        insert_events(warehouse, table)
    assert stored(warehouse, tenant, "events", "event_id") == []


def test_a_decimal_that_would_lose_digits_is_refused(warehouse: Warehouse, tenant: str) -> None:
    table = usage_table(usage())
    fine = pa.array([Decimal("0.0000000000001")], pa.decimal128(38, 13))
    with pytest.raises(WarehouseError, match=r"usage\.min must be"):
        insert_usage(
            warehouse, tenant, table.set_column(table.column_names.index("min"), "min", fine)
        )


@pytest.mark.parametrize("change", ["missing", "unknown", "twice"])
def test_rows_with_other_columns_are_refused(
    warehouse: Warehouse, tenant: str, change: str
) -> None:
    table = events([event(tenant)])
    if change == "missing":
        table = table.drop_columns(["origin"])
    elif change == "unknown":
        table = table.append_column("precedence", pa.array([1], pa.uint64()))
    else:
        table = table.append_column("origin", table["origin"])
    with pytest.raises(WarehouseError, match="rows for events must have the columns"):
        insert_events(warehouse, table)


def test_a_table_that_is_none_is_refused(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="got 'invoice'"):
        warehouse.insert("invoice", pa.table({}))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM nope", "nope"),
        ("SELEC 1", "Syntax error"),
        ("SELECT {missing:String}", "missing"),
        ("SELECT toDecimal32('x', 2)", "x"),
    ],
)
def test_a_refused_statement_is_one_line(warehouse: Warehouse, sql: str, message: str) -> None:
    with pytest.raises(WarehouseError, match=message) as caught:
        warehouse.query_arrow(sql)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    assert warehouse.name in text


def test_threads_insert_and_read_side_by_side(warehouse: Warehouse, tenant: str) -> None:
    failures: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for step in range(5):
                rows = [event(tenant, f"{thread}-{step}-{i}", origin_row=thread) for i in range(50)]
                insert_events(warehouse, events(rows))
                count = (
                    "SELECT count() AS n FROM events "
                    "WHERE tenant_id = {t:String} AND origin_row = {r:Int64}"
                )
                found = warehouse.query_rows(count, {"t": tenant, "r": thread})
                assert found == [{"n": 50 * (step + 1)}]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_what_is_loaded_is_there_during_and_after_the_load(
    warehouse: Warehouse, tenant: str
) -> None:
    with warehouse.loading("events"):
        for step in range(3):
            insert_events(warehouse, events([event(tenant, f"e{step}")]))
        assert len(stored(warehouse, tenant, "events", "event_id")) == 3
    insert_events(warehouse, events([event(tenant, "e9")]))
    assert len(stored(warehouse, tenant, "events", "event_id")) == 4


def test_a_warehouse_is_not_pickled(warehouse: Warehouse) -> None:
    with pytest.raises(TypeError, match="pass its URL"):
        pickle.dumps(warehouse)


def test_a_closed_warehouse_says_so(url: str) -> None:
    closed = Warehouse.connect(url, from_environment=True)
    closed.close()
    closed.close()
    gc.collect()
    with pytest.raises(WarehouseError):
        closed.query_arrow("SELECT 1")
