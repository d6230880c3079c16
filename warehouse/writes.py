"""Idempotent writes: every row has a key, and a row written twice counts once.

Arrow tables go in as they are; the tenant and what the warehouse itself knows (when
a row was written) is added here. All functions may be repeated after a failure.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from warehouse.client import Warehouse

INSTANT = pa.timestamp("us", "UTC")


def insert_events(warehouse: Warehouse, events: pa.Table | pa.RecordBatch) -> None:
    """Stores copies of raw events (columns of `meters.event.EVENT_SCHEMA`).

    Of copies with the same content the one with the smallest `ingested_at` stays.
    """
    table = _table(events)
    for name in ("external_subscription_id", "source"):
        position = table.schema.get_field_index(name)
        if table.column(position).null_count:
            filled = pc.fill_null(_decoded(table.column(position)), "")
            table = table.set_column(position, name, filled)
    warehouse.insert("events", table)


def insert_touched(
    warehouse: Warehouse, tenant: str, run_id: str, identities: pa.Table | pa.RecordBatch
) -> None:
    """Notes which identities a run has read.

    `identities` has `external_customer_id`, `identity_hash` and `timestamp`.
    """
    table = _table(identities).select(["external_customer_id", "identity_hash", "timestamp"])
    warehouse.insert("touched", with_constants(table, tenant_id=tenant, run_id=run_id))


def insert_usage(warehouse: Warehouse, tenant: str, rows: pa.Table | pa.RecordBatch) -> None:
    """Stores usage rows (all columns of `usage` but `tenant_id` and `updated_at`).

    The row with the highest (revision, events) of a key wins, whatever the order of
    writes; `events` 0 is a tombstone.
    """
    warehouse.insert("usage", _stamped(rows, "updated_at", tenant_id=tenant))


def insert_usage_values(warehouse: Warehouse, tenant: str, rows: pa.Table | pa.RecordBatch) -> None:
    """Stores distinct values of usage rows: the key, `revision` and `value_hash`.

    A value belongs to the usage row of the same key and revision. Values are written
    before their row, so that no row is ever seen without them.
    """
    warehouse.insert("usage_values", with_constants(_table(rows), tenant_id=tenant))


def insert_quarantine(warehouse: Warehouse, rows: pa.Table | pa.RecordBatch) -> None:
    """Stores what was refused (columns of `meters.event.QUARANTINE_SCHEMA`)."""
    warehouse.insert("quarantine", _stamped(rows, "quarantined_at"))


def insert_catalog(warehouse: Warehouse, tenant: str, catalog_hash: str, content: str) -> bool:
    """Keeps a catalog that is used; False where it is kept already."""
    key = {"tenant": tenant, "hash": catalog_hash}
    if warehouse.query_rows(
        "SELECT 1 FROM catalogs WHERE tenant_id = {tenant:String} AND catalog_hash = {hash:String} "
        "LIMIT 1",
        key,
    ):
        return False
    row = pa.table({"catalog_hash": [catalog_hash], "content": [content]})
    warehouse.insert("catalogs", _stamped(row, "loaded_at", tenant_id=tenant))
    return True


def _table(rows: pa.Table | pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def _stamped(rows: pa.Table | pa.RecordBatch, name: str, **constants: str) -> pa.Table:
    return with_constants(with_time(_table(rows), name), **constants)


def with_time(table: pa.Table, name: str) -> pa.Table:
    """`table` with the time of now as another column."""
    now = pa.scalar(datetime.now(UTC), INSTANT)
    return table.append_column(name, pa.repeat(now, table.num_rows))


def with_constants(table: pa.Table, **constants: str) -> pa.Table:
    """`table` with columns of one text each."""
    for name, value in constants.items():
        codes = pa.repeat(pa.scalar(0, pa.int32()), table.num_rows)
        column = pa.DictionaryArray.from_arrays(codes, pa.array([value], pa.string()))
        table = table.append_column(name, column)
    return table
