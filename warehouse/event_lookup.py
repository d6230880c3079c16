"""One event by its id, with all that the warehouse has of it.

The id is looked for within its customer where that is known; otherwise the bloom filter
`by_event_id` finds it among all of the tenant.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from datetime import datetime
from typing import Any

from warehouse.affected import EVENT_COLUMNS
from warehouse.client import Warehouse

Row = dict[str, Any]

_CUSTOMER = (
    "({customer:Nullable(String)} IS NULL OR external_customer_id = {customer:Nullable(String)})"
)

_COPIES = f"""
SELECT {EVENT_COLUMNS}, stored_at FROM events FINAL
WHERE tenant_id = {{tenant:String}} AND event_id = {{event:String}} AND {_CUSTOMER}
ORDER BY external_customer_id, ingested_at, content_hash
LIMIT 1000
"""

_QUARANTINED = f"""
SELECT origin, origin_row, toString(q.reason) AS reason, toString(q.meter) AS meter, field,
    detail, external_customer_id, quarantined_at,
    if(s.settled_at < quarantined_at, NULL, s.settled_at) AS settled_at
FROM (
    SELECT * FROM quarantine FINAL
    WHERE tenant_id = {{tenant:String}} AND event_id = {{event:String}} AND {_CUSTOMER}
) AS q
LEFT JOIN (
    SELECT origin, origin_row, meter, reason, settled_at FROM quarantine_settled FINAL
    WHERE tenant_id = {{tenant:String}}
) AS s USING (origin, origin_row, meter, reason)
ORDER BY quarantined_at, origin, origin_row, meter, reason
LIMIT 1000
"""

_MARKS = """
SELECT toString(reason) AS reason, bucket_start, marked_at, cleared FROM dirty FINAL
WHERE tenant_id = {tenant:String} AND external_customer_id = {customer:String}
    AND identity_hash = toFixedString(unhex({identity:String}), 16)
ORDER BY marked_at
"""

_CELL = """
SELECT external_subscription_id, bucket_start, bucket_end, events, sum, min, max, latest_value,
    revision, updated_at
FROM usage FINAL
WHERE tenant_id = {tenant:String} AND external_customer_id = {customer:String}
    AND meter = {meter:String} AND group_key = {group:String}
    AND bucket_start <= {at:DateTime64(6, 'UTC')} AND bucket_end > {at:DateTime64(6, 'UTC')}
    AND external_subscription_id = {subscription:String} AND events > 0
"""

_LINES = """
SELECT l.invoice_id AS invoice_id, l.line_id AS line_id, l.charge AS charge, l.quantity AS quantity,
    toString(i.status) AS status, l.document AS document
FROM (
    SELECT * FROM invoice_lines FINAL WHERE tenant_id = {tenant:String} AND meter = {meter:String}
        AND external_subscription_id = {subscription:String}
        AND service_start <= {at:DateTime64(6, 'UTC')} AND service_end > {at:DateTime64(6, 'UTC')}
) AS l
INNER JOIN (
    SELECT invoice_id, status, external_customer_id FROM invoices FINAL
    WHERE tenant_id = {tenant:String} AND external_customer_id = {customer:String}
        AND status != 'withdrawn'
) AS i USING (invoice_id)
ORDER BY invoice_id, l.position
"""


def event_copies(warehouse: Warehouse, tenant: str, event: str, customer: str | None) -> list[Row]:
    """Every stored copy with its own content, the one received first before the others."""
    return warehouse.query_rows(_COPIES, {"tenant": tenant, "event": event, "customer": customer})


def event_refusals(
    warehouse: Warehouse, tenant: str, event: str, customer: str | None
) -> list[Row]:
    """What is in quarantine under this id; `settled_at` where a replay has settled it since."""
    return warehouse.query_rows(
        _QUARANTINED, {"tenant": tenant, "event": event, "customer": customer}
    )


def event_marks(warehouse: Warehouse, tenant: str, customer: str, identity: bytes) -> list[Row]:
    """The dirty marks that the event has caused, cleared ones as well."""
    return warehouse.query_rows(
        _MARKS, {"tenant": tenant, "customer": customer, "identity": identity.hex()}
    )


def usage_cell(
    warehouse: Warehouse,
    tenant: str,
    *,
    customer: str,
    subscription: str | None,
    meter: str,
    group: str,
    at: datetime,
) -> Row | None:
    """The usage row whose bucket holds an instant."""
    rows = warehouse.query_rows(
        _CELL,
        {
            "tenant": tenant,
            "customer": customer,
            "subscription": subscription or "",
            "meter": meter,
            "group": group,
            "at": at,
        },
    )
    return rows[0] if rows else None


def lines_of(
    warehouse: Warehouse,
    tenant: str,
    *,
    customer: str,
    subscription: str,
    meter: str,
    at: datetime,
) -> list[Row]:
    """The stored invoice lines that bill this meter of a subscription at an instant."""
    return warehouse.query_rows(
        _LINES,
        {
            "tenant": tenant,
            "customer": customer,
            "subscription": subscription,
            "meter": meter,
            "at": at,
        },
    )
