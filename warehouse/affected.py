"""The stored events that a run must look at again.

A backfill or repair recomputes whole hours (`warehouse.touched`) from all raw events:

    affected events      all stored copies of every identity with at least one copy in
                         a touched hour of its customer; with them the buckets of these
                         hours can be computed, and no copy that could count is missing
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from meters.errors import WarehouseError
from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list
from warehouse.touched import OF_CUSTOMERS, OF_RUN, OF_SHARD

EVENT_COLUMNS = (
    "tenant_id, event_id, event_name, external_customer_id, "
    "nullIf(toString(external_subscription_id), '') AS external_subscription_id, "
    "timestamp, ingested_at, nullIf(toString(source), '') AS source, properties, "
    "origin, origin_row, identity_hash, content_hash"
)

_OF_HOURS = f"""
    tenant_id = {{tenant:String}}
        AND (external_customer_id, toDateTime(toStartOfHour(timestamp), 'UTC')) IN (
            SELECT external_customer_id, toDateTime(toStartOfHour(arrayJoin(
                [hour, subtractMicroseconds(hour_end, 1)]
            )), 'UTC')
            FROM touched_hours FINAL WHERE {OF_RUN} AND owned = 0
        )
"""

# Conditions on columns of the sorting key may go before FINAL's merge: all rows that
# replace each other share them.
_AFFECTED = f"""
SELECT {EVENT_COLUMNS}
FROM events FINAL
PREWHERE tenant_id = {{tenant:String}} AND {OF_SHARD}
    AND (external_customer_id, identity_hash) IN (
        SELECT external_customer_id, identity_hash FROM events WHERE {OF_SHARD} AND {_OF_HOURS}
    )
"""

_COPIES = f"""
SELECT {EVENT_COLUMNS}
FROM events FINAL
PREWHERE tenant_id = {{tenant:String}} AND {OF_CUSTOMERS}
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


def affected_count(warehouse: Warehouse, tenant: str, run_id: str) -> int:
    """About how many events are affected: those in the touched hours."""
    [row] = warehouse.query_rows(
        f"SELECT count() AS rows FROM events WHERE {_OF_HOURS}", {"tenant": tenant, "run": run_id}
    )
    return int(str(row["rows"]))


def affected_events(
    warehouse: Warehouse, tenant: str, run_id: str, shard: int, shards: int
) -> Iterator[pa.RecordBatch]:
    """The affected events of one shard, one row for each identity and content.

    All columns of an event; `ingested_at` and `origin` are those of the
    copy that arrived first. Raises WarehouseError where `mark_touched_hours` was not
    called for the run.
    """
    run: dict[str, Value] = {"tenant": tenant, "run": run_id}
    if not _any(warehouse, f"SELECT 1 FROM touched_hours WHERE {OF_RUN} LIMIT 1", run):
        if _any(warehouse, f"SELECT 1 FROM touched WHERE {OF_RUN} LIMIT 1", run):
            raise WarehouseError(f"mark_touched_hours must be called first (run {run_id!r})")
        return iter(())
    return warehouse.iter_arrow(_AFFECTED, {**run, "shards": shards, "shard": shard})


def _any(warehouse: Warehouse, sql: str, parameters: dict[str, Value]) -> bool:
    return bool(warehouse.query_rows(sql, parameters))
