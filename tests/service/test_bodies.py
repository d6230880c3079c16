"""Bodies that are still on their way: they count in the room of the process, and end in time."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import uvicorn
from fastapi import APIRouter, Depends

from service import bodies, http_protocol
from service.access import Caller, allowed
from service.app import create_app
from service.bodies import Room
from service.context import Service
from service.intake import Intake
from service.json_routes import JsonRoute
from service.keys import RIGHTS, KeyStore
from service.settings import Limits, Settings
from tests.service.sites import Kept
from tests.services.process import LOCALHOST

PATHS = ("/v1/events/bulk", "/json")
"""One route that takes events, and one that takes another JSON body."""

EVENT = b'{"event_name": "call", "external_customer_id": "acme"}'
HALF = b'{"events": [' + b" " * 300


@dataclass
class Running:
    """A server in this loop, with room for 1,000 bytes."""

    port: int
    key: str
    service: Service
    senders: list[Sender] = field(default_factory=list)

    async def send(
        self,
        path: str,
        size: int,
        begin: bytes,
        *,
        key: str | None = None,
        encoding: str = "identity",
    ) -> Sender:
        """Begin a request with a body of a size, of which only the beginning is sent."""
        sender = Sender(*await asyncio.open_connection(LOCALHOST, self.port))
        self.senders.append(sender)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key or self.key}\r\n"
            f"content-type: application/json\r\ncontent-encoding: {encoding}\r\n"
            f"content-length: {size}\r\n\r\n"
        )
        sender.writer.write(head.encode() + begin)
        await sender.writer.drain()
        return sender

    async def held(self, size: int) -> None:
        """Wait until so many bytes are held."""
        async with asyncio.timeout(20):
            while self.service.room.held != size:
                await asyncio.sleep(0.01)


@dataclass
class Sender:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def status(self) -> int:
        """That of the answer."""
        async with asyncio.timeout(20):
            return int((await self.reader.readline()).split()[1])

    async def ended(self) -> bool:
        """Whether the server closes the connection."""
        async with asyncio.timeout(20):
            await self.reader.read()
            return True


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Running]:
    keys, limits = KeyStore(folder / "keys.json"), Limits()
    _, key = keys.create("default", RIGHTS)
    service = Service(Settings(limits=limits), keys, intake=Intake(Kept(), limits))
    service.room = Room(1000)
    app = create_app(service)
    router = APIRouter(route_class=JsonRoute)

    @router.post("/json")
    async def take(caller: Annotated[Caller, Depends(allowed("read"))]) -> dict[str, str]:
        return {"tenant": caller.tenant}

    app.include_router(router)
    config = uvicorn.Config(
        app, port=0, http=http_protocol.BoundedProtocol, ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    made = Running(port, key, service)
    try:
        yield made
    finally:
        for sender in made.senders:
            sender.writer.close()
            with suppress(OSError):
                await sender.writer.wait_closed()
        server.should_exit = True
        await task


def run(folder: Path, check: Callable[[Running], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with running(folder) as here:
            await check(here)

    asyncio.run(whole())


@pytest.mark.parametrize("path", PATHS)
def test_bodies_on_their_way_are_bound_together(tmp_path: Path, path: str) -> None:
    async def check(here: Running) -> None:
        slow = [await here.send(path, 500, HALF) for _ in range(3)]
        await here.held(3 * len(HALF))
        one_more = await here.send(path, 500, HALF)
        assert await one_more.status() == 503
        assert here.service.room.held == 3 * len(HALF)
        # Who gives up gives the room back.
        slow[0].writer.close()
        await here.held(2 * len(HALF))
        another = await here.send(path, 500, HALF)
        await here.held(3 * len(HALF))
        for sender in (*slow[1:], another):
            rest = b"]}"
            sender.writer.write(b" " * (500 - len(HALF) - len(rest)) + rest)
        # Whole bodies wait for nothing more; those that found no room may come again.
        answers = [await sender.status() for sender in (*slow[1:], another)]
        assert all(answer in (200, 202, 503) for answer in answers)
        assert answers.count(503) <= 1
        await here.held(0)

    run(tmp_path, check)


def test_what_is_unpacked_is_bound_with_the_others(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.send("/json", 500, HALF)
        await here.held(len(HALF))
        small = gzip.compress(b"[" + b" " * 900 + b"]")
        assert len(small) < 100
        sender = await here.send("/v1/events", len(small), small, encoding="gzip")
        assert await sender.status() == 503
        assert here.service.room.held == len(HALF)

    run(tmp_path, check)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_does_not_come_to_its_end_is_late(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "SECONDS", 0.3)

    async def check(here: Running) -> None:
        slow = await here.send(path, 500, HALF)
        assert await slow.status() == 408
        assert await slow.ended()
        assert here.service.room.held == 0

    run(tmp_path, check)


def test_a_slow_body_that_nobody_reads_does_not_keep_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.3)

    async def check(here: Running) -> None:
        for path, key, status in (
            ("/v1/events", "of nobody", 401),
            ("/json", "of nobody", 401),
            ("/of-nothing", here.key, 404),
        ):
            slow = await here.send(path, 500, b"{", key=key)
            assert await slow.status() == status
            assert here.service.room.held == 0
            ended = asyncio.create_task(slow.ended())
            # It would never fall silent, and so never be idle.
            while not ended.done():
                slow.writer.write(b" ")
                await asyncio.sleep(0.05)
            assert slow.writer.transport.is_closing() or await ended

    run(tmp_path, check)


def test_a_body_in_time_is_answered_and_the_connection_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.5)

    async def check(here: Running) -> None:
        sender = await here.send("/v1/events", len(EVENT), EVENT[:10])
        await here.held(10)
        sender.writer.write(EVENT[10:])
        assert await sender.status() == 202
        await here.held(0)
        # The time of a body that has come does not run on.
        await asyncio.sleep(1)
        head = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        sender.writer.write(head)
        async with asyncio.timeout(20):
            assert b"HTTP/1.1 200" in await sender.reader.read()

    run(tmp_path, check)
