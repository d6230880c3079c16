"""Folders to work in, and the catalog that most tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cli import Site


@pytest.fixture
def new_site(tmp_path) -> Callable[..., Site]:
    """Makes a fresh folder with this catalog: `new_site(catalog, name="a")`."""

    def make(catalog: dict[str, Any], name: str = "site", **more: Any) -> Site:
        return Site(tmp_path / name, catalog, **more)

    return make


@pytest.fixture(scope="module")
def module_site(tmp_path_factory) -> Callable[..., Site]:
    """The same for a whole module, where one run serves many claims."""

    def make(catalog: dict[str, Any], name: str = "site", **more: Any) -> Site:
        return Site(tmp_path_factory.mktemp(name), catalog, **more)

    return make
