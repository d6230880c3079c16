"""Abuse: of headers, paths and bodies, by hand and by schemathesis over the OpenAPI file."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from service import http_protocol
from service.app import create_app
from service.context import Service
from service.event_formats import single
from service.intake import Intake, Taken
from service.keys import KeyStore
from service.settings import Limits, Settings
from tests.service.servers import Server
from tests.service.sites import Kept, Site, site
from tests.service.world import World

ROUTES = ("/v1/events", "/v1/events/bulk", "/api/v1/events", "/api/v1/events/batch")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as found:
        yield found


def test_no_route_takes_events_without_a_key_or_with_too_few_rights(here: Site) -> None:
    _, reader = here.keys.create("default", ["read"])
    here.keys._checked = 0.0
    for path in ROUTES:
        for word, status in (("", 401), ("bm_1_2", 401), (reader, 403)):
            got = here.post(path, b"[" * 10, x_api_key=word)
            assert got.status_code == status, path
            assert word == "" or word not in got.text
    assert not here.events


@pytest.mark.parametrize(
    "path",
    [
        "/v1//events",
        "/v1/events/",
        "/v1/events%00",
        "/V1/EVENTS",
        "/v1/events;a=b",
        "/" + "a" * 8000,
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_odd_paths_are_no_routes(here: Site, path: str) -> None:
    got = here.post(path, {"event_name": "a", "external_customer_id": "c"})
    assert got.status_code in (404, 405), got.status_code
    assert "/etc" not in got.text
    assert not here.events


def test_a_parameter_in_the_query_changes_no_tenant(here: Site) -> None:
    got = here.post("/v1/events?tenant=other", {"event_name": "a", "external_customer_id": "c"})
    assert got.status_code == 202
    assert here.sink.records[0][0] == b"default/c"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    made = Server(folder, "--clickhouse", f"chdb://{folder / 'data'}", "--spool", folder / "spool")
    made.process._command += ["--catalog", str(made.catalog)]
    made.start()
    yield made
    made.process.kill()


def answer_to(server: Server, *parts: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        try:
            for part in parts:
                link.sendall(part)
            return link.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return b""


def test_a_head_without_end_is_cut_off(server: Server) -> None:
    endless = (b"x" * 16_000 for _ in range(100))
    got = answer_to(server, b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: ", *endless)
    assert got == b"" or got.startswith(b"HTTP/1.1 431")
    assert http_protocol.MOST_HEAD < 16_000 * 100
    many = b"".join(b"x-%d: y\r\n" % number for number in range(20_000))
    got = answer_to(server, b"GET /healthz HTTP/1.1\r\nhost: a\r\n", many)
    assert got == b"" or got.startswith(b"HTTP/1.1 431")
    assert server.process.alive()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nhost: a\r\n"
        b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
    ],
)
def test_broken_http_is_refused_and_the_server_lives(server: Server, raw: bytes) -> None:
    got = answer_to(server, raw)
    assert not got.startswith(b"HTTP/1.1 2")
    assert b"Traceback" not in got
    assert answer_to(server, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )


def test_a_connection_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    import uvicorn

    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)

    async def silent() -> bytes:
        async def app(scope: object, receive: object, send: object) -> None:
            raise AssertionError("no request came")

        config = uvicorn.Config(
            app, http=http_protocol.BoundedProtocol, ws="none", lifespan="off", log_config=None
        )
        with socket.create_server(("127.0.0.1", 0)) as bound:
            one = uvicorn.Server(config)
            task = asyncio.create_task(one._serve(sockets=[bound]))
            while not one.started:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection(*bound.getsockname())
            writer.write(b"GET /slow HTTP/1.1\r\nx:")
            began = time.monotonic()
            found = await reader.read()
            assert time.monotonic() - began < 20
            writer.close()
            one.should_exit = True
            await task
            return found

    assert asyncio.run(silent()) == b""


def _open_app() -> tuple[object, str]:
    import tempfile

    keys = KeyStore(Path(tempfile.mkdtemp(prefix="beammeter-keys-")) / "keys.json")
    _, text = keys.create("default", ["write"])
    limits = Limits()
    service = Service(Settings(limits=limits), keys, intake=Intake(Kept(), limits))
    return create_app(service), text


@schemathesis.serializer("application/x-ndjson")
def as_lines(_context: object, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


APP, KEY = _open_app()
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schema.include(path_regex="events").parametrize()
@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_comes_is_answered_as_the_openapi_file_says(case: schemathesis.Case) -> None:
    response = case.call(headers={"x-api-key": KEY})
    assert response.status_code < 500, response.text
    documented = case.operation.definition.raw["responses"]
    if case.method != "POST":
        documented = {"405": None}
    assert str(response.status_code) in documented, response.text


def test_whatever_is_asked_is_answered_or_refused_with_what_is_wrong(world: World) -> None:
    served = schemathesis.openapi.from_asgi("/openapi.json", world.client.app)
    operations = [each.ok() for each in served.include(path_regex="^/v1/").get_all_operations()]
    assert len(operations) > 15

    def answers(case: schemathesis.Case) -> None:
        response = case.call(headers={"x-api-key": world.key_for_everything})
        if response.status_code < 400:
            return
        found = response.json()
        assert response.status_code < 500 or found["code"] == "no_replay", response.text
        assert found["status"] == response.status_code
        assert found["detail"]
        if response.status_code in (400, 422):
            assert all(fault["expected"] for fault in found["errors"])

    few = settings(
        max_examples=8,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for operation in operations:
        few(given(operation.as_strategy())(answers))()


def test_a_request_that_is_given_up_does_not_fail_those_beside_it() -> None:
    async def both() -> Taken:
        intake = Intake(Kept(), Limits())
        await intake.start()
        given_up = asyncio.create_task(intake.take("a", single(b"{}")))
        event = b'{"event_name":"call","external_customer_id":"acme"}'
        beside = asyncio.create_task(intake.take("a", single(event)))
        await asyncio.sleep(0)
        given_up.cancel()
        try:
            return await beside
        finally:
            await intake.close()

    assert asyncio.run(both()).accepted == 1
