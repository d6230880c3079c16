"""A server in this process whose events go into a list."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from meters.catalog import Catalog
from service.app import create_app
from service.context import Service
from service.intake import Intake
from service.keys import RIGHTS, KeyStore
from service.settings import Limits, Settings
from service.sinks import Record, Written


class Kept:
    """A sink that keeps records in memory, and refuses or fails when told to."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.refuses: str | None = None
        self.fails: Callable[[Record], bool] = lambda _: False

    async def start(self) -> None:
        pass

    def refusal(self, count: int) -> str | None:
        return self.refuses

    def write(self, records: Sequence[Record], at: int) -> asyncio.Future[Written]:
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        failed = [place for place, record in enumerate(records) if self.fails(record)]
        self.records += [record for record in records if not self.fails(record)]
        reason = "the broker is slow" if failed else ""
        asyncio.get_running_loop().call_soon(future.set_result, Written(failed, reason))
        return future

    async def close(self) -> None:
        pass


class Site:
    """A client with a key for everything, and what the server took."""

    def __init__(self, client: TestClient, sink: Kept, keys: KeyStore, service: Service) -> None:
        self.client = client
        self.sink = sink
        self.keys = keys
        self.service = service
        _, self.key = keys.create("default", RIGHTS)
        keys._checked = 0.0

    def post(self, path: str, body: object, kind: str = "application/json", **headers: str) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"x-api-key": self.key, "content-type": kind}
        given |= {name.replace("_", "-"): text for name, text in headers.items()}
        return self.client.post(path, content=content, headers=given)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(value) for _, value in self.sink.records]


@contextmanager
def site(
    folder: Path, *, limits: Limits | None = None, catalog: Catalog | None = None
) -> Iterator[Site]:
    keys, sink = KeyStore(folder / "keys.json"), Kept()
    settings = Settings(limits=limits or Limits())
    service = Service(settings, keys, catalog, intake=Intake(sink, settings.limits))
    with TestClient(create_app(service)) as client:
        yield Site(client, sink, keys, service)
