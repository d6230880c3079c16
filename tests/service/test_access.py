"""Every route says whom it lets in, and does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from service.access import Caller, allowed, anyone
from service.app import create_app
from service.context import Service
from service.keys import RIGHTS, KeyStore
from service.rates import Rates
from service.settings import Limits, Settings
from tests.service.world import World

OPEN = {
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/",
    "/dashboard",
    "/dashboard/static/{name:path}",
    "/dashboard/login",
    "/dashboard/logout",
}


def checks(dependant: Dependant) -> Iterator[object]:
    """The right that each dependency of a route asks for, None where it is open."""
    if hasattr(dependant.call, "right"):
        yield dependant.call.right
    for inner in dependant.dependencies:
        yield from checks(inner)


def unguarded(routes: Iterable[APIRoute]) -> list[str]:
    """Routes that name no right, or several, or are open and not meant to be."""
    wrong = []
    for route in routes:
        found = list(checks(route.dependant))
        if len(found) != 1 or (found[0] is None) != (route.path in OPEN):
            wrong.append(f"{route.path} {found}")
    return wrong


def routes_of(router: FastAPI | APIRouter) -> Iterator[APIRoute]:
    for route in router.routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from routes_of(included)
        else:
            assert isinstance(route, APIRoute), "only routes have dependencies"
            yield route


@pytest.fixture
def service(keys: KeyStore) -> Service:
    return Service(Settings(), keys)


def test_every_route_names_one_right_or_is_open_on_purpose(service: Service, world: World) -> None:
    assert not unguarded(routes_of(create_app(service)))
    assert not unguarded(routes_of(create_app(world.service)))


def test_the_walk_finds_a_route_without_a_right(service: Service) -> None:
    app = create_app(service)
    app.add_api_route("/open", lambda: None)
    app.add_api_route("/pretends", lambda: None, dependencies=[Depends(anyone)])
    assert unguarded(routes_of(app)) == ["/open []", "/pretends [None]"]


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    app = create_app(service)
    for right in RIGHTS:

        def route(caller: Caller = Depends(allowed(right))) -> str:  # noqa: B008
            return caller.tenant

        app.add_api_route(f"/{right}", route)
    app.add_api_route("/fails", _fails, dependencies=[Depends(anyone)])
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def _fails() -> None:
    raise ValueError("a secret of the server")


def test_a_key_opens_what_it_may_and_nothing_else(
    client: TestClient, key: Callable[..., str]
) -> None:
    for right in RIGHTS:
        text = key(right, tenant=f"tenant-{right}")
        for asked in RIGHTS:
            got = client.get(f"/{asked}", headers={"x-api-key": text})
            if right in (asked, "admin"):
                assert (got.status_code, got.json()) == (200, f"tenant-{right}")
            else:
                assert (got.status_code, got.json()["code"]) == (403, "forbidden")


def test_a_bearer_token_is_a_key_as_well(client: TestClient, key: Callable[..., str]) -> None:
    text = key("read")
    assert client.get("/read", headers={"authorization": f"Bearer {text}"}).status_code == 200
    assert client.get("/read", headers={"authorization": f"Basic {text}"}).status_code == 401


@pytest.mark.parametrize("given", [None, "", "nonsense", "bm_x_y", "é", "a" * 10_000, "' OR 1=1"])
def test_without_a_known_key_nothing_is_open(client: TestClient, given: str | None) -> None:
    headers = {} if given is None else {"x-api-key": given.encode()}
    for right in RIGHTS:
        got = client.get(f"/{right}", headers=headers)
        assert (got.status_code, got.json()["code"]) == (401, "unauthorized")
        assert got.headers["www-authenticate"] == "Bearer"


def test_a_revoked_key_is_refused(
    client: TestClient, keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys._CHECK_SECONDS", 0)
    made, text = keys.create("t", ["read"])
    assert client.get("/read", headers={"x-api-key": text}).status_code == 200
    keys.revoke(made.id)
    assert client.get("/read", headers={"x-api-key": text}).status_code == 401


def test_a_request_id_comes_back_and_a_wrong_one_is_replaced(client: TestClient) -> None:
    assert client.get("/read", headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"
    got = client.get("/read", headers={"x-request-id": "<script>"})
    made = got.headers["x-request-id"]
    assert made != "<script>"
    assert got.json()["request_id"] == made


def test_a_failure_in_the_server_says_nothing_of_it(client: TestClient) -> None:
    got = client.get("/fails")
    assert got.status_code == 500
    assert "secret" not in got.text
    assert got.json()["request_id"] == got.headers["x-request-id"]


def test_an_unknown_path_or_method_has_the_same_shape(client: TestClient) -> None:
    for got in (client.get("/nothing"), client.delete("/healthz")):
        assert got.headers["content-type"] == "application/json"
        assert got.json()["code"] in ("not_found", "method_not_allowed")


def test_a_key_beyond_its_rate_waits_and_others_do_not(
    client: TestClient, key: Callable[..., str]
) -> None:
    slow, other = key("read", requests_rate=1.0), key("read")
    answers = [client.get("/read", headers={"x-api-key": slow}) for _ in range(4)]
    assert [got.status_code for got in answers[:2]] == [200, 200]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert client.get("/read", headers={"x-api-key": other}).status_code == 200


def test_a_bucket_fills_with_its_clock_and_holds_two_seconds() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert rates.wait("k", "events", 10) == 0
    rates.draw("k", "events", 10, 60)
    assert rates.wait("k", "events", 10) == 4
    now = 4.1
    assert rates.wait("k", "events", 10) == 0
    now = 1000.0
    rates.draw("k", "events", 10, 20)
    assert rates.wait("k", "events", 10) == 1
    assert rates.wait("other", "events", 10) == 0
    assert rates.wait("k", "requests", None) == 0


def test_limits_hold_for_keys_without_their_own(keys: KeyStore, key: Callable[..., str]) -> None:
    app = create_app(Service(Settings(limits=Limits(requests_rate=1.0)), keys))
    app.add_api_route("/read", lambda: 1, dependencies=[Depends(allowed("read"))])
    with TestClient(app) as client:
        headers = {"x-api-key": key("read")}
        codes = [client.get("/read", headers=headers).status_code for _ in range(4)]
    assert codes[:2] == [200, 200]
    assert codes[-1] == 429
