"""`beammeter serve` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx2

from service.keys import RIGHTS, KeyStore
from tests.cli import ROOT
from tests.services.process import LOCALHOST, Process, free_port

CATALOG = """
meters:
  - {id: calls, event_name: api_call, aggregation: count, group_by: [region]}
customers:
  - {id: acme, time_zone: Europe/Berlin, currency: EUR}
plans:
  - {id: pro, currency: EUR, charges: []}
subscriptions:
  - {id: sub_acme, customer: acme, plan: pro, start: "2025-10-01T00:00:00+02:00"}
"""


class Server:
    """A server in a folder with a catalog and a key; `options` go to the command."""

    def __init__(self, folder: Path, *options: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://{LOCALHOST}:{self.port}"
        self.catalog = folder / "catalog.yaml"
        self.catalog.write_text(CATALOG, encoding="utf-8")
        _, self.key = KeyStore(folder / "keys.json").create("default", RIGHTS)
        given = ["--keys", folder / "keys.json", "--port", self.port, *options]
        command = [sys.executable, "-m", "runners.cli", "serve", *map(str, given)]
        self.process = Process("serve", command, folder / "serve.log", {"PYTHONPATH": str(ROOT)})

    def start(self) -> None:
        self.process.start(self._answers, 120)

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=5).status_code == 200
        except httpx2.TransportError:
            return False

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"x-api-key": self.key}, timeout=30)

    def end(self) -> int:
        """SIGTERM; gives the exit code."""
        running = self.process._running
        assert running is not None
        os.killpg(running.pid, signal.SIGTERM)
        return running.wait(60)

    def log(self) -> str:
        return (self.folder / "serve.log").read_text("utf-8", "replace")


def events(prefix: str, first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"{prefix}-{number}",
            "event_name": "api_call",
            "external_customer_id": "acme",
            "properties": {"region": "eu"},
        }
        for number in range(first, first + count)
    ]


def post(client: httpx2.Client, body: list[dict[str, Any]]) -> httpx2.Response:
    """A bulk."""
    headers = {"content-type": "application/json"}
    return client.post("/v1/events/bulk", content=json.dumps(body), headers=headers)
