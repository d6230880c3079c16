"""CSV: both ways of reading, quoting, line numbers and what is refused."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.mapping import Mapping
from tests.transforms.files import Found, collect, csv_text, event
from transforms import format_csv, format_text, raw
from transforms.csv_records import scan
from transforms.format_csv import read_csv

NAMES = ["event_id", "event_name", "external_customer_id", "timestamp", "n"]
HEADER = b"event_id,event_name,external_customer_id,timestamp,n\n"


def read_bytes(
    data: bytes, mapping: Mapping | None = None, block: int = 1 << 20, delimiter: str = ","
) -> Found:
    parts = format_text.chunks(io.BytesIO(data), "")
    return collect(read_csv(parts, delimiter, mapping or Mapping(), "f.csv", 0, block))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def texts(found: Found, *names: str) -> list[tuple[object, ...]]:
    return [tuple(row[name] for name in names) for row in found.events]


def test_cells_are_text_and_empty_ones_are_missing() -> None:
    found = read_bytes(HEADER + b'e1,x,acme,2026-11-01T00:00:00Z,007\ne2,"",,t,\n')
    assert texts(found, "event_id", "event_name", "external_customer_id", "properties") == [
        ("e1", "x", "acme", '{"n":"007"}'),
        ("e2", None, None, "{}"),
    ]
    assert not found.bad


def test_a_properties_column_is_json_text() -> None:
    rows = [event(1, properties='{"a": 1.50, "b": "x,\n\\"y\\""}')]
    found = read_bytes(csv_text(rows, [*NAMES[:4], "properties"]))
    assert texts(found, "properties") == [(rows[0]["properties"],)]


def test_a_record_has_the_number_of_its_first_line() -> None:
    data = HEADER + b'a,x,c,t,"1\n2\n\n3"\r\n\r\n\nb,x,c,t,"2"\nc,x,c,t,"\n"\nd,x,c,t,4'
    found = read_bytes(data)
    assert {number: row["event_id"] for number, row in found.rows.items()} == {
        2: "a",
        8: "b",
        9: "c",
        11: "d",
    }
    assert found.rows[2]["properties"] == '{"n":"1\\n2\\n\\n3"}'


def test_a_wrong_number_of_cells_refuses_the_record() -> None:
    found = read_bytes(HEADER + b'a,x,c,t,1\nb,x,c,t\r\nc,x,c,t,"1,2",3\nd,x,c,t,4\n')
    assert texts(found, "event_id") == [("a",), ("d",)]
    assert [(bad.row, bad.reason, bad.payload) for bad in found.bad] == [
        (3, "invalid_csv", "b,x,c,t"),
        (4, "invalid_csv", 'c,x,c,t,"1,2",3'),
    ]
    assert found.bad[0].detail == "a record must have 5 cells (got 4)"
    assert found.bad[1].detail == "a record must have 5 cells (got 6)"


def test_invalid_utf8_refuses_the_record() -> None:
    found = read_bytes(HEADER + b"a,x,c,t,1\nb,x\xff,c,t,2\nc,x,c,t,\xfe\nd,x,c,t,4\n")
    assert texts(found, "event_id") == [("a",), ("d",)]
    assert [(bad.row, bad.reason, bad.payload) for bad in found.bad] == [
        (3, "invalid_utf8", "b,x\\xff,c,t,2"),
        (4, "invalid_utf8", "c,x,c,t,\\xfe"),
    ]


def test_a_quote_inside_an_unquoted_cell_is_text() -> None:
    found = read_bytes(HEADER + b'a,x,c,t,5" pipe\nb,x,c,t,"6"" pipe"\nc,x,c,t,7"\n')
    assert texts(found, "event_id", "properties") == [
        ("a", '{"n":"5\\" pipe"}'),
        ("b", '{"n":"6\\" pipe"}'),
        ("c", '{"n":"7\\""}'),
    ]


def test_text_after_a_closing_quote_refuses_the_record() -> None:
    found = read_bytes(HEADER + b'a,x,c,t,"1"2\nb,x,c,t,2\n')
    assert texts(found, "event_id") == [("b",)]
    assert found.reasons == [(2, "invalid_csv")]
    assert found.bad[0].payload == 'a,x,c,t,"1"2'


def test_a_bare_carriage_return_refuses_the_record() -> None:
    found = read_bytes(HEADER + b"a,x\rb,x,c,t,1\nb,x,c,t,2\n")
    assert texts(found, "event_id") == [("b",)]
    assert found.reasons == [(2, "invalid_csv")]


def test_a_quote_that_is_never_closed_refuses_its_line_only() -> None:
    found = read_bytes(HEADER + b'a,x,c,t,1\nb,x,c,t,"2\nc,x,c,t,3\nd,x,c,t,4\n')
    assert texts(found, "event_id") == [("a",), ("c",), ("d",)]
    assert [(bad.row, bad.reason, bad.detail, bad.payload) for bad in found.bad] == [
        (3, "invalid_csv", "a quote must be closed", 'b,x,c,t,"2')
    ]


@pytest.mark.parametrize("block", [1, 700, 1 << 20])
def test_a_quote_that_is_not_closed_in_time_refuses_its_line_only(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(format_csv, "MAX_ROW", 1000)
    rows = b"".join(b"r%d,x,c,t,1\n" % number for number in range(1000))
    data = HEADER + b'a,x,c,t,"2\n' + rows + b'b,x,c,t,"3"\n'
    found = collect(read_csv(iter(pieces(data, 97)), ",", Mapping(), "f", 0, block))
    assert found.reasons == [(2, "invalid_csv")]
    assert len(found.rows) == 1001


@pytest.mark.parametrize("block", [1, 700, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n", b"\nb,x,c,t,2\n"])
def test_a_line_that_is_too_long_is_refused_and_shown_in_part(
    monkeypatch: pytest.MonkeyPatch, block: int, end: bytes
) -> None:
    monkeypatch.setattr(format_csv, "MAX_ROW", 1000)
    monkeypatch.setattr(raw, "MAX_PAYLOAD", 100)
    data = HEADER + b"a,x,c,t,1\n" + b"x" * 5000 + end
    found = collect(read_csv(iter(pieces(data, 97)), ",", Mapping(), "f", 0, block))
    assert list(found.rows) == ([2, 4] if b"b" in end else [2])
    (bad,) = found.bad
    assert (bad.row, bad.reason) == (3, "too_large")
    assert bad.payload == "x" * 100 + "... [cut off, 5000 bytes]"


def test_a_byte_order_mark_is_no_part_of_the_header() -> None:
    assert texts(read_bytes(b"\xef\xbb\xbf" + HEADER + b"a,x,c,t,1\n"), "event_id") == [("a",)]


def test_tabs_separate_where_they_are_asked_for() -> None:
    data = csv_text([event(1, n="1,2")], NAMES, "\t")
    assert texts(read_bytes(data, delimiter="\t"), "properties") == [('{"n":"1,2"}',)]


@pytest.mark.parametrize(
    "header", [b"event_id,a,a\n", b'event_id,"a\n', b"event_id,\xff\n", b'event_id,"a"b\n']
)
def test_a_header_that_cannot_be_read_refuses_the_file(header: bytes) -> None:
    found = read_bytes(header + b"1,2,3\n")
    assert found.rows == {}
    assert found.reasons == [(1, "unreadable_file")]


def test_a_missing_required_column_refuses_every_row() -> None:
    found = read_bytes(b"event_id,event_name,n\na,x,1\nb,x,2\n")
    assert [(bad.row, bad.reason, bad.field, bad.payload) for bad in found.bad] == [
        (2, "missing_field", "external_customer_id", "a,x,1"),
        (3, "missing_field", "external_customer_id", "b,x,2"),
    ]
    assert found.bad[0].detail == (
        "external_customer_id must be present (no column 'external_customer_id')"
    )


def test_seven_digits_of_a_second_are_cut_to_six() -> None:
    """The times of Azure's LLM trace (examples/llm_tokens)."""
    mapping = Mapping.parse(
        ["timestamp=TIMESTAMP", "properties.prompt=ContextTokens", "event_id=id"],
        ["event_name=llm", "external_customer_id=acme"],
        time_zone="UTC",
    )
    data = b"TIMESTAMP,ContextTokens,id\n2023-11-16 18:17:03.9799600,4808,a\n"
    (row,) = read_bytes(data, mapping).events
    assert row["timestamp"].isoformat() == "2023-11-16T18:17:03.979960+00:00"  # type: ignore[attr-defined]
    assert row["properties"] == '{"prompt":"4808"}'


CELL = st.one_of(
    st.text(st.sampled_from('ab",\n é'), max_size=6), st.sampled_from(["", '"', '""', "x" * 40])
)
ROWS = st.lists(st.lists(CELL, min_size=5, max_size=5), max_size=20)


@given(ROWS, st.integers(1, 120), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_cells_come_back_whatever_the_block_is(
    rows: list[list[str]], block: int, end: str, all_quoted: bool
) -> None:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL
    csv.writer(text, lineterminator=end, quoting=quoting).writerows(rows)
    names = ["event_id", "event_name", "external_customer_id", "timestamp", "source"]
    header = ",".join(names) + end
    found = read_bytes((header + text.getvalue()).encode(), block=block)
    assert not found.bad
    assert texts(found, *names) == [tuple(cell or None for cell in row) for row in rows]
    lines = [2]
    for row in rows:
        lines.append(lines[-1] + 1 + sum(cell.count("\n") for cell in row))
    assert list(found.rows) == lines[:-1]


MESS = st.lists(
    st.sampled_from(
        [b"a", b",", b",", b",", b",", b'"', b'""', b"\n", b"\n", b"\r\n", b"\r", b"\xff", b"1"]
    ),
    max_size=60,
).map(b"".join)


@given(MESS, st.integers(1, 80), st.integers(1, 50), st.sampled_from([60, raw.MAX_ROW]))
def test_blocks_do_not_change_what_is_read_of_a_broken_file(
    mess: bytes, block: int, chunk: int, longest: int
) -> None:
    data = HEADER + mess
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_csv, "MAX_ROW", longest)
        parts = iter(pieces(data, chunk))
        in_pieces = collect(read_csv(parts, ",", Mapping(), "f.csv", 0, block))
        assert in_pieces == read_bytes(data)


@given(MESS)
def test_both_ways_of_reading_agree(mess: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fast = read_bytes(HEADER + mess)
        patch.setattr(format_csv, "scan", lambda data, delimiter: None)
        slow = read_bytes(HEADER + mess)
    assert fast.rows == slow.rows
    assert {(bad.row, bad.reason, bad.payload) for bad in fast.bad} == {
        (bad.row, bad.reason, bad.payload) for bad in slow.bad
    }


def test_strictly_quoted_text_is_read_by_arrow() -> None:
    assert scan(b'a,"b\n""c"""\r\n"",x\n', ",") is not None
    for data in (b'a"b",c\n', b'"a"b\n', b'a,b"\n"\n', b"a\rb\n", b'a,""b""\n'):
        assert scan(data, ",") is None
