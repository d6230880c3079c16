"""What the stream leaves in a warehouse: raw rows, their marks, and its progress.

    python -m tests.acceptance.stand_in URL CATALOG EVENTS CLOSED_UNTIL

stores the events of a JSON Lines file and marks them dirty as late ones; the stream
owns what ends after CLOSED_UNTIL, or nothing where that is empty.
"""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path

from meters.catalog_file import load_catalog
from tests.pipelines.runs import Tenant
from warehouse.client import Warehouse


def main(url: str, catalog: str, events: str, closed_until: str) -> None:
    """Write all of it."""
    lines = Path(events).read_text("utf-8").splitlines()
    with Warehouse.connect(url) as warehouse:
        tenant = Tenant(warehouse, url, "default", load_catalog(catalog), Path(events).parent)
        tenant.mark(tenant.store([json.loads(line, parse_float=Decimal) for line in lines]))
        if closed_until:
            tenant.own(closed_until)


if __name__ == "__main__":
    main(*sys.argv[1:])
