"""The short way in answers as the application's own routes do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from service import ingest_routes
from service.front import Front
from tests.service.sites import Site, site
from tests.service.test_access import checks, routes_of

EVENT = {"event_id": "e", "event_name": "call", "external_customer_id": "acme"}
CLOUD = {"specversion": "1.0", "id": "e", "source": "s", "type": "call", "subject": "acme"}
REQUESTS: list[tuple[str, object, dict[str, str]]] = [
    ("/v1/events", EVENT, {}),
    ("/v1/events?tenant=other", EVENT, {}),
    ("/v1/events", EVENT | {"event_name": 5, "more": 1}, {}),
    ("/v1/events", b'{"event_name":\n', {}),
    ("/v1/events", EVENT, {"content-type": "text/plain"}),
    ("/v1/events", EVENT, {"content-encoding": "br"}),
    ("/v1/events", EVENT, {"accept": "application/problem+json", "idempotency-key": "a b"}),
    ("/v1/events", EVENT, {"x-api-key": "bm_1_2"}),
    ("/v1/events", EVENT, {"x-api-key": "READER"}),
    ("/v1/events", EVENT, {"x-request-id": "r-1"}),
    ("/v1/events/", EVENT, {}),
    ("/v1/events/bulk", [EVENT, EVENT | {"event_id": ""}], {}),
    ("/v1/events/bulk", [EVENT] * 3, {}),
    ("/v1/events/bulk", [], {}),
    ("/api/v1/events", CLOUD, {}),
    ("/api/v1/events", [CLOUD, CLOUD | {"specversion": "2"}], {}),
    ("/api/v1/events", {"event": {"transaction_id": "t", "code": "call"}}, {}),
    ("/api/v1/events/batch", {"events": [{"transaction_id": "t", "code": "call"}]}, {}),
]


async def pass_on(front: Front, scope: Scope, receive: Receive, send: Send) -> None:
    await front._app(scope, receive, send)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        yield found


@pytest.mark.parametrize(("path", "body", "headers"), REQUESTS)
def test_the_short_way_answers_as_the_application_does(
    here: Site, path: str, body: object, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader = here.keys.create("default", ["read"])
    here.keys._checked = 0.0
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"x-api-key": here.key, "content-type": "application/json", "x-request-id": "same"}
    given |= {name: value.replace("READER", reader) for name, value in headers.items()}

    def answered() -> tuple[object, ...]:
        here.sink.records.clear()
        got = here.client.post(path, content=content, headers=given)
        stable = {"ingested_at": "", "timestamp": ""}
        return got.status_code, got.headers, got.content, [e | stable for e in here.events]

    short = answered()
    monkeypatch.setattr(Front, "__call__", pass_on)
    assert answered() == short


def test_both_ways_ask_for_the_same_right_and_are_counted_by_route(here: Site) -> None:
    rights = [list(checks(each.dependant)) for each in routes_of(ingest_routes.router)]
    assert rights == [[ingest_routes.RIGHT]] * 4
    assert here.post("/v1/events", EVENT).status_code == 202
    count = here.service.metrics.requests.labels("/v1/events", "POST", "202")
    assert count._value.get() == 1


def test_a_method_that_no_event_comes_by_is_refused(here: Site) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD"):
        got = here.client.request(method, "/v1/events", headers={"x-api-key": here.key})
        assert got.status_code == 405
