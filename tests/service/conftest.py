from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.keys import KeyStore, Right
from tests.service.world import World, opened
from warehouse.client import Warehouse


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


@pytest.fixture
def key(keys: KeyStore) -> Callable[..., str]:
    """Makes a key and gives its text."""

    def make(*rights: Right, tenant: str = "default", **rates: float) -> str:
        _, text = keys.create(tenant, rights, **rates)
        keys._checked = 0.0
        return text

    return make


@pytest.fixture(scope="package")
def world(
    embedded: Warehouse, embedded_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A tenant with usage, which tests of this folder read and do not change."""
    with opened(embedded, embedded_url, tmp_path_factory.mktemp("world")) as found:
        yield found
