"""What was refused is tried again over HTTP, by whoever may, and counts exactly once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from meters.catalog import Catalog
from meters.errors import BeammeterError, ConfigurationError, OtherCatalog, UsageClaimed
from runners.quarantine import replay_counts
from service.app import create_app
from service.context import Service
from service.json_routes import LIMITS
from service.keys import KeyStore
from service.settings import Settings
from tests.pipelines.runs import Tenant
from tests.service.world import CATALOG, SCRIPT, World
from warehouse.client import Warehouse

Row = dict[str, Any]
AT = "2026-09-10T10:00:00Z"
NOTHING = {"accepted": 0, "measured": 0, "refused": 0, "incomplete": 0, "conflicts": 0}
WROTE = {"resolved", "kept_open", "rows", "tombstones"}


def call(name: str, **more: Any) -> Row:
    return {
        "event_id": name,
        "event_name": "call",
        "external_customer_id": "acme",
        "timestamp": AT,
        "properties": {"region": "eu", "tokens": "2", "user": 1},
        **more,
    }


@pytest.fixture
def refused(embedded: Warehouse, embedded_url: str, tmp_path: Path, tenant: str) -> Iterator[World]:
    """A tenant with one good event, two without a time and one without a number."""
    catalog = Catalog.model_validate(CATALOG)
    own = Tenant(embedded, embedded_url, tenant, catalog, tmp_path)
    sent = [
        call("good"),
        call("early", timestamp="yesterday"),
        call("late", timestamp="tomorrow"),
        call("text", properties={"region": "eu", "tokens": SCRIPT, "user": 1}),
    ]
    own.backfill(sent)
    keys = KeyStore(tmp_path / "keys.json")
    again = partial(replay_counts, catalog, (embedded_url, False), tenant=tenant)
    service = Service(Settings(tenant=tenant), keys, catalog, embedded, replay=again)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield World(own, sent, service, keys, client, [])


def replay(world: World, **body: Any) -> Row:
    got = world.post("/v1/quarantine/replay", body, world.key("admin"))
    assert got.status_code == 200, got.text
    found: Row = got.json()
    return found


def calls(world: World) -> int:
    found = world.read("/v1/usage/summary", meter="calls")["items"]
    return sum(row["events"] for row in found)


def listed(world: World, **query: Any) -> list[Row]:
    rows: list[Row] = world.read("/v1/quarantine", **query)["items"]
    return rows


def test_a_corrected_payload_is_counted_once_and_leaves_the_quarantine(refused: World) -> None:
    assert calls(refused) == 2
    whole = listed(refused, reason="invalid_timestamp")
    fixes = [
        {
            "origin": row["origin"],
            "origin_row": row["origin_row"],
            "payload": {**json.loads(row["payload"]), "timestamp": AT},
        }
        for row in whole
    ]
    fixes[1]["payload"] = json.dumps(fixes[1]["payload"])
    found = replay(refused, fix=fixes, meter="")
    assert {**NOTHING, "accepted": 2}.items() <= found.items()
    assert found.keys() == NOTHING.keys() | WROTE
    assert (found["resolved"], found["kept_open"]) == (2, 0)
    assert calls(refused) == 4
    assert {row["reason"] for row in listed(refused)} == {"invalid_number"}
    for _ in range(2):
        again = replay(refused, meter="")
        assert (again["accepted"], again["refused"]) == (0, 0)
        assert calls(refused) == 4
    trace = refused.read("/v1/events/trace", id="early")["items"][0]
    assert trace["status"] == "accepted"
    assert [row["settled_at"] is None for row in trace["quarantined"]] == [False]
    (open_one,) = refused.read("/v1/events/trace", id="text")["items"]
    assert {row["settled_at"] for row in open_one["quarantined"]} == {None}


def test_a_row_is_replayed_alone_by_its_id(refused: World) -> None:
    rows = listed(refused)
    assert len({row["quarantined_at"] for row in rows}) == 1
    assert len({row["id"] for row in rows}) == len(rows)
    ids = {row["event_id"]: row["id"] for row in rows}
    for row in rows:
        assert listed(refused, id=row["id"]) == [row]
    fixes = [
        {
            "origin": row["origin"],
            "origin_row": row["origin_row"],
            "payload": {**json.loads(row["payload"]), "timestamp": AT},
        }
        for row in rows
        if not row["meter"]
    ]
    found = replay(refused, ids=[ids["late"]], fix=fixes)
    assert {**NOTHING, "accepted": 1}.items() <= found.items()
    assert {row["event_id"] for row in listed(refused)} == {"early", "text"}
    assert listed(refused, id=ids["late"]) == []
    assert replay(refused, ids=[ids["text"]])["refused"] == 1
    assert replay(refused, ids=[ids["late"], ids["text"]])["refused"] == 1
    assert replay(refused, ids=[ids["early"]], reason="invalid_number")["refused"] == 0
    assert replay(refused, ids=["0123456789abcdef"])["refused"] == 0
    assert replay(refused, ids=[ids["early"]], fix=fixes)["accepted"] == 1
    assert calls(refused) == 4


def test_an_id_stays_when_the_input_is_read_again(refused: World) -> None:
    before = {row["id"]: row["event_id"] for row in listed(refused)}
    [path] = refused.tenant.folder.glob("*.jsonl")
    refused.tenant.backfill(path)
    rows = listed(refused)
    assert {row["id"]: row["event_id"] for row in rows} == before
    for row in rows:
        key = "\0".join([row["origin"], str(row["origin_row"]), row["meter"], row["reason"]])
        assert row["id"] == hashlib.sha256(key.encode()).hexdigest()[:16]


def test_what_is_no_id_is_refused(refused: World) -> None:
    assert refused.get("/v1/quarantine", id="1").status_code in (400, 422)


def test_what_is_still_wrong_stays(refused: World) -> None:
    before = listed(refused)
    found = replay(refused)
    assert (found["accepted"], found["measured"], found["refused"]) == (0, 0, len(before))
    assert listed(refused) == before
    assert listed(refused, meter="tokens") == [r for r in before if r["meter"] == "tokens"]


@pytest.mark.parametrize(
    "chosen",
    [
        {"reason": "no_such"},
        {"meter": "calls"},
        {"origin": "elsewhere"},
        {"customer": "b/ra"},
        {"to": "2026-01-01T00:00:00Z"},
        {"from": "2299-01-01T00:00:00Z"},
        {"customer": "' OR 1=1 --"},
        {"origin": "{tenant:String}"},
        {"reason": "'; DROP TABLE quarantine; --"},
        {"meter": "acme\x00"},
    ],
)
def test_only_what_is_chosen_is_tried(refused: World, chosen: Row) -> None:
    found = replay(refused, **chosen)
    assert {name: found[name] for name in NOTHING} == NOTHING
    assert len(listed(refused)) >= 3


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"reasons": "x"}, "reasons"),
        ({"from": "yesterday"}, "from"),
        ({"from": AT, "to": AT}, "to"),
        ({"customer": 5}, "customer"),
        ({"ids": "0123456789abcdef"}, "ids"),
        ({"ids": ["0123456789ABCDEF"]}, "ids[0]"),
        ({"fix": {}}, "fix"),
        ({"fix": [{"origin": "a", "origin_row": -1, "payload": "{}"}]}, "fix[0].origin_row"),
        ({"fix": [{"origin": "a", "origin_row": 1}]}, "fix[0].payload"),
        ([], ""),
    ],
)
def test_a_wrong_field_is_named(refused: World, body: Any, path: str) -> None:
    got = refused.post("/v1/quarantine/replay", body, refused.key("admin"))
    assert got.status_code == 400
    faults = got.json()["errors"]
    assert path in {fault["path"] for fault in faults}
    assert all(fault["expected"] for fault in faults)


def test_a_body_that_is_too_large_or_no_json_is_refused(refused: World) -> None:
    headers = {"x-api-key": refused.key("admin"), "content-type": "application/json"}

    def send(content: bytes) -> Row:
        got = refused.client.post("/v1/quarantine/replay", content=content, headers=headers)
        found: Row = got.json()
        return found

    assert send(b'{"reason": "' + b"x" * LIMITS.body + b'"}')["status"] == 413
    without = refused.client.post("/v1/quarantine/replay", content=b"x" * (LIMITS.body + 1))
    assert without.status_code == 401  # unread
    broken = send(b'{\n"reason": }')
    assert (broken["status"], broken["line"], broken["column"]) == (400, 2, 11)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UsageClaimed("another backfill or repair is running"), 409, "usage_claimed"),
        (OtherCatalog("none of them"), 409, "other_catalog"),
        (ConfigurationError("at clickhouse://inside"), 503, "no_replay"),
    ],
)
def test_why_nothing_was_replayed_has_a_code(
    refused: World, error: BeammeterError, status: int, code: str
) -> None:
    def fails(*_: Any) -> Row:
        raise error

    refused.service.replay = fails
    got = refused.post("/v1/quarantine/replay", {}, refused.key("admin"))
    assert (got.status_code, got.json()["code"]) == (status, code)
    assert "inside" not in got.text
    assert "the warehouse is away" not in got.text


def test_who_may_not_changes_nothing(refused: World) -> None:
    def ask(key: str | None) -> httpx.Response:
        headers = {} if key is None else {"x-api-key": key}
        return refused.client.post(  # type: ignore[return-value]
            "/v1/quarantine/replay", json={}, headers=headers
        )

    refused.service.replay = None  # what gets through would be 503
    assert ask(None).status_code == 401
    assert ask("bm_x_y").status_code == 401
    for right in ("read", "write"):
        assert ask(refused.key(right)).json()["code"] == "forbidden"  # type: ignore[arg-type]
    assert ask(refused.key("admin", tenant="somebody-else")).json()["code"] == "wrong_tenant"
    assert ask(refused.key("admin")).json()["code"] == "no_replay"


def test_the_session_of_a_browser_needs_the_page_s_own_header(refused: World) -> None:
    key = refused.key("admin")
    page = {"x-beammeter-page": "1"}
    got = refused.client.post("/dashboard/login", json={"key": key}, headers=page)
    assert got.status_code == 200
    assert refused.client.post("/v1/quarantine/replay", json={}).status_code == 401
    done = refused.client.post("/v1/quarantine/replay", json={}, headers=page)
    assert done.status_code == 200
