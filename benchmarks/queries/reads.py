"""A server that only reads: what `beammeter serve` runs, without a pipeline.

python -m benchmarks.queries.reads FOLDER PORT

The rows of this benchmark have no raw events, which a pipeline would put right.
"""

from __future__ import annotations

import sys
from pathlib import Path

from meters.catalog_file import load_catalog
from runners.output import notice
from service.app import create_app
from service.context import Service
from service.keys import KeyStore
from service.server import serve
from service.settings import Settings
from warehouse.client import Warehouse

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with Warehouse.connect(f"chdb://{folder / 'data'}") as warehouse:
        settings = Settings(port=int(sys.argv[2]))
        catalog = load_catalog(folder / "catalog.yaml")
        service = Service(settings, KeyStore(folder / "keys.json"), catalog, warehouse)
        serve(create_app(service), settings, notice)
