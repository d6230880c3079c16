"""Which stored events a run must look at again.

A backfill or repair that has stored new copies of some identities recomputes the
buckets that these touch, from all raw events:

    touched identities   those of the run (`writes.insert_touched`)
    touched hours        of each stored copy of a touched identity, wherever it came
                         from: its UTC hour, the one before and the one after. A bucket
                         is at most a local hour, so it lies within these three.
    affected events      all stored copies of every identity with at least one copy in
                         a touched hour of its customer; with them the buckets of these
                         hours can be computed, and no copy that could count is missing

`identity_hash` is only compared within one customer. Work is cut into shards by
`identity_hash` (its first 8 bytes, little-endian, modulo the number of shards), which
bounds the memory of each step.

    insert_touched ... -> mark_touched_hours -> affected_events(shard) ... -> drop_touched
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from meters.errors import WarehouseError
from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list

_OF_RUN = "tenant_id = {tenant:String} AND run_id = {run:String}"
_OF_SHARD = "reinterpretAsUInt64(identity_hash) % {shards:UInt32} = {shard:UInt32}"
EVENT_COLUMNS = (
    "tenant_id, event_id, event_name, external_customer_id, "
    "nullIf(toString(external_subscription_id), '') AS external_subscription_id, "
    "timestamp, ingested_at, nullIf(toString(source), '') AS source, properties, "
    "origin, origin_row, identity_hash, content_hash"
)

_COPIES_OF_TOUCHED = f"""
    FROM events
    WHERE tenant_id = {{tenant:String}} AND {_OF_SHARD}
        AND (external_customer_id, identity_hash) IN (
            SELECT external_customer_id, identity_hash FROM touched WHERE {_OF_RUN} AND {_OF_SHARD}
        )
"""

_MARK = f"""
INSERT INTO touched_hours (tenant_id, run_id, external_customer_id, hour)
SELECT {{tenant:String}}, {{run:String}}, external_customer_id,
    arrayJoin([hour - INTERVAL 1 HOUR, hour, hour + INTERVAL 1 HOUR])
FROM (
    SELECT DISTINCT external_customer_id, toDateTime(toStartOfHour(timestamp), 'UTC') AS hour
    {_COPIES_OF_TOUCHED}
)
"""

# Conditions on columns of the sorting key may go before FINAL's merge: all rows that
# replace each other share them.
_AFFECTED = f"""
SELECT {EVENT_COLUMNS}
FROM events FINAL
PREWHERE tenant_id = {{tenant:String}} AND {_OF_SHARD}
    AND (external_customer_id, identity_hash) IN (
        SELECT external_customer_id, identity_hash
        FROM events
        WHERE tenant_id = {{tenant:String}} AND {_OF_SHARD}
            AND (external_customer_id, toDateTime(toStartOfHour(timestamp), 'UTC')) IN (
                SELECT external_customer_id, hour FROM touched_hours WHERE {_OF_RUN}
            )
    )
"""

_COPIES = f"""
SELECT {EVENT_COLUMNS}
FROM events FINAL
PREWHERE tenant_id = {{tenant:String}} AND external_customer_id IN (
        SELECT arrayJoin(JSONExtract({{customers:String}}, 'Array(String)'))
    )
    AND (external_customer_id, identity_hash) IN (
        SELECT pair.1, toFixedString(unhex(pair.2), 16)
        FROM (
            SELECT arrayJoin(JSONExtract({{pairs:String}}, 'Array(Tuple(String, String))')) AS pair
        )
    )
"""


def events_exist(warehouse: Warehouse, tenant: str) -> bool:
    """Whether the tenant has any raw event."""
    found = warehouse.query_rows(
        "SELECT 1 FROM events WHERE tenant_id = {tenant:String} LIMIT 1", {"tenant": tenant}
    )
    return bool(found)


def copies_of(
    warehouse: Warehouse, tenant: str, identities: Sequence[tuple[str, bytes]]
) -> pa.Table:
    """All stored copies of the given (customer, identity hash) pairs, one for each content.

    Columns are those of `affected_events`.
    """
    pairs = sorted({(customer, identity.hex()) for customer, identity in identities})
    tables = [
        warehouse.query_arrow(
            _COPIES,
            {
                "tenant": tenant,
                "customers": json_list(sorted({customer for customer, _ in piece})),
                "pairs": json_list(piece),
            },
        )
        for piece in list(chunks(pairs, warehouse.parameter_bytes)) or [[]]
    ]
    return pa.concat_tables(tables)


def mark_touched_hours(warehouse: Warehouse, tenant: str, run_id: str, shards: int) -> None:
    """Finds the touched hours of a run whose events and identities are all stored.

    To be called once, before `affected_events`; calling it again changes nothing.
    """
    for shard in range(shards):
        warehouse.command(
            _MARK, {"tenant": tenant, "run": run_id, "shards": shards, "shard": shard}
        )


def affected_events(
    warehouse: Warehouse, tenant: str, run_id: str, shard: int, shards: int
) -> Iterator[pa.RecordBatch]:
    """The affected events of one shard, one row for each identity and content.

    All columns of an event; `ingested_at` and `origin` are those of the
    copy that arrived first. Raises WarehouseError where `mark_touched_hours` was not
    called for the run.
    """
    run: dict[str, Value] = {"tenant": tenant, "run": run_id}
    if not _any(warehouse, f"SELECT 1 FROM touched_hours WHERE {_OF_RUN} LIMIT 1", run):
        if _any(warehouse, f"SELECT 1 FROM touched WHERE {_OF_RUN} LIMIT 1", run):
            raise WarehouseError(f"mark_touched_hours must be called first (run {run_id!r})")
        return iter(())
    return warehouse.iter_arrow(_AFFECTED, {**run, "shards": shards, "shard": shard})


def touched_times(warehouse: Warehouse, tenant: str, run_id: str, shards: int = 1) -> pa.Table:
    """`external_customer_id` and `timestamp` of all stored copies of touched identities."""
    sql = f"SELECT DISTINCT external_customer_id, timestamp {_COPIES_OF_TOUCHED}"
    run: dict[str, Value] = {"tenant": tenant, "run": run_id, "shards": shards}
    tables = [warehouse.query_arrow(sql, {**run, "shard": shard}) for shard in range(shards)]
    return pa.concat_tables(tables)


def drop_touched(warehouse: Warehouse, tenant: str, run_id: str) -> None:
    """Forgets what was noted for a run; what a killed run leaves expires after 7 days."""
    for table in ("touched", "touched_hours"):
        warehouse.command(
            f"ALTER TABLE {table} DROP PARTITION ({{tenant:String}}, {{run:String}})",
            {"tenant": tenant, "run": run_id},
        )


def _any(warehouse: Warehouse, sql: str, parameters: dict[str, Value]) -> bool:
    return bool(warehouse.query_rows(sql, parameters))
