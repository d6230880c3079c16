"""Parquet: typed columns, properties built from them, and damaged files."""

from __future__ import annotations

import datetime as dt
import logging
import math
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.mapping import Mapping
from meters.scalars import parse_json
from tests.transforms.files import Found, collect, read, write_parquet
from transforms.format_parquet import read_parquet
from transforms.json_text import value_texts
from transforms.sources import match_files

AT = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def table(rows: int = 1, **columns: object) -> pa.Table:
    plain: dict[str, Any] = {
        "event_id": [f"e{number}" for number in range(1, rows + 1)],
        "event_name": ["x"] * rows,
        "external_customer_id": ["acme"] * rows,
        "timestamp": pa.array([AT] * rows, pa.timestamp("us", "UTC")),
    }
    return pa.table({**plain, **columns})


def read_table(tmp_path: Path, source: pa.Table, mapping: Mapping | None = None) -> Found:
    return read(write_parquet(tmp_path / "a.parquet", source), mapping)


def test_plain_columns_are_handed_on_as_they_are(tmp_path: Path) -> None:
    found = read_table(tmp_path, table(2, properties=['{"a": 1.50}', None]))
    assert not found.bad
    assert found.rows[1] == {
        "event_id": "e1",
        "event_name": "x",
        "external_customer_id": "acme",
        "external_subscription_id": None,
        "timestamp": AT,
        "ingested_at": dt.datetime.fromtimestamp(1_700_000_000, dt.UTC),
        "source": None,
        "properties": '{"a": 1.50}',
    }
    assert found.rows[2]["properties"] is None


def test_columns_become_properties_where_there_are_none(tmp_path: Path) -> None:
    columns = {
        "tokens": pa.array([7], pa.uint64()),
        "paid": [True],
        "cost": pa.array([Decimal("1.50")], pa.decimal128(20, 2)),
        "wide": pa.array([Decimal("1E-9")], pa.decimal256(60, 10)),
        "rate": [0.1],
        "low": pa.array([0.1], pa.float32()),
        "note": ['say "hi"\n\\ é'],
        "none": pa.array([None], pa.string()),
        "null": pa.nulls(1),
        "day": pa.array([dt.date(2026, 11, 1)]),
        "at": pa.array([AT], pa.timestamp("ms", "Europe/Berlin")),
        "local": pa.array([dt.datetime(2026, 11, 1, 1, 2, 3)], pa.timestamp("s")),  # noqa: DTZ001
        "clock": pa.array([dt.time(1, 2, 3)], pa.time32("s")),
        "took": pa.array([dt.timedelta(seconds=1.5)], pa.duration("ms")),
        "raw": pa.array([b"\x00\xff"], pa.binary()),
        "kind": pa.array(["a"]).dictionary_encode(),
        "id": pa.array([uuid.UUID(int=1).bytes], pa.uuid()),
        "tags": [["a", None, 'b"']],
        "pair": pa.array([[1, 2]], pa.list_(pa.int8(), 2)),
        "user": pa.array([{"b": {"c": 1}, "a": None}]),
        "map": pa.array([[("z", 1), ("a", 2), ("n", None)]], pa.map_(pa.string(), pa.int64())),
    }
    (row,) = read_table(tmp_path, table(1, **columns)).events
    assert row["properties"] == (
        '{"at":"2026-11-01T00:00:00.000Z","clock":"01:02:03.000","cost":1.50,"day":"2026-11-01",'
        '"id":"00000000-0000-0000-0000-000000000001","kind":"a","local":"2026-11-01T01:02:03.000",'
        '"low":0.1,"map":{"a":2,"z":1},"note":"say \\"hi\\"\\n\\\\ é","paid":true,"pair":[1,2],'
        '"rate":0.1,"raw":"AP8=","tags":["a",null,"b\\""],"tokens":7,"took":1.5,'
        '"user":{"b":{"c":1}},"wide":1.0E-9}'
    )


def test_nan_and_infinity_are_texts_and_no_null(tmp_path: Path) -> None:
    values = [math.nan, math.inf, -math.inf, None, 1e22]
    found = read_table(tmp_path, table(5, n=values))
    assert [row["properties"] for row in found.events] == [
        '{"n":"NaN"}',
        '{"n":"Infinity"}',
        '{"n":"-Infinity"}',
        "{}",
        '{"n":1e+22}',
    ]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([{"b": 1.5, "a": "x", "c": None}, None]), '{"a":"x","b":1.5}'),
        (
            pa.array([[("b", "1"), ("a", "x")], None], pa.map_(pa.string(), pa.string())),
            '{"a":"x","b":"1"}',
        ),
        (pa.array([b'{"a":1}', None]), '{"a":1}'),
        (pa.array(['{"a":1}', None], pa.large_string()), '{"a":1}'),
        (pa.array(['{"a":1}', None]).dictionary_encode(), '{"a":1}'),
        (pa.array(['{"a":1}', None], pa.json_()), '{"a":1}'),
    ],
)
def test_properties_may_be_a_struct_a_map_or_text(
    tmp_path: Path, column: pa.Array, text: str
) -> None:
    found = read_table(tmp_path, table(2, properties=column))
    assert [row["properties"] for row in found.events] == [text, None]


def test_other_columns_beside_properties_are_left_out_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = table(4, properties=["{}"] * 4, region=["eu"] * 4, tenant_id=["t"] * 4)
    path = write_parquet(tmp_path / "a.parquet", source, row_group_size=1)
    with caplog.at_level(logging.WARNING):
        for split in match_files([str(path)], split_rows=1):
            list(read_parquet(str(path), split.row_groups, Mapping(), "a", 0))
    assert [record.getMessage() for record in caplog.records] == [
        "a has a properties column, so these columns are left out: region, tenant_id"
    ]


def test_columns_are_mapped_by_name_and_by_path(tmp_path: Path) -> None:
    source = pa.table(
        {
            "id": [7],
            "user": pa.array([{"id": "acme", "plan": "pro"}]),
            "when": pa.array([AT], pa.timestamp("ns", "Asia/Kathmandu")),
            "usage": pa.array([{"total": Decimal("1.50")}]),
            "x.y": [1],
        }
    )
    mapping = Mapping.parse(
        [
            "event_id=id",
            "external_customer_id=user.id",
            "timestamp=when",
            "properties.tokens=usage.total",
            "source=x.y",
        ],
        ["event_name=llm.request", "properties.region=eu"],
    )
    (row,) = read_table(tmp_path, source, mapping).events
    assert (row["event_id"], row["external_customer_id"]) == ("7", "acme")
    assert (row["event_name"], row["timestamp"], row["source"]) == ("llm.request", AT, "1")
    assert row["properties"] == (
        '{"region":"eu","tokens":1.50,"usage":{"total":1.50},"user":{"id":"acme","plan":"pro"}}'
    )


def test_mapped_properties_take_precedence_over_a_properties_column(tmp_path: Path) -> None:
    mapping = Mapping.parse(["properties.a=n"], ["properties.b=2"])
    texts = ['{"a": 1, "c": 1.50}', None, "[1]"]
    found = read_table(tmp_path, table(3, n=[9, None, 9], properties=texts), mapping)
    assert [row["properties"] for row in found.events] == [
        '{"a":9,"b":"2","c":1.50}',
        '{"b":"2"}',
        "[1]",
    ]


@pytest.mark.parametrize("name", ["event_id", "event_name", "external_customer_id", "source"])
def test_an_id_of_another_type_is_refused_unless_its_column_was_named(
    tmp_path: Path, name: str
) -> None:
    source = table(2).drop_columns([name] if name != "source" else [])
    source = source.append_column(name, pa.array([5, None], pa.int64()))
    found = read_table(tmp_path, source)
    (bad,) = found.bad
    assert (bad.row, bad.reason, bad.field) == (1, "invalid_field", name)
    assert f'"{name}":5' in bad.payload
    assert found.rows[2][name] is None
    mapped = read_table(tmp_path, source, Mapping.parse([f"{name}={name}"]))
    assert [row[name] for row in mapped.events] == ["5", None]


def test_a_float_is_no_id_even_where_its_column_was_named(tmp_path: Path) -> None:
    source = table(1, user=[5.0])
    mapping = Mapping.parse(["external_customer_id=user"])
    assert read_table(tmp_path, source, mapping).reasons == [(1, "invalid_field")]


def test_a_missing_column_refuses_every_row_and_shows_it(tmp_path: Path) -> None:
    source = table(3, tokens=[1, 2, 3]).drop_columns(["external_customer_id"])
    found = read_table(tmp_path, source)
    assert found.rows == {}
    assert [(bad.row, bad.reason, bad.field) for bad in found.bad] == [
        (row, "missing_field", "external_customer_id") for row in (1, 2, 3)
    ]
    assert found.bad[0].payload == (
        '{"event_id":"e1","event_name":"x","timestamp":"2026-11-01T00:00:00.000000Z","tokens":1}'
    )


def test_invalid_utf8_refuses_its_row_only(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"b\xff", b"c", None, b"\xfe"], pa.binary())
    source = table(5, source=raw.cast(pa.string(), safe=False))
    found = read_table(tmp_path, source)
    assert [row["source"] for row in found.events] == ["a", "c", None]
    assert [(bad.row, bad.reason, bad.detail) for bad in found.bad] == [
        (2, "invalid_utf8", "source must be UTF-8"),
        (5, "invalid_utf8", "source must be UTF-8"),
    ]
    assert '"source":"b\\\\xff"' in found.bad[0].payload
    binary = read_table(tmp_path, table(5, source=raw))
    assert [row["source"] for row in binary.events] == ["a", "c", None]


def test_invalid_utf8_deep_in_a_column_refuses_its_row_only(tmp_path: Path) -> None:
    raw = pa.array([[b"a"], [b"\xff"], []], pa.list_(pa.binary()))
    source = table(3, tags=raw.cast(pa.list_(pa.string()), safe=False))
    found = read_table(tmp_path, source)
    assert [row["properties"] for row in found.events] == ['{"tags":["a"]}', '{"tags":[]}']
    assert found.reasons == [(2, "invalid_utf8")]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_typed_times_are_instants(tmp_path: Path, unit: str) -> None:
    at = pa.array([AT], pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "America/New_York"))
    found = read_table(tmp_path, table(1).set_column(3, "timestamp", at))
    assert [row["timestamp"] for row in found.events] == [AT]


def test_nanoseconds_are_cut_off(tmp_path: Path) -> None:
    at = pa.array([1_700_000_000_123_456_999], pa.timestamp("ns", "UTC"))
    (row,) = read_table(tmp_path, table(1).set_column(3, "timestamp", at)).events
    assert row["timestamp"].microsecond == 123_456  # type: ignore[attr-defined]


def test_times_beyond_the_calendar_are_refused(tmp_path: Path) -> None:
    at = pa.array([2**62, -(2**62), 0, None, 253402300800000], pa.timestamp("ms", "UTC"))
    found = read_table(tmp_path, table(5).set_column(3, "timestamp", at))
    assert sorted(found.rows) == [3, 4]
    assert found.reasons == [(row, "invalid_timestamp") for row in (1, 2, 5)]


def test_times_without_a_zone_are_local_where_one_is_mapped(tmp_path: Path) -> None:
    local = pa.array(
        [dt.datetime(2026, 10, 25, 2, 30), dt.datetime(2026, 3, 29, 2, 30)],  # noqa: DTZ001
        pa.timestamp("ms"),
    )
    source = table(2).set_column(3, "timestamp", local)
    mapped = read_table(tmp_path, source, Mapping.parse(time_zone="Europe/Berlin"))
    assert [row["timestamp"].isoformat() for row in mapped.events] == [  # type: ignore[attr-defined]
        "2026-10-25T00:30:00+00:00",
        "2026-03-29T01:30:00+00:00",
    ]
    unmapped = read_table(tmp_path, source)
    assert unmapped.events[0]["timestamp"] == "2026-10-25T02:30:00.000000"


def test_numbers_are_times_where_a_unix_format_is_mapped(tmp_path: Path) -> None:
    for values in (
        pa.array([1_700_000_000_123, None]),
        pa.array([1_700_000_000_123.0, None]),
        pa.array([Decimal("1700000000123.4569"), None]),
        pa.array(["1700000000123", None]),
    ):
        source = table(2).set_column(3, "timestamp", values)
        found = read_table(tmp_path, source, Mapping.parse(time_format="unix_ms"))
        micros = 400 if pa.types.is_decimal(values.type) else 0
        at = dt.datetime(2023, 11, 14, 22, 13, 20, 123_000 + micros, dt.UTC)
        assert found.events[0]["timestamp"] == at + dt.timedelta(microseconds=56 if micros else 0)
        assert found.events[1]["timestamp"] is None
        refused = read_table(tmp_path, source)
        if not pa.types.is_string(values.type):
            assert refused.reasons == [(1, "invalid_timestamp")]


def numbered(path: Path, rows: int = 5000, **options: object) -> pa.Table:
    source = table(rows, n=np.random.default_rng(1).integers(0, 2**60, rows))
    write_parquet(path, source, row_group_size=1000, data_page_size=2000, **options)
    return source


def test_a_truncated_file_is_one_bad_row_and_other_files_are_read(tmp_path: Path) -> None:
    numbered(tmp_path / "b.parquet")
    cut = tmp_path / "a.parquet"
    cut.write_bytes((tmp_path / "b.parquet").read_bytes()[:5000])
    found = read(tmp_path)
    assert len(found.rows) == 5000
    (bad,) = found.bad
    assert (bad.origin, bad.row, bad.reason, bad.payload) == (str(cut), 0, "unreadable_file", "")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all" * 10])
def test_what_is_no_parquet_is_one_bad_row(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(data)
    assert read(path).reasons == [(0, "unreadable_file")]


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    numbered(path, compression="zstd")
    start = pq.ParquetFile(path).metadata.row_group(2).column(4).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 400] = b"\xee" * 400
    path.write_bytes(bytes(data))
    found = collect(read_parquet(str(path), (0, 1, 2, 3, 4), Mapping(), "a", 0, batch_rows=700))
    (bad,) = found.bad
    assert bad.reason == "unreadable_file"
    assert 2001 <= bad.row <= 3000
    assert set(range(1, 2001)) <= set(found.rows)
    assert set(range(3001, 5001)) <= set(found.rows)
    assert sorted(found.rows) == [*range(1, bad.row), *range(3001, 5001)]


def test_two_columns_of_one_name_refuse_the_file(tmp_path: Path) -> None:
    source = pa.table([["a"], ["b"]], names=["event_id", "event_id"])
    found = read_table(tmp_path, source)
    assert found.reasons == [(0, "unreadable_file")]
    assert "event_id twice" in found.bad[0].detail


def test_a_file_without_rows_has_no_events(tmp_path: Path) -> None:
    assert read_table(tmp_path, table(0)) == Found({}, [])


@given(
    groups=st.integers(1, 40),
    split_rows=st.integers(1, 50),
    batch_rows=st.integers(1, 50),
    rows=st.integers(0, 40),
)
def test_splits_and_batches_do_not_change_what_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    groups: int,
    split_rows: int,
    batch_rows: int,
    rows: int,
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    write_parquet(path, table(rows, n=list(range(rows))), row_group_size=groups)
    found = collect(
        batch
        for split in match_files([str(path)], split_rows=split_rows)
        for batch in read_parquet(str(path), split.row_groups, Mapping(), "a", 0, batch_rows)
    )
    assert {row: event["event_id"] for row, event in found.rows.items()} == {
        number: f"e{number}" for number in range(1, rows + 1)
    }


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {
                    "i": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
                    "f": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
                    "s": st.one_of(st.none(), st.text(max_size=4)),
                    "l": st.one_of(
                        st.none(), st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=3)
                    ),
                    "m": st.one_of(
                        st.none(), st.dictionaries(st.text(max_size=2), st.booleans(), max_size=3)
                    ),
                }
            ),
        ),
        max_size=8,
    ),
    st.integers(0, 3),
)
def test_the_text_of_a_column_reads_back_as_its_values(
    rows: list[dict[str, Any] | None], skipped: int
) -> None:
    kind = pa.struct(
        {
            "i": pa.int64(),
            "f": pa.float64(),
            "s": pa.string(),
            "l": pa.list_(pa.string()),
            "m": pa.map_(pa.string(), pa.bool_()),
        }
    )
    source = [None if row is None else {**row, "m": _pairs(row["m"])} for row in rows]
    texts = value_texts(pa.array(source, kind).slice(skipped)).to_pylist()
    for row, text in zip(rows[skipped:], texts, strict=True):
        if row is None:
            assert text is None
            continue
        read_back = parse_json(text)
        assert isinstance(read_back, dict)
        assert list(read_back) == sorted(read_back)
        if "f" in read_back:
            read_back["f"] = float(read_back["f"])
        assert read_back == {name: value for name, value in row.items() if value is not None}


def _pairs(items: dict[str, bool] | None) -> list[tuple[str, bool]] | None:
    return None if items is None else list(items.items())
