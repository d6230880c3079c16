"""The same event id under several customers: two events, and perhaps a sender's mistake."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from meters.timestamps import format_instant
from warehouse.client import Warehouse

MOST = 1000
"""How many ids are listed at most."""

_SHARED = """
SELECT external_customer_id AS customer, event_id, min(timestamp) AS first, max(timestamp) AS last,
    arraySort(groupUniqArrayArray(others)) AS others
FROM (
    SELECT external_customer_id, event_id, identity_hash, timestamp FROM events
    WHERE tenant_id = {tenant:String}
        AND timestamp >= {start:DateTime64(6, 'UTC')} AND timestamp < {end:DateTime64(6, 'UTC')}
        AND ({customer:Nullable(String)} IS NULL
            OR external_customer_id = {customer:Nullable(String)})
) AS mine
INNER JOIN (
    SELECT identity_hash, groupUniqArray(external_customer_id) AS everyone FROM events
    WHERE tenant_id = {tenant:String} AND identity_hash IN (
        SELECT identity_hash FROM events
        WHERE tenant_id = {tenant:String}
            AND timestamp >= {start:DateTime64(6, 'UTC')}
            AND timestamp < {end:DateTime64(6, 'UTC')}
            AND ({customer:Nullable(String)} IS NULL
                OR external_customer_id = {customer:Nullable(String)})
    )
    GROUP BY identity_hash HAVING uniqExact(external_customer_id) > 1
) AS known USING (identity_hash)
ARRAY JOIN [arrayFilter(name -> name != external_customer_id, everyone)] AS others
GROUP BY external_customer_id, event_id
ORDER BY customer, first, event_id
LIMIT {most:UInt32}
"""


def shared_ids(
    warehouse: Warehouse, tenant: str, start: datetime, end: datetime, customer: str | None = None
) -> list[dict[str, Any]]:
    """Events in [start, end) whose id another customer has as well, at whatever time.

    `customer`, `event_id`, `first` and `last` time in the span, and the `others`; at most
    `MOST`.
    """
    rows: list[dict[str, Any]] = warehouse.query_rows(
        _SHARED,
        {"tenant": tenant, "start": start, "end": end, "customer": customer, "most": MOST},
    )
    return [
        {**row, "first": format_instant(row["first"]), "last": format_instant(row["last"])}
        for row in rows
    ]
