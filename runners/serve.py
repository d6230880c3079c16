"""`beammeter serve`: the HTTP service in this process, until it is stopped."""

from __future__ import annotations

from pathlib import Path

from meters.catalog_file import load_catalog
from runners.cli_options import catalog_path
from runners.commands import Url, open_warehouse, remember
from runners.output import notice
from service.app import create_app
from service.context import Service
from service.keys import RIGHTS, KeyStore, write_private
from service.server import serve
from service.settings import Settings


def run_serve(
    path: str | None, url: Url, key_file: Path, *, host: str, port: int, tenant: str
) -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = Settings(host=host, port=port, tenant=tenant)
    catalog = load_catalog(catalog_path(path))
    keys = KeyStore(key_file)
    keys.all()
    with open_warehouse(url) as warehouse:
        remember(warehouse, tenant, catalog)
        first_key(keys, tenant)
        service = Service(settings, keys, catalog, warehouse)
        serve(create_app(service), settings, notice)


def first_key(keys: KeyStore, tenant: str) -> None:
    """Make a key where there is none, and keep it in a file that only its owner can read."""
    if keys.all():
        return
    _, text = keys.create(tenant, RIGHTS, label="made at the first start")
    place = keys.path.with_name(f"{keys.path.name}.first")
    write_private(place, f"{text}\n".encode())
    notice(f"made a first API key with all rights: {place}")
