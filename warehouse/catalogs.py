"""The catalogs of a tenant in time: which one meters the hours from an instant on.

    catalogs          by hash: what they say
    catalog_versions  by instant: which one takes effect; the last one announced for it

The first version of a tenant holds since ever. A tenant without any has the catalog that
each command is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from meters.zones import from_microseconds, microseconds
from warehouse.client import Warehouse
from warehouse.parameters import Value
from warehouse.writes import insert_catalog

_VERSIONS = """
SELECT effective_at, toString(v.catalog_hash) AS hash, content, announced_at
FROM (SELECT * FROM catalog_versions FINAL WHERE tenant_id = {tenant:String}) AS v
INNER JOIN (SELECT * FROM catalogs FINAL WHERE tenant_id = {tenant:String}) AS c
    ON v.catalog_hash = c.catalog_hash
ORDER BY effective_at
"""

_NEWEST = """
SELECT count() AS versions, max(announced_at) AS announced FROM catalog_versions
WHERE tenant_id = {tenant:String}
"""

_REACHED = """
SELECT max(least(timestamp, ingested_at)) AS at, count() AS events FROM events
WHERE tenant_id = {tenant:String}
"""


@dataclass(frozen=True)
class Version:
    """A catalog and from when on it meters; times are microseconds, UTC.

    `at` of the first version is 0, and stands for ever before.
    """

    at: int
    hash: str
    content: str
    announced_at: int


def read_versions(warehouse: Warehouse, tenant: str) -> list[Version]:
    """All versions in the order in which they take effect."""
    return [
        Version(
            at=microseconds(row["effective_at"]),
            hash=row["hash"],
            content=row["content"],
            announced_at=microseconds(row["announced_at"]),
        )
        for row in warehouse.query_arrow(_VERSIONS, {"tenant": tenant}).to_pylist()
    ]


def last_announced(warehouse: Warehouse, tenant: str) -> tuple[int, int]:
    """Something that changes whenever a version is announced, and costs little to read."""
    [row] = warehouse.query_arrow(_NEWEST, {"tenant": tenant}).to_pylist()
    return int(row["versions"]), microseconds(row["announced"])


def announce(warehouse: Warehouse, tenant: str, at: int, catalog_hash: str, content: str) -> None:
    """Keep a catalog and that it takes effect at `at` (microseconds).

    Another one that was announced for the same instant gives way. To be called under
    `warehouse.leases.exclusive`.
    """
    insert_catalog(warehouse, tenant, catalog_hash, content)
    row: dict[str, Value] = {
        "tenant_id": tenant,
        "effective_at": from_microseconds(at),
        "catalog_hash": catalog_hash,
        "announced_at": datetime.now(UTC),
    }
    warehouse.insert_rows("catalog_versions", [row])


def reached(warehouse: Warehouse, tenant: str) -> int:
    """How far a watermark over all stored events can be, in microseconds; 0 without any.

    That is the greatest min(event time, time of receipt): a clock that runs ahead does
    not move it.
    """
    [row] = warehouse.query_arrow(_REACHED, {"tenant": tenant}).to_pylist()
    return microseconds(row["at"]) if row["events"] else 0
