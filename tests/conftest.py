"""What all tests share: one embedded warehouse, and a tenant of its own for each test.

chDB has one folder in a process, and a pipeline that ran in this process may still
hold it, so every test of a process takes the same folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from warehouse.client import Warehouse

# The machine is shared: how long one example takes says nothing.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


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
