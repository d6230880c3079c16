"""JSON Lines: what becomes a row, what is refused, and that no way of reading differs."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.mapping import Mapping
from tests.transforms.files import Found, collect, event, jsonl, read, write
from transforms import format_text
from transforms.format_jsonl import read_jsonl
from transforms.raw import MAX_PAYLOAD, MAX_ROW


def parts(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def read_bytes(data: bytes, mapping: Mapping | None = None, block: int = 1 << 20) -> Found:
    parts = format_text.chunks(io.BytesIO(data), "")
    batches = read_jsonl(parts, mapping or Mapping(), "f.jsonl", 0, block)
    return collect(batches)


def only(found: Found) -> dict[str, object]:
    assert not found.bad
    (row,) = found.events
    return row


def test_properties_keep_their_exact_text() -> None:
    text = b'{"n": 1.50, "big":12345678901234567890123, "e" : 1E5, "s":"\\u00e9"}'
    line = b'{"event_id":"e1","properties":' + text + b"}"
    assert only(read_bytes(line))["properties"] == text.decode()


def test_missing_fields_are_null_and_ingested_at_is_the_files_time(tmp_path: Path) -> None:
    row = only(read(write(tmp_path / "a.jsonl", b'{"event_id": "e1", "source": null}\n')))
    assert row["event_id"] == "e1"
    assert row["source"] is row["timestamp"] is row["properties"] is None
    assert row["ingested_at"].timestamp() == 1_700_000_000  # type: ignore[attr-defined]


def test_ingested_at_is_filled_where_it_is_missing() -> None:
    data = jsonl([event(1, ingested_at="2026-11-02T00:00:00Z"), event(2)])
    found = collect(read_jsonl(iter([data]), Mapping(), "f", 1_000_000))
    at = [row["ingested_at"] for row in found.events]
    assert at == ["2026-11-02T00:00:00Z", "1970-01-01T00:00:01.000000Z"]


def test_rows_are_numbered_by_lines_and_blank_lines_are_no_events() -> None:
    found = read_bytes(b'\n{"event_id":"a"}\r\n  \r\n\n{"event_id":"b"}')
    assert {number: row["event_id"] for number, row in found.rows.items()} == {2: "a", 5: "b"}
    assert not found.bad


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert only(read_bytes(b'\xef\xbb\xbf{"event_id":"a"}'))["event_id"] == "a"


def test_other_encodings_are_unreadable() -> None:
    found = read_bytes('{"event_id":"a"}\n'.encode("utf-16"))
    assert found.reasons == [(1, "unreadable_file")]
    assert "UTF-16" in found.bad[0].detail


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        (b'{"event_id": "a"', "invalid_json", ""),
        (b'{"event_id": "a"} trailing', "invalid_json", ""),
        (b"[1, 2]", "invalid_json", ""),
        (b"5", "invalid_json", ""),
        (b"null", "invalid_json", ""),
        (b'{"properties": {"n": NaN}}', "invalid_json", ""),
        (b'{"properties": {"n": 01}}', "invalid_json", ""),
        (b'{"event_id": "\\ud800"}', "invalid_json", ""),
        (b'{"properties": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json", ""),
        (b'{"event_id": "a\xff"}', "invalid_utf8", ""),
        (b'{"properties": {"n": "\xff"}}', "invalid_utf8", ""),
        (b'{"event_id": 17}', "invalid_field", "event_id"),
        (b'{"event_name": true}', "invalid_field", "event_name"),
        (b'{"external_customer_id": ["a"]}', "invalid_field", "external_customer_id"),
        (b'{"external_subscription_id": {}}', "invalid_field", "external_subscription_id"),
        (b'{"timestamp": 1700000000}', "invalid_timestamp", "timestamp"),
    ],
)
def test_a_bad_line_is_refused_and_the_others_are_read(
    line: bytes, reason: str, field: str
) -> None:
    found = read_bytes(b'{"event_id":"a"}\n' + line + b'\n{"event_id":"b"}\n')
    assert [row["event_id"] for row in found.events] == ["a", "b"]
    (bad,) = found.bad
    assert (bad.origin, bad.row, bad.reason, bad.field) == ("f.jsonl", 2, reason, field)
    assert bad.payload == line.decode("utf-8", "backslashreplace")


def test_a_line_without_properties_has_its_other_fields_as_properties() -> None:
    line = b'{"tokens": 1.50, "event_id": "a", "model": "x", "gone": null, "tenant_id": "t"}'
    row = only(read_bytes(line))
    assert row["properties"] == '{"model":"x","tenant_id":"t","tokens":1.50}'


def test_fields_beside_properties_are_left_out_and_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = jsonl([event(number, region="eu") for number in range(300)])
    with caplog.at_level(logging.WARNING):
        found = read_bytes(data, block=4096)
    assert len(found.events) == 300
    assert found.events[-1]["properties"] == '{"n": 299}'
    assert [record.getMessage() for record in caplog.records] == [
        "f.jsonl has properties, so other fields of its lines are left out: region"
    ]


def test_left_out_fields_are_reported_however_late_they_come(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = [{"event_id": f"a{number}", "tokens": 1} for number in range(300)]
    with caplog.at_level(logging.WARNING):
        read_bytes(jsonl([*plain, event(1), event(2, region="eu")]))
    assert [record.getMessage() for record in caplog.records] == [
        "f.jsonl has properties, so other fields of its lines are left out: region"
    ]


def test_a_line_that_is_too_long_is_refused_and_shown_in_part() -> None:
    long = b'{"event_id": "' + b"x" * MAX_ROW + b'"}'
    found = collect(
        read_jsonl(
            iter(parts(b"{}\n" + long + b'\n{"event_id":"b"}\n', 100_000)), Mapping(), "f", 0
        )
    )
    assert sorted(found.rows) == [1, 3]
    (bad,) = found.bad
    assert (bad.row, bad.reason) == (2, "too_large")
    assert bad.payload.endswith(f"... [cut off, {len(long)} bytes]")
    assert len(bad.payload) < MAX_PAYLOAD + 100


def test_a_long_line_at_the_end_is_refused_too() -> None:
    found = collect(read_jsonl(iter(parts(b"x" * (MAX_ROW + 10), 1 << 20)), Mapping(), "f", 0))
    assert found.reasons == [(1, "too_large")]


def test_columns_are_mapped_by_name_and_by_path() -> None:
    mapping = Mapping.parse(
        ["event_id=id", "external_customer_id=user.id", "properties.tokens=usage.total"],
        ["event_name=llm.request", "properties.region=eu"],
    )
    line = b'{"id": 7, "user": {"id": "acme"}, "usage": {"total": 1.50}, "x.y": 1}'
    row = only(read_bytes(line, mapping))
    assert row["event_id"] == "7"
    assert row["event_name"] == "llm.request"
    assert row["external_customer_id"] == "acme"
    assert row["properties"] == (
        '{"region":"eu","tokens":1.50,"usage":{"total": 1.50},"user":{"id": "acme"},"x.y":1}'
    )


def test_a_column_with_a_dot_in_its_name_comes_before_a_path() -> None:
    mapping = Mapping.parse(["event_id=a.b"])
    assert only(read_bytes(b'{"a": {"b": "no"}, "a.b": "yes"}', mapping))["event_id"] == "yes"


def test_one_column_may_be_two_fields() -> None:
    mapping = Mapping.parse(["external_customer_id=user", "properties.user=user"])
    row = only(read_bytes(b'{"event_id": "a", "user": "u"}', mapping))
    assert (row["external_customer_id"], row["properties"]) == ("u", '{"user":"u"}')


def test_mapped_properties_take_precedence_over_those_of_the_line() -> None:
    mapping = Mapping.parse(["properties.a=x"], ["properties.b=2"])
    row = only(read_bytes(b'{"x": 9, "properties": {"a": 1, "b": 1, "c": 1.0}}', mapping))
    assert row["properties"] == '{"a":9,"b":"2","c":1.0}'


def test_properties_that_are_no_object_stay_for_decoding_to_refuse() -> None:
    assert only(read_bytes(b'{"event_id":"a","properties":[1]}'))["properties"] == "[1]"
    mapping = Mapping.parse([], ["properties.b=2"])
    assert only(read_bytes(b'{"properties":[1]}', mapping))["properties"] == "[1]"


@pytest.mark.parametrize(
    "text", ["1700000000.1234569", '"1700000000.1234569"', "17000000001234569e-7"]
)
def test_unix_times_may_be_numbers_or_text(text: str) -> None:
    mapping = Mapping.parse(time_format="unix")
    row = only(read_bytes(b'{"timestamp": ' + text.encode() + b"}", mapping))
    assert row["timestamp"].isoformat() == "2023-11-14T22:13:20.123456+00:00"  # type: ignore[attr-defined]


def test_a_time_that_does_not_fit_the_format_is_refused_with_its_line() -> None:
    mapping = Mapping.parse(time_format="%d.%m.%Y %H:%M", time_zone="Europe/Berlin")
    data = b'{"timestamp":"01.11.2026 00:00"}\n{"timestamp":"32.11.2026 00:00"}\n{"event_id":"c"}\n'
    found = read_bytes(data, mapping)
    assert sorted(found.rows) == [1, 3]
    assert found.rows[1]["timestamp"].isoformat() == "2026-10-31T23:00:00+00:00"  # type: ignore[attr-defined]
    assert found.rows[3]["timestamp"] is None
    (bad,) = found.bad
    assert (bad.row, bad.reason, bad.field) == (2, "invalid_timestamp", "timestamp")
    assert bad.payload == '{"timestamp":"32.11.2026 00:00"}'


def test_the_zone_is_that_of_the_time_of_ingestion_too() -> None:
    mapping = Mapping.parse(time_format="unix", time_zone="Asia/Kathmandu")
    first = b'{"timestamp":0,"ingested_at":"1970-01-01 05:30:01"}'
    data = first + b'\n{"ingested_at":"x"}\n{"timestamp":1}\n'
    found = read_bytes(data, mapping)
    at = [row["ingested_at"].isoformat() for row in found.events]  # type: ignore[attr-defined]
    assert at == ["1970-01-01T00:00:01+00:00", "1970-01-01T00:00:00+00:00"]
    assert [(bad.row, bad.field) for bad in found.bad] == [(2, "ingested_at")]


def test_mapped_columns_that_no_line_has_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    mapping = Mapping.parse(["external_subscription_id=sub", "properties.a=aa"])
    with caplog.at_level(logging.WARNING):
        read_bytes(b'{"event_id":"a"}', mapping)
    assert [record.getMessage() for record in caplog.records] == [
        "f.jsonl lacks mapped columns: sub, aa"
    ]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compressed_files_read_alike(tmp_path: Path, suffix: str) -> None:
    data = jsonl([event(number) for number in range(1000)])
    found = read(write(tmp_path / f"a.jsonl{suffix}", data))
    assert [row["event_id"] for row in found.events] == [f"e{n}" for n in range(1000)]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_several_members_are_one_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    first = write(path, b'{"event_id":"a"}\n{"event_').read_bytes()
    second = write(path, b'id":"b"}\n').read_bytes()
    path.write_bytes(first + second)
    assert [row["event_id"] for row in read(path).events] == ["a", "b"]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_what_precedes_damage_is_read(tmp_path: Path, suffix: str, damage: str) -> None:
    lines = [event(number, source=f"{number * 7919 % 104729}") for number in range(60_000)]
    path = write(tmp_path / f"a.jsonl{suffix}", jsonl(lines))
    data = path.read_bytes()
    middle = len(data) // 2
    if damage == "truncated":
        path.write_bytes(data[:middle])
    else:
        path.write_bytes(data[:middle] + b"\xff" * 64 + data[middle + 64 :])
    found = read(path)
    assert 10_000 < len(found.rows) < 50_000
    # Deflate may take overwritten bytes for text before it notices.
    *garbled, bad = found.bad
    assert not garbled or (suffix, damage) == (".gz", "overwritten")
    assert bad.reason == "unreadable_file"
    assert bad.row == len(found.rows) + len(garbled) + 1


def test_an_empty_file_has_no_events(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "b.jsonl.gz", "b.csv.zst"):
        assert read(write(tmp_path / name, b"")) == Found({}, [])


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"",
                b" \r",
                b"{",
                b"7",
                b'{"event_id": 5}',
                b'{"event_id": "\xfe"}',
                b'{"event_id": "a", "extra": [1, null]}',
                b'{"event_id": "a", "extra": null, "properties": {"x": 1.0}}',
                b'{"properties": null, "extra": 0.10}',
                b'{"event_id": null, "timestamp": "x", "properties": 5}',
            ]
        ),
        st.dictionaries(
            st.sampled_from(["event_id", "event_name", "source", "timestamp", "b", "\u00e9\n"]),
            st.one_of(st.text(max_size=5), st.none(), st.integers(0, 9)),
        ).map(lambda row: json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    ),
    max_size=30,
)
MAPPINGS = st.sampled_from(
    [
        Mapping(),
        Mapping.parse(["source=b"]),
        Mapping.parse(["properties.b=b"], ["source=s"]),
        Mapping.parse(["event_id=event.id"]),
        Mapping.parse(time_format="unix"),
    ]
)


@given(LINES, MAPPINGS, st.integers(1, 200), st.integers(1, 60), st.booleans())
def test_blocks_and_chunks_do_not_change_what_is_read(
    lines: list[bytes], mapping: Mapping, block: int, chunk: int, ends: bool
) -> None:
    data = b"\n".join(lines) + b"\n" * ends
    whole = read_bytes(data, mapping)
    assert collect(read_jsonl(iter(parts(data, chunk)), mapping, "f.jsonl", 0, block)) == whole
    read_lines = len(whole.rows) + len(whole.bad)
    assert read_lines == sum(bool(line.strip()) for line in lines)


@given(LINES)
def test_every_way_of_reading_gives_the_same(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for patience in (10**9, 0, -1):
            patch.setattr("transforms.format_jsonl._PATIENCE", patience)
            found.append(read_bytes(data))
        general = Mapping(columns=(("source", "so.urce"),))
        plain = Mapping(columns=(("source", "so_urce"),))
        assert read_bytes(data, general) == read_bytes(data, plain)
    assert found[0] == found[1] == found[2]


def test_memory_is_bounded_by_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    for item in format_text.lines(iter([b'{"event_id":"abc"}\n' * 100] * 200), 10_000):
        assert isinstance(item, format_text.Lines)
        sizes.append(sum(map(len, item.lines)))
    assert max(sizes) < 13_000
