"""A server that is asked to end does so soon, whatever its pipeline waits for; nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import ROOT
from tests.service.servers import Server, events, post
from tests.service.test_serve import await_usage
from tests.services.process import LOCALHOST

WAITS = 30.0
"""Far less than a statement may take, and more than a busy machine needs to end."""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A warehouse in a process of its own; its id and port."""
    command = [sys.executable, "-m", "tests.warehouse.http_front", str(tmp_path / "warehouse")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        yield running.pid, int(running.stdout.readline())
        running.kill()


def test_a_pipeline_that_waits_for_the_warehouse_does_not_hold_the_server(
    front: tuple[int, int], tmp_path: Path
) -> None:
    warehouse, port = front
    url = f"clickhouse://default@{LOCALHOST}:{port}/stopped"
    server = Server(tmp_path, "--clickhouse", url, "--spool", tmp_path / "spool")
    server.process._command += ["--catalog", str(server.catalog)]
    server.start()
    with server.client() as client:
        assert post(client, events("before", 0, 100)).status_code == 202
        await_usage(server, {"eu": 100})
        os.kill(warehouse, signal.SIGSTOP)
        try:
            assert post(client, events("meanwhile", 0, 100)).status_code == 202
            # By now the pipeline waits for an answer, as it does while it loads a large warehouse.
            time.sleep(2)
            began = time.monotonic()
            assert server.end() == 0
            assert time.monotonic() - began < WAITS
        finally:
            os.kill(warehouse, signal.SIGCONT)
    assert "the pipeline was not done in time" in server.log()
    assert "Traceback" not in server.log()
    server.start()
    await_usage(server, {"eu": 200})
    assert server.end() == 0
    assert server.log().count("the pipeline was not done in time") == 1
