from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.keys import KeyStore, Right


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
