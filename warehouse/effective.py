"""Effective events: of all copies of an identity, the one that counts.

What `meters.deduplicate` does for a load, as a query over the raw events: the copy
with the smallest (ingested_at, content hash) counts, wherever its copies lie in time.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list
from warehouse.queries import CustomerSpan

_NAMED = """
    event_name IN (SELECT arrayJoin(JSONExtract({names:String}, 'Array(String)')))
    AND timestamp >= {first:DateTime64(6, 'UTC')} AND timestamp < {last:DateTime64(6, 'UTC')}
"""
_CUSTOMERS = "(SELECT arrayJoin(JSONExtract({customers:String}, 'Array(String)')))"

# A winner that matters has the name and the time asked for, so its identity is found by them.
_EFFECTIVE = f"""
SELECT external_customer_id, event_id, toString(event_name) AS event_name,
    nullIf(toString(external_subscription_id), '') AS external_subscription_id,
    timestamp, properties
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY external_customer_id, identity_hash ORDER BY ingested_at, content_hash
    ) AS place
    FROM events FINAL
    WHERE tenant_id = {{tenant:String}} AND (external_customer_id, identity_hash) IN (
        SELECT external_customer_id, identity_hash FROM events
        WHERE tenant_id = {{tenant:String}} AND external_customer_id IN {_CUSTOMERS} AND {_NAMED}
    )
)
WHERE place = 1 AND {_NAMED}
ORDER BY external_customer_id, timestamp, event_id
"""

_COPIES = f"""
SELECT event_id, toString(event_name) AS event_name,
    nullIf(toString(external_subscription_id), '') AS external_subscription_id,
    timestamp, properties, ingested_at, place
FROM (
    SELECT *, row_number() OVER (
        PARTITION BY identity_hash ORDER BY ingested_at, content_hash
    ) AS place
    FROM events FINAL
    WHERE tenant_id = {{tenant:String}} AND external_customer_id = {{customer:String}}
        AND identity_hash IN (
            SELECT identity_hash FROM events
            WHERE tenant_id = {{tenant:String}} AND external_customer_id = {{customer:String}}
                AND {_NAMED}
        )
)
ORDER BY min(timestamp) OVER (PARTITION BY event_id), event_id, place
"""


def copies_of_events(
    warehouse: Warehouse,
    tenant: str,
    customer: str,
    start: datetime,
    end: datetime,
    names: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """All copies of the events of these names that have one in a half-open span of time.

    Rows with `event_id`, `event_name`, `external_subscription_id`, `timestamp`,
    `properties` (JSON text), `ingested_at` and `place` (1 for the copy that counts),
    the copies of an event together. Read block by block.
    """
    parameters: dict[str, Value] = {
        "tenant": tenant,
        "customer": customer,
        "names": json_list(sorted(set(names))),
        "first": start,
        "last": end,
    }
    for batch in warehouse.iter_arrow(_COPIES, parameters):
        yield from batch.to_pylist()


def effective_events(
    warehouse: Warehouse, tenant: str, spans: Sequence[CustomerSpan], names: Sequence[str]
) -> pa.Table:
    """The effective events of these names, for each customer and half-open span of time.

    Columns: `external_customer_id`, `event_id`, `event_name`,
    `external_subscription_id`, `timestamp`, `properties` (JSON text), sorted by
    customer, time and id. Customers may come with events beside their own spans,
    within those of others.
    """
    tables = [
        warehouse.query_arrow(
            _EFFECTIVE,
            {
                "tenant": tenant,
                "names": json_list(sorted(set(names))),
                "customers": json_list(sorted({customer for customer, _, _ in piece})),
                "first": min(start for _, start, _ in piece),
                "last": max(end for _, _, end in piece),
            },
        )
        for piece in chunks(sorted(set(spans)), warehouse.parameter_bytes)
    ]
    return pa.concat_tables(tables)
