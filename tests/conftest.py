"""What all tests share: one embedded warehouse, and a tenant of its own for each test.

chDB has one folder in a process, and a pipeline that ran in this process may still
hold it, so every test of a process takes the same folder. The real services start once in a
process, when the first test asks for one; what a test kills, it starts again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.services import prism as prism_program
from tests.services.fetch import Unavailable
from tests.services.flink import JobServer
from tests.services.kafka import Kafka
from tests.services.postgres import Postgres
from warehouse.client import Warehouse

Service = TypeVar("Service")

# The machine is shared: how long one example takes says nothing.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What mostly waits for real services comes first, so that the others run beside it.

    Quick tests come next: a worker gets a twelfth of all at once, the first one with all of
    the services' tests.
    """
    quick = {"streaming": 0, "meters": 1}
    items.sort(key=lambda item: min(quick.get(part, 2) for part in item.path.parts))


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of the embedded warehouse of this process."""
    return f"chdb://{tmp_path_factory.mktemp('embedded')}"


@pytest.fixture(scope="session")
def embedded(embedded_url: str) -> Iterator[Warehouse]:
    """The embedded warehouse of this process."""
    with Warehouse.connect(embedded_url) as opened:
        yield opened


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test has."""
    return f"tenant-{uuid.uuid4().hex}"


def or_skip(get: Callable[[], Service]) -> Service:
    """What `get` returns; what cannot be had skips the test, or fails it where all must run."""
    try:
        return get()
    except Unavailable as error:
        if os.environ.get("BEAMMETER_REQUIRE_SERVICES") == "1":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real Kafka broker."""
    broker = Kafka()
    or_skip(broker.start)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def prism() -> Path:
    """The program `prism`, Beam's own portable runner."""
    return or_skip(prism_program.path)


@pytest.fixture(scope="session")
def flink_job_server() -> Iterator[JobServer]:
    """Beam's job server with an embedded Flink for every job. Cancelled jobs run on: for a
    streaming job start a server of its own.
    """
    server = JobServer()
    or_skip(server.start)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL server."""
    server = Postgres()
    try:
        or_skip(server.start)
        yield server
    finally:
        server.stop()
