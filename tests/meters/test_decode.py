"""Decoding: each rule of an event, its reason, and that nothing is lost on the way."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.decode import Decoded, decode
from meters.event import EVENT_SCHEMA, QUARANTINE_SCHEMA, identity_hash
from meters.mapping import FIELDS
from meters.timestamps import parse_timestamp
from meters.zones import microseconds
from tests.generators import to_json
from tests.meters.chain import decoded, event, raw

DAY = timedelta(days=1)


def refusals(result: Decoded) -> list[tuple[str, str]]:
    return [(row["reason"], row["field"]) for row in result.quarantine.to_pylist()]


def texts(value: str, **given: Any) -> dict[str, Any]:
    return event(**{**given, "properties": value})


# Which rows are events


@pytest.mark.parametrize(
    ("given", "reason", "field"),
    [
        ({"event_id": None}, "missing_field", "event_id"),
        ({"event_id": ""}, "empty_field", "event_id"),
        ({"event_id": "x" * 1025}, "too_long", "event_id"),
        ({"event_id": "é" * 513}, "too_long", "event_id"),
        ({"event_name": None}, "missing_field", "event_name"),
        ({"event_name": ""}, "empty_field", "event_name"),
        ({"external_customer_id": None}, "missing_field", "external_customer_id"),
        ({"external_customer_id": ""}, "empty_field", "external_customer_id"),
        ({"external_subscription_id": ""}, "empty_field", "external_subscription_id"),
        ({"timestamp": None}, "missing_field", "timestamp"),
        ({"timestamp": ""}, "invalid_timestamp", "timestamp"),
        ({"timestamp": "2026-01-31T10:00:00"}, "invalid_timestamp", "timestamp"),
        ({"timestamp": "2026-02-30T10:00:00Z"}, "invalid_timestamp", "timestamp"),
        ({"timestamp": "0000-01-01T00:00:00Z"}, "invalid_timestamp", "timestamp"),
        ({"timestamp": "1969-12-31T23:59:59.999999Z"}, "timestamp_out_of_range", "timestamp"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "timestamp_out_of_range", "timestamp"),
        (
            {"timestamp": "2300-01-01T00:00:00Z", "ingested_at": "2299-12-31T12:00:00Z"},
            "timestamp_out_of_range",
            "timestamp",
        ),
        ({"timestamp": "2026-02-01T11:00:00.000001Z"}, "timestamp_out_of_range", "timestamp"),
        ({"ingested_at": "soon"}, "invalid_timestamp", "ingested_at"),
        ({"ingested_at": "1969-01-01T00:00:00Z"}, "timestamp_out_of_range", "ingested_at"),
        ({"ingested_at": "2300-01-01T00:00:00Z"}, "timestamp_out_of_range", "ingested_at"),
        ({"ingested_at": "9999-12-31T23:59:59Z"}, "timestamp_out_of_range", "ingested_at"),
    ],
)
def test_a_row_that_breaks_a_rule_is_quarantined_with_its_reason(given, reason, field):
    result = decoded([event(1), event(2, **given), event(3)])
    assert refusals(result) == [(reason, field)]
    [row] = result.quarantine.to_pylist()
    assert row["detail"].startswith(f"{field} must be ")
    if reason == "missing_field":
        assert row["detail"] == f"{field} must be present (got nothing)"
    assert (row["tenant_id"], row["origin"], row["origin_row"], row["meter"]) == (
        "t",
        "file",
        2,
        "",
    )
    assert result.events.column("origin_row").to_pylist() == [1, 3]


@pytest.mark.parametrize(
    "given",
    [
        {"event_id": "x" * 1024},
        {"event_id": " "},
        {"event_id": "0"},
        {"external_customer_id": "Ä 日 😀"},
        {"external_subscription_id": None},
        {"source": None},
        {"source": ""},
        {"timestamp": "1970-01-01T00:00:00Z"},
        {"timestamp": "2026-02-01T11:00:00Z"},
        {"timestamp": "2026-01-31T10:17:33.1234567+05:45"},
        {"timestamp": "2299-12-31T23:00:00Z", "ingested_at": "2299-12-31T23:00:00Z"},
        {"properties": None},
    ],
)
def test_what_stays_within_the_rules_is_an_event(given):
    result = decoded([event(**given)])
    assert refusals(result) == []
    [row] = result.events.to_pylist()
    for name in ("event_id", "event_name", "external_customer_id", "external_subscription_id"):
        assert row[name] == event(**given).get(name)
    assert row["timestamp"] == parse_timestamp(event(**given)["timestamp"])


def test_the_first_broken_rule_is_the_reason():
    bad = {"event_id": "", "event_name": None, "timestamp": "x", "ingested_at": "x"}
    assert refusals(decoded([event(**bad)])) == [("empty_field", "event_id")]


def test_an_event_without_properties_has_none():
    assert decoded([event(properties=None)]).events["properties"].to_pylist() == ["{}"]


def test_the_text_of_the_properties_stays_as_it_was_sent():
    sent = '{ "b":1.50 ,"a" : "\\u00e9" }'
    result = decoded([texts(sent)])
    assert result.events["properties"].to_pylist() == [sent]


def test_no_rows_are_no_events():
    result = decoded([])
    assert (result.events.num_rows, result.quarantine.num_rows) == (0, 0)
    assert result.events.schema == EVENT_SCHEMA
    result = decoded([event(event_id="")])
    assert (result.events.num_rows, result.events.schema) == (0, EVENT_SCHEMA)


def test_typed_times_and_chunked_columns_are_read_as_well():
    instants = [datetime(2026, 1, 31, 10, tzinfo=UTC), None, datetime(1969, 1, 1, tzinfo=UTC)]
    table = raw([event(n) for n in range(3)])
    typed = pa.array(instants, pa.timestamp("us", "UTC"))
    table = table.set_column(FIELDS.index("timestamp"), "timestamp", typed)
    table = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    result = decode(table, "t", "file", pa.array([1, 2, 3]))
    assert result.events["timestamp"].to_pylist() == instants[:1]
    assert refusals(result) == [
        ("missing_field", "timestamp"),
        ("timestamp_out_of_range", "timestamp"),
    ]
    payload = json.loads(result.quarantine["payload"][1].as_py())
    assert payload["timestamp"] == "1969-01-01T00:00:00+00:00"


def test_a_typed_time_at_the_end_of_the_calendar_is_quarantined():
    latest = pa.array([datetime.max.replace(tzinfo=UTC)], pa.timestamp("us", "UTC"))
    table = raw([event()])
    for field in ("timestamp", "ingested_at"):
        table = table.set_column(FIELDS.index(field), field, latest)
    result = decode(table, "t", "file", pa.array([1]))
    assert refusals(result) == [("timestamp_out_of_range", "ingested_at")]


# Identity and content


def hashes(*events: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    table = decoded(events).events
    columns = table["identity_hash"].to_pylist(), table["content_hash"].to_pylist()
    return list(zip(*columns, strict=True))


def test_the_identity_is_the_event_id_alone():
    first, other_content, other_id = hashes(
        event(1), event(1, event_name="f", properties={"x": 1}), event(2)
    )
    assert first[0] == other_content[0] == identity_hash("event 1")
    assert first[0] != other_id[0]


def test_the_content_leaves_out_when_and_where_it_came_and_the_id():
    [first] = hashes(event(1))
    [second] = hashes(event(2, ingested_at="2026-02-20T00:00:00Z"))
    assert first[1] == second[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"event_name": "f"},
        {"external_subscription_id": "s"},
        {"source": "s"},
        {"timestamp": "2026-01-31T10:17:33.000001Z"},
        {"properties": {"x": 1}},
        {"properties": None},
    ],
)
def test_the_content_is_everything_that_the_sender_said(changed):
    [(_, first)], [(_, second)] = hashes(event(1)), hashes(event(1, **changed))
    assert (first == second) == (changed == {"properties": None})


def test_the_same_words_in_other_fields_are_other_content():
    pairs = [
        {"external_subscription_id": "a", "source": None},
        {"external_subscription_id": None, "source": "a"},
        {"external_subscription_id": "a", "source": "a"},
        {"external_subscription_id": "a,a", "source": None},
        {"external_subscription_id": "null", "source": None},
    ]
    assert len({content for _, content in hashes(*(event(**pair) for pair in pairs))}) == len(pairs)


names = st.sampled_from(["e", "f", "é"])
contents = st.builds(
    lambda name, subscription, source, at, properties: {
        "event_name": name,
        "external_subscription_id": subscription,
        "source": source,
        "timestamp": f"2026-01-31T10:17:{at:02}Z",
        "properties": {"x": properties},
    },
    names,
    st.sampled_from([None, "s", "é"]),
    st.sampled_from([None, "", "s"]),
    st.integers(0, 2),
    st.integers(0, 2),
)


@settings(max_examples=30)
@given(st.lists(contents, min_size=1, max_size=8))
def test_a_hash_does_not_depend_on_the_batch_around_it(found):
    together = [content for _, content in hashes(*(event(**one) for one in found))]
    alone = [hashes(event(**one))[0][1] for one in found]
    assert together == alone
    said = [to_json(one) for one in found]
    assert len(set(together)) == len(set(said))


# Quarantine


def test_the_payload_reads_back_as_the_event():
    sent = event(7, timestamp="yesterday", source="api", properties={"x": [1, {"y": None}], "é": 1})
    [row] = decoded([sent]).quarantine.to_pylist()
    assert json.loads(row["payload"]) == sent
    assert (row["event_id"], row["external_customer_id"]) == ("event 7", "c")
    [again] = (
        decoded([{**json.loads(row["payload"]), "timestamp": "2026-01-31T00:00:00Z"}])
        .events["event_id"]
        .to_pylist()
    )
    assert again == "event 7"


@pytest.mark.parametrize(
    "properties",
    [
        "",
        "nope",
        "{",
        "\x00",
        '{"x":NaN}',
        '{"x":"\\ud83d"}',
        '{"x":1e99999999999999999999}',
        '{"x":1e999999999}',
        '{"x":' + "9" * 5000 + "}",
        '{"x":' + "[" * 990 + "]" * 990 + "}",
        "[" * 100_000,
    ],
)
def test_whatever_the_properties_are_a_refused_row_keeps_them(properties):
    [row] = decoded([event(1, event_name=None, properties=properties)]).quarantine.to_pylist()
    verbatim, quoted = f'"properties":{properties}', f'"properties":{json.dumps(properties)}'
    assert verbatim in row["payload"] or quoted in row["payload"]
    assert len(row["payload"]) < len(properties) + 300


def test_a_long_value_is_shortened_in_the_detail_and_whole_in_the_payload():
    [row] = decoded([event(timestamp="x" * 5000)]).quarantine.to_pylist()
    assert len(row["detail"]) < 400
    assert json.loads(row["payload"])["timestamp"] == "x" * 5000


odd = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "a", "é\x00", "{}", '{"x":1}', "2026-01-31T10:00:00Z", "1969-01-01T00:00:00Z"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, odd)), max_size=6))
def test_every_row_is_an_event_or_in_quarantine_and_never_both(rows):
    result = decoded(rows)
    numbers = [
        *result.events["origin_row"].to_pylist(),
        *result.quarantine["origin_row"].to_pylist(),
    ]
    assert sorted(numbers) == list(range(1, len(rows) + 1))
    assert result.quarantine.schema == QUARANTINE_SCHEMA
    for row in result.events.to_pylist():
        at, seen = row["timestamp"], row["ingested_at"]
        assert microseconds(at) >= 0
        assert at <= seen + DAY
