"""The embedded warehouse of the process, and one behind HTTP, for all tests of this folder.

Tests share them and take a tenant of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from warehouse.client import Warehouse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def front_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an HTTP front with a folder of its own."""
    folder = tmp_path_factory.mktemp("front")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warehouse.http_front", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="package")
def server_url(request: pytest.FixtureRequest) -> str:
    """A real server where one is named, the front otherwise."""
    given = os.environ.get("BEAMMETER_TEST_CLICKHOUSE_URL")
    if given:
        return given
    port = request.getfixturevalue("front_port")
    return f"clickhouse://default@127.0.0.1:{port}/beammeter_test"


@pytest.fixture(scope="package", params=["embedded", "server"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture(scope="package")
def warehouse(url: str) -> Iterator[Warehouse]:
    with Warehouse.connect(url, from_environment=True) as opened:
        yield opened


@pytest.fixture(scope="package")
def unique() -> Callable[[], str]:
    """New tenants, for tests that need one for each example."""
    return lambda: f"tenant-{uuid.uuid4().hex}"
