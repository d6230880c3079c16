"""Events in the formats of three peers: what is taken, what is refused, and what is said."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from meters.catalog import Catalog
from meters.decode import decode
from meters.mapping import Mapping
from meters.projection import Projection
from service import intake
from service.settings import Limits
from tests.service.sites import Site, site
from transforms.format_jsonl import LineReader
from transforms.format_text import Lines

LAGO = "2026-11-01T00:00:00Z"
CATALOG = Catalog.model_validate(
    {
        "meters": [{"id": "calls", "event_name": "call", "aggregation": "count"}],
        "customers": [{"id": "acme", "time_zone": "UTC", "currency": "EUR"}],
        "plans": [{"id": "p", "currency": "EUR", "charges": []}],
        "subscriptions": [{"id": "sub", "customer": "acme", "plan": "p", "start": LAGO}],
    }
)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, catalog=CATALOG) as found:
        yield found


def event(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "event_name": "call",
        "external_customer_id": "acme",
        "timestamp": "2026-11-20T10:00:00Z",
        "properties": {"tokens": "1.50"},
        **more,
    }


def test_an_event_goes_on_under_its_customer_as_it_was_sent(here: Site) -> None:
    got = here.post("/v1/events", event(source="s", external_subscription_id="sub"))
    assert (got.status_code, got.json()["event_id"]) == (202, "e0")
    ((key, value),) = here.sink.records
    assert key == b"default/acme"
    sent = json.loads(value)
    received = datetime.fromisoformat(sent.pop("ingested_at"))
    assert abs((datetime.now(UTC) - received).total_seconds()) < 60
    assert sent == event(source="s", external_subscription_id="sub")


def test_numbers_keep_their_digits(here: Site) -> None:
    body = b'{"event_name":"c","external_customer_id":"a","properties":{"n":0.1000000000000000001}}'
    assert here.post("/v1/events", body).status_code == 202
    assert b'"properties":{"n":0.1000000000000000001}' in here.sink.records[0][1]


def test_what_is_missing_is_filled_in_and_told(here: Site) -> None:
    before = datetime.now(UTC)
    got = here.post("/v1/events", {"event_name": "call", "external_customer_id": "acme"})
    (sent,) = here.events
    assert sent["event_id"] == got.json()["event_id"]
    assert len(sent["event_id"]) == 32
    assert before <= datetime.fromisoformat(sent["timestamp"]) <= datetime.now(UTC)
    assert sent["timestamp"] == sent["ingested_at"]
    assert sent["properties"] == {}


@pytest.mark.parametrize("micros", [0, 1, 999, 1000])
def test_a_time_of_receipt_is_never_that_of_a_record_of_kafka(
    here: Site, monkeypatch: pytest.MonkeyPatch, micros: int
) -> None:
    """Whole milliseconds are; so what the API has filled in is known from what was said."""
    now = 1_764_000_000_000_000 + micros
    monkeypatch.setattr(intake, "time", SimpleNamespace(time_ns=lambda: now * 1000))
    here.post("/v1/events", {"event_name": "call", "external_customer_id": "acme"})
    (sent,) = here.events
    assert sent["timestamp"] == sent["ingested_at"]
    received = datetime.fromisoformat(sent["ingested_at"])
    assert received.microsecond == (micros if micros % 1000 else micros + 1)


def test_every_message_reads_back_as_the_stream_reads_it(here: Site) -> None:
    here.post("/v1/events/bulk", {"events": [event(n, source="ü") for n in range(50)]})
    lines = [value for _, value in here.sink.records]
    batch = LineReader(Mapping(), "o", 0).batch(Lines(0, lines))
    found = decode(batch.columns, "default", "o", batch.rows)
    assert found.events.num_rows == 50
    assert not batch.bad


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"event_name": None}, "event_name", "missing_field"),
    ({"event_name": ""}, "event_name", "empty_field"),
    ({"event_name": 5}, "event_name", "invalid_type"),
    ({"external_customer_id": None}, "external_customer_id", "missing_field"),
    ({"external_customer_id": "x" * 1025}, "external_customer_id", "too_long"),
    ({"event_id": ""}, "event_id", "empty_field"),
    ({"event_id": ["a"]}, "event_id", "invalid_type"),
    ({"external_subscription_id": ""}, "external_subscription_id", "empty_field"),
    ({"timestamp": "2026-11-20 10:00"}, "timestamp", "invalid_timestamp"),
    ({"timestamp": 1764000000}, "timestamp", "invalid_type"),
    ({"timestamp": "1969-12-31T23:59:59Z"}, "timestamp", "timestamp_out_of_range"),
    ({"timestamp": "2299-12-31T23:59:59Z"}, "timestamp", "timestamp_out_of_range"),
    ({"properties": [1]}, "properties", "invalid_json"),
    ({"properties": "text"}, "properties", "invalid_json"),
    ({"source": 1.5}, "source", "invalid_type"),
    ({"ingested_at": "2026-11-20T10:00:00Z"}, "ingested_at", "unknown_field"),
    ({"tenant_id": "other"}, "tenant_id", "unknown_field"),
    ({"propertys": {}}, "propertys", "unknown_field"),
]


@pytest.mark.parametrize(("change", "path", "reason"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_field_is_named_with_its_value_and_what_was_due(
    here: Site, change: dict[str, Any], path: str, reason: str
) -> None:
    got = here.post("/v1/events", event(**change))
    assert got.status_code == 400
    (fault,) = got.json()["errors"]
    assert (fault["path"], fault["reason"]) == (path, reason)
    assert fault["expected"]
    if reason in ("invalid_type", "invalid_timestamp"):
        value = change[path]
        assert fault["value"] == (value if isinstance(value, str) else json.dumps(value))
    assert not here.events
    good, wrong = event(1), event(2, **change)
    got = here.post("/v1/events/bulk", {"events": [good, wrong, event(3)]})
    assert got.status_code == 207
    (rejected,) = got.json()["rejected"]
    assert (rejected["index"], rejected["path"]) == (1, f"events[1].{path}")
    assert [sent["event_id"] for sent in here.events] == ["e1", "e3"]


def test_all_wrong_fields_of_an_event_are_told_at_once(here: Site) -> None:
    got = here.post("/v1/events", event(event_name=1, source=2, nonsense=3))
    assert [f["path"] for f in got.json()["errors"]] == ["event_name", "source", "nonsense"]


@pytest.mark.parametrize(
    ("body", "line", "column"),
    [
        (b'{"event_name": "a",\n "b": }', 2, 7),
        (b"", 1, 1),
        (b'{"event_name": "a"', 1, 19),
        (b"nonsense", 1, 2),
        (b'{"event_name": "\x01"}', 1, 17),
    ],
)
def test_broken_json_has_its_line_and_column(
    here: Site, body: bytes, line: int, column: int
) -> None:
    for path in ("/v1/events", "/v1/events/bulk", "/api/v1/events", "/api/v1/events/batch"):
        got = here.post(path, body)
        assert (got.status_code, got.json()["code"]) == (400, "invalid_json")
        assert (got.json()["line"], got.json()["column"]) == (line, column), path


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b'{"events": 5}',
        b'{"events": [1, null, []]}',
        b'{"event": []}',
        b"null",
        b'{"events": [], "more": 1}',
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"event_name":"a","external_customer_id":"c","properties":'
        + b"[" * 5000
        + b"]" * 5000
        + b"}",
    ],
)
def test_json_of_another_shape_is_refused_by_every_route(here: Site, body: bytes) -> None:
    for path in ("/v1/events", "/v1/events/bulk", "/api/v1/events", "/api/v1/events/batch"):
        got = here.post(path, body)
        assert got.status_code in (400, 422), (path, got.text)
        assert got.json()["errors"][0]["expected"]
    assert not here.events


def test_events_that_are_no_list_are_named(here: Site) -> None:
    for path in ("/v1/events/bulk", "/api/v1/events/batch"):
        (fault,) = here.post(path, b'{"events": 5}').json()["errors"]
        assert {name: fault[name] for name in ("path", "value", "expected")} == {
            "path": "events",
            "value": "5",
            "expected": "a list",
        }


def test_bytes_that_are_no_utf8_are_placed(here: Site) -> None:
    got = here.post("/v1/events", b'{"event_name":\n"\xff"}')
    assert (got.status_code, got.json()["code"]) == (400, "invalid_utf8")
    assert "line 2, column 2" in got.json()["detail"]


def test_a_bulk_without_faults_answers_in_strings_as_flexprice_reads_it(here: Site) -> None:
    without = {"event_name": "call", "external_customer_id": "acme"}
    got = here.post("/v1/events/bulk", [event(0), without])
    assert got.status_code == 202
    assert all(isinstance(value, str) for value in got.json().values())
    assert got.json()["[1].event_id"] == here.events[1]["event_id"]
    assert got.json()["accepted"] == "2"


def test_lines_are_events_and_blank_ones_are_none(here: Site) -> None:
    body = b"\n".join(
        [json.dumps(event(1)).encode(), b"", b"{", json.dumps(event(2)).encode(), b""]
    )
    got = here.post("/v1/events/bulk", body, "application/x-ndjson")
    assert got.status_code == 207
    (rejected,) = got.json()["rejected"]
    assert (rejected["index"], rejected["reason"]) == (2, "invalid_json")
    assert [sent["event_id"] for sent in here.events] == ["e1", "e2"]


def cloud(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": "app",
        "type": "call",
        "subject": "acme",
        "time": "2026-11-20T10:00:00Z",
        "data": {"tokens": "1.50"},
        **more,
    }


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/cloudevents+json", "application/cloudevents-batch+json"],
)
def test_cloud_events_are_the_same_events(here: Site, kind: str, many: bool) -> None:
    got = here.post("/api/v1/events", [cloud(), cloud(1)] if many else cloud(), kind)
    assert (got.status_code, got.content) == (204, b"")
    for sent, wanted in zip(here.events, [event(), event(1)], strict=False):
        sent.pop("ingested_at")
        assert sent == {**wanted, "source": "app"}
    assert len(here.events) == 1 + many


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"specversion": "0.2"}, "specversion", "invalid_field"),
        ({"id": None}, "id", "missing_field"),
        ({"source": None}, "source", "missing_field"),
        ({"type": ""}, "type", "empty_field"),
        ({"subject": None}, "subject", "missing_field"),
        ({"time": "now"}, "time", "invalid_timestamp"),
        ({"data": 5}, "data", "invalid_json"),
        ({"data_base64": "AA=="}, "data_base64", "unknown_field"),
    ],
)
def test_a_wrong_cloud_event_refuses_its_batch_by_its_own_names(
    here: Site, change: dict[str, Any], path: str, reason: str
) -> None:
    got = here.post("/api/v1/events", [cloud(0), cloud(1, **change)])
    assert got.status_code == 400
    (fault,) = got.json()["errors"]
    assert (fault["path"], fault["reason"], fault["index"]) == (f"[1].{path}", reason, 1)
    assert not here.events


def lago(number: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"e{number}",
        "external_subscription_id": "sub",
        "code": "call",
        "timestamp": 1763632800,
        "properties": {"tokens": "1.50"},
        **more,
    }


def test_lagos_events_find_their_customer_by_the_subscription(here: Site) -> None:
    got = here.post("/api/v1/events", {"event": lago()})
    assert (got.status_code, got.json()["event"]["transaction_id"]) == (200, "e0")
    got = here.post("/api/v1/events/batch", {"events": [lago(1), lago(2)]})
    assert (got.status_code, len(got.json()["events"])) == (200, 2)
    assert {sent["external_customer_id"] for sent in here.events} == {"acme"}
    assert {sent["external_subscription_id"] for sent in here.events} == {"sub"}
    assert {sent["timestamp"] for sent in here.events} == {"2025-11-20T10:00:00Z"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (1763632800, "2025-11-20T10:00:00Z"),
        ("1763632800", "2025-11-20T10:00:00Z"),
        ("1763632800.123456789", "2025-11-20T10:00:00.123456Z"),
        ("2025-11-20T10:00:00+01:00", "2025-11-20T10:00:00+01:00"),
    ],
)
def test_lagos_times(here: Site, given: object, wanted: str) -> None:
    assert here.post("/api/v1/events", {"event": lago(timestamp=given)}).status_code == 200
    assert here.events[0]["timestamp"] == wanted


def test_lagos_amount_becomes_a_property(here: Site) -> None:
    here.post("/api/v1/events", {"event": lago(precise_total_amount_cents="12.5")})
    assert here.events[0]["properties"] == {
        "tokens": "1.50",
        "precise_total_amount_cents": "12.5",
    }


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"external_subscription_id": "none"}, "external_subscription_id", "unknown_subscription"),
        ({"external_subscription_id": None}, "external_subscription_id", "missing_field"),
        ({"transaction_id": None}, "transaction_id", "missing_field"),
        ({"code": None}, "code", "missing_field"),
        ({"timestamp": "x"}, "timestamp", "invalid_timestamp"),
        ({"timestamp": True}, "timestamp", "invalid_timestamp"),
    ],
)
def test_a_wrong_lago_event_refuses_its_batch_in_lagos_words(
    here: Site, change: dict[str, Any], field: str, reason: str
) -> None:
    got = here.post("/api/v1/events", {"event": lago(**change)})
    assert (got.status_code, got.json()["error_details"]) == (422, {field: [reason]})
    got = here.post("/api/v1/events/batch", {"events": [lago(0), lago(1, **change)]})
    assert (got.status_code, got.json()["error_details"]) == (422, {"1": {field: [reason]}})
    assert not here.events


@pytest.mark.parametrize(
    ("pack", "encoding"),
    [(gzip.compress, "gzip"), (zstandard.ZstdCompressor().compress, "zstd"), (bytes, "identity")],
)
def test_packed_bodies_are_unpacked(here: Site, pack: Any, encoding: str) -> None:
    body = pack(json.dumps({"events": [event(n) for n in range(100)]}).encode())
    got = here.post("/v1/events/bulk", body, content_encoding=encoding)
    assert got.status_code == 202
    assert len(here.events) == 100


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "br", "gzip, gzip"])
def test_a_body_that_is_not_what_it_says_is_refused(here: Site, encoding: str) -> None:
    got = here.post("/v1/events", event(), content_encoding=encoding)
    assert got.status_code in (400, 415)
    cut = gzip.compress(b'{"event_name": "a"}')[:-9]
    assert here.post("/v1/events", cut, content_encoding="gzip").status_code == 400


def test_a_bomb_costs_no_more_than_the_limit(tmp_path: Path) -> None:
    with site(tmp_path, limits=Limits(content=1 << 20)) as here:
        zeros = b" " * (1 << 28)
        for pack, name in ((gzip.compress, "gzip"), (zstandard.compress, "zstd")):
            bomb = pack(zeros)
            assert len(bomb) < 1 << 20
            began = time.process_time()
            got = here.post("/v1/events/bulk", bomb, content_encoding=name)
            spent = time.process_time() - began
            assert (got.status_code, got.json()["code"]) == (413, "too_large")
            assert spent < 2
        assert here.service.room.held == 0


def test_too_much_is_refused_before_it_is_held(tmp_path: Path) -> None:
    limits = Limits(body=1000, event=500, events=3)
    with site(tmp_path, limits=limits) as here:
        assert here.post("/v1/events", event(source="x" * 2000)).status_code == 413
        small = {"event_name": "c", "external_customer_id": "a"}
        got = here.post("/v1/events/bulk", [small] * 4)
        assert (got.status_code, got.json()["code"]) == (413, "too_many_events")
        got = here.post("/v1/events", event(source="x" * 450))
        assert (got.status_code, got.json()["errors"][0]["reason"]) == (400, "too_large")
        assert not here.events
        assert here.service.room.held == 0


def test_other_content_types_are_told_what_is_known(here: Site) -> None:
    got = here.post("/v1/events", event(), "application/x-www-form-urlencoded")
    assert got.status_code == 415
    assert "application/json" in got.json()["detail"]


def test_a_sink_that_cannot_take_events_is_503_with_retry_after(here: Site) -> None:
    here.sink.refuses = "the broker does not answer"
    for path in ("/v1/events", "/v1/events/bulk", "/api/v1/events", "/api/v1/events/batch"):
        got = here.post(path, event())
        assert (got.status_code, got.json()["code"]) == (503, "unavailable")
        assert int(got.headers["retry-after"]) >= 1
        assert got.json()["accepted"] == 0


def test_what_was_half_taken_is_told_event_by_event(here: Site) -> None:
    here.sink.fails = lambda record: b'"e1"' in record[1] or b'"call2"' in record[1]
    nameless = {"event_name": "call2", "external_customer_id": "acme"}
    got = here.post("/v1/events/bulk", [event(0), event(1), nameless, event(3, timestamp="x")])
    assert got.status_code == 503
    found = got.json()
    assert (found["accepted"], found["failed"]) == (1, [1, 2])
    assert set(found["event_ids"]) == {"2"}
    assert [fault["index"] for fault in found["rejected"]] == [3]
    assert [sent["event_id"] for sent in here.events] == ["e0"]


def test_a_request_that_is_sent_again_counts_once(here: Site) -> None:
    body = [{"event_name": "call", "external_customer_id": "acme"}] * 2
    first = here.post("/v1/events/bulk", body, idempotency_key="k1")
    again = here.post("/v1/events/bulk", body, idempotency_key="k1")
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert len(here.events) == 2
    assert len({sent["event_id"] for sent in here.events}) == 2
    other = here.post("/v1/events/bulk", body[:1], idempotency_key="k1")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_belongs_to_the_route_it_came_with(here: Site) -> None:
    nothing = {"events": []}
    assert here.post("/v1/events/bulk", nothing, idempotency_key="k1").status_code == 202
    lago = here.post("/api/v1/events/batch", nothing, idempotency_key="k1")
    assert (lago.status_code, lago.json()["code"]) == (422, "idempotency_key_reused")
    assert here.post("/api/v1/events/batch", nothing, idempotency_key="k2").status_code == 200


def test_a_server_that_forgot_makes_the_same_ids(here: Site) -> None:
    body = {"event_name": "call", "external_customer_id": "acme"}
    first = here.post("/v1/events", body, idempotency_key="k1").json()["event_id"]
    here.service.answers._found.clear()
    assert here.post("/v1/events", body, idempotency_key="k1").json()["event_id"] == first
    assert here.post("/v1/events", body, idempotency_key="k2").json()["event_id"] != first


def test_a_refused_request_may_be_sent_again_under_its_key(here: Site) -> None:
    here.sink.refuses = "away"
    assert here.post("/v1/events", event(), idempotency_key="k").status_code == 503
    here.sink.refuses = None
    assert here.post("/v1/events", event(), idempotency_key="k").status_code == 202
    assert here.post("/v1/events", event(), idempotency_key="a b").status_code == 400


def test_a_key_of_another_tenant_writes_to_its_own(here: Site) -> None:
    _, text = here.keys.create("other", ["write"])
    here.keys._checked = 0.0
    assert here.post("/v1/events", event(), x_api_key=text).status_code == 202
    assert here.sink.records[0][0] == b"other/acme"
    here.service.only_tenant = "default"
    got = here.post("/v1/events", event(), x_api_key=text)
    assert (got.status_code, got.json()["code"]) == (403, "wrong_tenant")


def test_events_beyond_the_rate_of_a_key_wait(here: Site) -> None:
    _, text = here.keys.create("default", ["write"], events_rate=10.0)
    here.keys._checked = 0.0
    bulk = {"events": [event(n) for n in range(50)]}
    assert here.post("/v1/events/bulk", bulk, x_api_key=text).status_code == 202
    got = here.post("/v1/events/bulk", bulk, x_api_key=text)
    assert got.status_code == 429
    assert int(got.headers["retry-after"]) >= 2
    assert here.post("/v1/events/bulk", bulk).status_code == 202


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**40),
    st.text(max_size=5),
    st.sampled_from(["2026-11-20T10:00:00Z", "2026-11-20T10:00:00", "1900-01-01T00:00:00Z"]),
    st.just({"a": 1}),
    st.lists(st.integers(), max_size=2),
)
FIELDS = ("event_id", "event_name", "external_customer_id", "external_subscription_id")
EVENTS = st.fixed_dictionaries(
    {"event_name": st.one_of(st.just("call"), VALUES), "external_customer_id": VALUES},
    optional=dict.fromkeys(("event_id", "timestamp", "source", "properties", FIELDS[3]), VALUES),
)


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("law")) as found:
        yield found


@given(events=st.lists(EVENTS, min_size=1, max_size=8))
def test_what_is_taken_is_what_the_stream_would_count(
    open_site: Site, events: list[dict[str, Any]]
) -> None:
    """Every event is taken or named; the stream quarantines none of those that are taken, and
    would quarantine each of those that are not, had it been filled in.
    """
    open_site.sink.records.clear()
    got = open_site.post("/v1/events/bulk", events).json()
    refused = {fault["index"] for fault in got.get("rejected", got.get("errors", []))}
    assert len(open_site.sink.records) == len(events) - len(refused)
    assert quarantined([value for _, value in open_site.sink.records]) == 0
    filled = {"event_id": "made", "timestamp": "2026-11-20T10:00:00Z"}
    again = []
    for index in refused:
        given = {name: value for name, value in events[index].items() if value is not None}
        again.append(json.dumps({"properties": {}, **filled, **given}).encode())
    assert quarantined(again) == len(refused)


def quarantined(lines: list[bytes]) -> int:
    """How many lines the chain of the stream refuses as events."""
    now = pa.array([time.time_ns() // 1000] * len(lines), pa.timestamp("us", tz="UTC"))
    batch = LineReader(Mapping(), "o", 0).batch(Lines(0, lines), now)
    found = decode(batch.columns, "default", "o", batch.rows)
    broken = Projection(CATALOG).project(found.events).broken
    return len(batch.bad) + found.quarantine.num_rows + broken.num_rows
