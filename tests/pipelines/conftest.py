"""Tenants with folders of their own, in the embedded warehouse of the process."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from meters.catalog import Catalog
from tests.pipelines.runs import Tenant
from warehouse.client import Warehouse


@pytest.fixture
def new_tenant(
    embedded: Warehouse, embedded_url: str, tmp_path: Path
) -> Callable[[Catalog], Tenant]:
    """Makes a tenant with this catalog."""

    def make(catalog: Catalog) -> Tenant:
        name = uuid.uuid4().hex
        folder = tmp_path / name
        folder.mkdir()
        return Tenant(embedded, embedded_url, name, catalog, folder)

    return make
