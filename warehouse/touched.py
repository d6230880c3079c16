"""Which hours a run must recompute, as scratch tables of the run.

    touched         identities, with the times at which they were seen: what was read
                    (`writes.insert_touched`), or `touch_span`
    touched_slots   the quarter hours of these times and of every stored copy of these
                    identities, wherever it came from
    touched_hours   the whole local hours around them, with all that stored usage connects
                    (`meters.touched`), and whether the stream owns usage in them

    insert_touched ... -> mark_touched_hours -> affected_events(shard) ... -> drop_touched

`identity_hash` is only compared within one customer. Work is cut into shards by
`identity_hash` (its first 8 bytes, little-endian, modulo the number of shards) or by
customer, which bounds the memory of each step.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import polars as pl
import pyarrow as pa

from meters.catalog import Catalog
from meters.touched import CUSTOMER, HOURS, SLOT_US, odd_customers, touched_hours
from warehouse.client import Warehouse
from warehouse.ownership import Owners
from warehouse.parameters import Parameters, Value, chunks, json_list
from warehouse.queries import CustomerSpan
from warehouse.writes import with_constants

SLOTS_AT_A_TIME = 500_000

OF_RUN = "tenant_id = {tenant:String} AND run_id = {run:String}"
OF_SHARD = "reinterpretAsUInt64(identity_hash) % {shards:UInt32} = {shard:UInt32}"
OF_CUSTOMERS = (
    f"{CUSTOMER} IN (SELECT arrayJoin(JSONExtract({{customers:String}}, 'Array(String)')))"
)
_OF_RANGE = f"{CUSTOMER} >= {{first:String}} AND {CUSTOMER} <= {{last:String}}"
_OF_METERS = "meter IN (SELECT arrayJoin(JSONExtract({meters:String}, 'Array(String)')))"
_ZERO = "toFixedString('', 16)"


def _slot(column: str) -> str:
    return (
        f"fromUnixTimestamp64Micro(intDiv(toUnixTimestamp64Micro({column}), {SLOT_US}) * "
        f"{SLOT_US}, 'UTC')"
    )


_TIMES = f"""
    SELECT {CUSTOMER}, identity_hash, timestamp FROM events
    WHERE tenant_id = {{tenant:String}} AND {OF_SHARD}
        AND ({CUSTOMER}, identity_hash) IN (
            SELECT {CUSTOMER}, identity_hash FROM touched WHERE {OF_RUN} AND {OF_SHARD}
        )
    UNION ALL
    SELECT {CUSTOMER}, identity_hash, timestamp FROM touched WHERE {OF_RUN} AND {OF_SHARD}
"""

_MARK_SLOTS = f"""
INSERT INTO touched_slots (tenant_id, run_id, {CUSTOMER}, slot)
SELECT DISTINCT {{tenant:String}}, {{run:String}}, {CUSTOMER}, {_slot("timestamp")}
FROM ({_TIMES})
"""

_TOUCH_SPAN = f"""
INSERT INTO touched (tenant_id, run_id, {CUSTOMER}, identity_hash, timestamp)
SELECT {{tenant:String}}, {{run:String}}, {CUSTOMER}, identity_hash, timestamp FROM events
WHERE tenant_id = {{tenant:String}}
    AND timestamp >= {{start:DateTime64(6, 'UTC')}} AND timestamp < {{end:DateTime64(6, 'UTC')}}
    AND ({{customer:Nullable(String)}} IS NULL OR {CUSTOMER} = {{customer:Nullable(String)}})
UNION ALL
SELECT DISTINCT {{tenant:String}}, {{run:String}}, {CUSTOMER}, {_ZERO}, bucket_start
FROM usage FINAL
WHERE tenant_id = {{tenant:String}} AND events > 0
    AND bucket_end > {{start:DateTime64(6, 'UTC')}} AND bucket_start < {{end:DateTime64(6, 'UTC')}}
    AND ({{customer:Nullable(String)}} IS NULL OR {CUSTOMER} = {{customer:Nullable(String)}})
"""

_OF_SPANS = """
    INNER JOIN (
        SELECT span.1 AS customer, fromUnixTimestamp64Micro(span.2, 'UTC') AS start,
            fromUnixTimestamp64Micro(span.3, 'UTC') AS end
        FROM (
            SELECT arrayJoin(
                JSONExtract({spans:String}, 'Array(Tuple(String, Int64, Int64))')
            ) AS span
        )
    ) AS s
"""

_TOUCH_SPANS = f"""
INSERT INTO touched (tenant_id, run_id, {CUSTOMER}, identity_hash, timestamp)
SELECT {{tenant:String}}, {{run:String}}, e.{CUSTOMER}, e.identity_hash, e.timestamp
FROM (
    SELECT {CUSTOMER}, identity_hash, timestamp FROM events
    WHERE tenant_id = {{tenant:String}} AND {OF_CUSTOMERS}
        AND timestamp >= {{first:DateTime64(6, 'UTC')}}
        AND timestamp < {{last:DateTime64(6, 'UTC')}}
) AS e {_OF_SPANS} ON e.{CUSTOMER} = s.customer
WHERE e.timestamp >= s.start AND e.timestamp < s.end
UNION ALL
SELECT DISTINCT {{tenant:String}}, {{run:String}}, u.{CUSTOMER}, {_ZERO}, u.bucket_start
FROM (
    SELECT {CUSTOMER}, bucket_start, bucket_end FROM usage FINAL
    WHERE tenant_id = {{tenant:String}} AND events > 0 AND {OF_CUSTOMERS}
        AND bucket_end > {{first:DateTime64(6, 'UTC')}}
        AND bucket_start < {{last:DateTime64(6, 'UTC')}}
) AS u {_OF_SPANS} ON u.{CUSTOMER} = s.customer
WHERE u.bucket_end > s.start AND u.bucket_start < s.end
"""

_CUSTOMERS = f"""
SELECT {CUSTOMER} AS customer, count() AS slots FROM touched_slots
WHERE {OF_RUN} GROUP BY {CUSTOMER} ORDER BY {CUSTOMER}
"""

_SLOTS = f"SELECT DISTINCT {CUSTOMER}, slot FROM touched_slots WHERE {OF_RUN} AND {_OF_RANGE}"

# A bucket that overlaps a local hour around a slot starts less than two hours before it.
_STORED_NEAR = f"""
SELECT DISTINCT {CUSTOMER}, bucket_start, bucket_end FROM usage FINAL
WHERE tenant_id = {{tenant:String}} AND {_OF_RANGE} AND {_OF_METERS} AND events > 0
    AND ({CUSTOMER}, toDateTime(toStartOfHour(bucket_start), 'UTC')) IN (
        SELECT {CUSTOMER}, toDateTime(toStartOfHour(arrayJoin([
            slot - INTERVAL 2 HOUR, slot - INTERVAL 1 HOUR, slot, slot + INTERVAL 1 HOUR
        ])), 'UTC')
        FROM touched_slots WHERE {OF_RUN} AND {_OF_RANGE}
    )
"""

_STORED = f"""
SELECT DISTINCT {CUSTOMER}, bucket_start, bucket_end FROM usage FINAL
WHERE tenant_id = {{tenant:String}} AND {OF_CUSTOMERS} AND {_OF_METERS} AND events > 0
"""

_HOURS = f"""
SELECT {CUSTOMER}, hour, hour_end, owned FROM touched_hours FINAL
WHERE {OF_RUN} AND {OF_CUSTOMERS} AND owned = {{owned:UInt8}}
"""

_OWNED_HOURS = f"""
SELECT {CUSTOMER}, hour, hour_end, owned FROM touched_hours FINAL WHERE {OF_RUN} AND owned = 1
"""

_LEFT = f"""
SELECT {CUSTOMER}, minIf(hour, owned = 1) AS bucket_start, identity_hash
FROM (SELECT DISTINCT {CUSTOMER}, identity_hash, {_slot("timestamp")} AS slot FROM ({_TIMES})) AS t
INNER JOIN (
    SELECT {CUSTOMER}, hour, owned, fromUnixTimestamp64Micro(arrayJoin(range(
        intDiv(toUnixTimestamp64Micro(hour), {SLOT_US}),
        intDiv(toUnixTimestamp64Micro(hour_end) - 1, {SLOT_US}) + 1
    )) * {SLOT_US}, 'UTC') AS slot
    FROM touched_hours FINAL
    WHERE {OF_RUN} AND {CUSTOMER} IN (
        SELECT {CUSTOMER} FROM touched_hours FINAL WHERE {OF_RUN} AND owned = 1
    )
) AS h USING ({CUSTOMER}, slot)
WHERE identity_hash != {_ZERO}
GROUP BY {CUSTOMER}, identity_hash
HAVING max(owned) = 1 AND ({{all:UInt8}} = 1 OR min(owned) = 0)
"""


def touch_span(
    warehouse: Warehouse,
    tenant: str,
    run_id: str,
    start: datetime,
    end: datetime,
    customer: str | None = None,
) -> None:
    """Touches every event in [start, end) and all usage that is stored for it."""
    parameters: Parameters = {
        "tenant": tenant,
        "run": run_id,
        "start": start,
        "end": end,
        "customer": customer,
    }
    warehouse.command(_TOUCH_SPAN, parameters)


def touch_spans(
    warehouse: Warehouse, tenant: str, run_id: str, spans: Sequence[CustomerSpan]
) -> None:
    """The same for a half-open span of each of these customers; one may have several."""
    for piece in chunks(sorted(spans), warehouse.parameter_bytes):
        parameters: Parameters = {
            "tenant": tenant,
            "run": run_id,
            "customers": json_list(sorted({customer for customer, _, _ in piece})),
            "first": min(start for _, start, _ in piece),
            "last": max(end for _, _, end in piece),
            "spans": json_list(piece),
        }
        warehouse.command(_TOUCH_SPANS, parameters)


def touched_count(warehouse: Warehouse, tenant: str, run_id: str) -> int:
    """How many rows were touched; a row that was written twice may count twice."""
    [row] = warehouse.query_rows(
        f"SELECT count() AS rows FROM touched WHERE {OF_RUN}", {"tenant": tenant, "run": run_id}
    )
    return int(str(row["rows"]))


def mark_touched_hours(
    warehouse: Warehouse,
    tenant: str,
    run_id: str,
    shards: int,
    catalog: Catalog,
    owners: Owners | None = None,
) -> None:
    """Finds the touched hours of a run whose events and identities are all stored.

    To be called once, before `affected_events`; calling it again changes nothing.
    `owners` says which hours belong to the stream: those in which it owns any bucket.
    """
    run: dict[str, Value] = {"tenant": tenant, "run": run_id}
    for shard in range(shards):
        warehouse.command(_MARK_SLOTS, {**run, "shards": shards, "shard": shard})
    zones = {customer.id: customer.time_zone for customer in catalog.customers}
    of_meters = {**run, "meters": json_list([meter.id for meter in catalog.meters])}
    for first, last in _ranges(warehouse, run):
        of_range = {"first": first, "last": last}
        slots = _frame(warehouse.query_arrow(_SLOTS, {**run, **of_range}))
        near = _frame(warehouse.query_arrow(_STORED_NEAR, {**of_meters, **of_range}))
        stored = [near.clear()]
        for some in chunks(odd_customers(near, zones), warehouse.parameter_bytes):
            found = warehouse.query_arrow(_STORED, {**of_meters, "customers": json_list(some)})
            stored.append(_frame(found))
        closed = _closed_until(slots, owners) if owners else None
        hours = touched_hours(slots, pl.concat(stored), zones, closed)
        table = with_constants(hours.to_arrow(), tenant_id=tenant, run_id=run_id)
        warehouse.insert("touched_hours", table)


def _ranges(warehouse: Warehouse, run: Parameters) -> Iterator[tuple[str, str]]:
    """First and last customer of pieces with about `SLOTS_AT_A_TIME` each."""
    piece: list[str] = []
    slots = 0
    for row in warehouse.query_arrow(_CUSTOMERS, run).to_pylist():
        piece.append(row["customer"])
        slots += row["slots"]
        if slots >= SLOTS_AT_A_TIME:
            yield piece[0], piece[-1]
            piece, slots = [], 0
    if piece:
        yield piece[0], piece[-1]


def _closed_until(slots: pl.DataFrame, owners: Owners) -> dict[str, int]:
    found = {name: owners.closed_until(name) for name in slots[CUSTOMER].unique().to_list()}
    return {name: at for name, at in found.items() if at is not None}


def hours_of_run(
    warehouse: Warehouse, tenant: str, run_id: str, customers: Sequence[str]
) -> pl.DataFrame:
    """The touched hours (`meters.touched.HOURS`) of these customers that are not the stream's."""
    frames = [
        _frame(
            warehouse.query_arrow(
                _HOURS,
                {"tenant": tenant, "run": run_id, "customers": json_list(some), "owned": 0},
            )
        )
        for some in chunks(customers, warehouse.parameter_bytes)
    ]
    return pl.concat([HOURS.to_frame(), *frames])


def owned_hours(warehouse: Warehouse, tenant: str, run_id: str) -> pl.DataFrame:
    """The touched hours (`meters.touched.HOURS`) that are left to the stream."""
    return _frame(warehouse.query_arrow(_OWNED_HOURS, {"tenant": tenant, "run": run_id}))


def left_identities(
    warehouse: Warehouse, tenant: str, run_id: str, shards: int, *, split: bool
) -> pa.Table:
    """Touched identities with a copy in an hour that is left to the stream.

    With `split` only those that have copies in recomputed hours as well: what the run
    does on its side may be undone on the other. They are dirty until one owner has all
    their hours. Columns are `external_customer_id`, `bucket_start` (an hour that the
    stream owns) and `identity_hash`.
    """
    run: dict[str, Value] = {"tenant": tenant, "run": run_id, "shards": shards, "all": not split}
    return pa.concat_tables(
        [warehouse.query_arrow(_LEFT, {**run, "shard": shard}) for shard in range(shards)]
    )


@contextmanager
def touching(warehouse: Warehouse, tenant: str) -> Iterator[str]:
    """A new run's id, whose notes are forgotten at the end, also where the run fails."""
    run_id = uuid.uuid4().hex
    try:
        yield run_id
    finally:
        drop_touched(warehouse, tenant, run_id)


def drop_touched(warehouse: Warehouse, tenant: str, run_id: str) -> None:
    """Forgets what was noted for a run; what a killed run leaves expires after 7 days."""
    for table in ("touched", "touched_slots", "touched_hours"):
        warehouse.command(
            f"ALTER TABLE {table} DROP PARTITION ({{tenant:String}}, {{run:String}})",
            {"tenant": tenant, "run": run_id},
        )


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table))
