"""What arrives now: counts by second, and the newest events.

Both are asked for every second by everyone who looks, so they read what was written
last and nothing else; the skip indexes `by_time` (migration `monitoring`) are for them.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from warehouse.client import Warehouse
from warehouse.stats import SHARD, SINK

COUNTS = ("read", "accepted", "duplicate", "conflict", "quarantined", "late")
"""The counts of events in `ingest_stats`."""

_IS_BATCH = f"NOT startsWith(origin, '{SINK}') AND NOT startsWith(origin, '{SHARD}')"

_SUMS = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)

_BY_SECOND = f"""
SELECT toStartOfSecond(recorded_at) AS second, {_SUMS}
FROM ingest_stats FINAL
WHERE tenant_id = {{tenant:String}} AND recorded_at >= {{since:DateTime64(6, 'UTC')}}
GROUP BY second ORDER BY second
"""

_TOTALS = f"""
SELECT {_SUMS}, sum(rounded) AS rounded,
    maxIf(recorded_at, {_IS_BATCH}) AS last, countIf({_IS_BATCH}) AS batches
FROM ingest_stats FINAL
WHERE tenant_id = {{tenant:String}} AND recorded_at >= {{since:DateTime64(6, 'UTC')}}
"""

_NEWEST = """
SELECT event_id, toString(event_name) AS event_name, external_customer_id,
    toString(source) AS source, timestamp, ingested_at, properties
FROM events
WHERE tenant_id = {tenant:String} AND stored_at >= {since:DateTime64(6, 'UTC')}
    AND ({customer:Nullable(String)} IS NULL OR external_customer_id = {customer:Nullable(String)})
ORDER BY stored_at DESC, ingested_at DESC, origin_row DESC
LIMIT 1 BY external_customer_id, identity_hash, content_hash
LIMIT {limit:UInt32}
"""


def counts_by_second(warehouse: Warehouse, tenant: str, since: datetime) -> pa.Table:
    """What was read, accepted, refused ... in each second since; seconds without are left out."""
    return warehouse.query_arrow(_BY_SECOND, {"tenant": tenant, "since": since})


def totals(warehouse: Warehouse, tenant: str, since: datetime) -> dict[str, object]:
    """The sums of `COUNTS` since then, with `rounded` (numbers that lost digits), `last` (when
    the last batch was) and `batches`.
    """
    [row] = warehouse.query_rows(_TOTALS, {"tenant": tenant, "since": since})
    return {**row, "last": row["last"] if row["batches"] else None}


def newest_events(
    warehouse: Warehouse, tenant: str, since: datetime, *, customer: str | None = None, limit: int
) -> pa.Table:
    """The events that were stored last, the newest first, none from before `since`."""
    return warehouse.query_arrow(
        _NEWEST,
        {
            "tenant": tenant,
            "since": since,
            "customer": customer,
            "limit": limit,
        },
    )
