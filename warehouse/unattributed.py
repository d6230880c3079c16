"""Raw events that no subscription of the catalog has: of whom they are, and what they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list

_WITHIN = """
    tenant_id = {tenant:String}
    AND timestamp >= {start:DateTime64(6, 'UTC')} AND timestamp < {end:DateTime64(6, 'UTC')}
    AND event_name IN (SELECT arrayJoin(JSONExtract({names:String}, 'Array(String)')))
"""
_OF = """
    AND external_customer_id IN (SELECT arrayJoin(JSONExtract({customers:String}, 'Array(String)')))
"""

_CUSTOMERS = f"SELECT DISTINCT external_customer_id AS customer FROM events WHERE {_WITHIN}"  # noqa: S608 (constants alone)

_EVENTS = f"""
SELECT external_customer_id AS customer, uniqExact(identity_hash) AS events,
    min(timestamp) AS first, max(timestamp) AS last
FROM events WHERE {_WITHIN} {_OF} AND external_customer_id NOT IN (
    SELECT external_customer_id FROM usage
    WHERE tenant_id = {{tenant:String}} {_OF}
        AND bucket_start > {{start:DateTime64(6, 'UTC')}} - INTERVAL 1 HOUR
        AND bucket_start < {{end:DateTime64(6, 'UTC')}}
)
GROUP BY external_customer_id ORDER BY external_customer_id
"""  # noqa: S608 (constants alone)

_NAMED = f"""
SELECT DISTINCT external_customer_id AS customer, toString(event_name) AS event_name,
    toString(external_subscription_id) AS subscription
FROM events WHERE {_WITHIN} {_OF} AND external_subscription_id != ''
ORDER BY customer, event_name, subscription
"""  # noqa: S608 (constants alone)


def customers_with_events(
    warehouse: Warehouse, tenant: str, names: Sequence[str], start: datetime, end: datetime
) -> set[str]:
    """Who has events of these names in [start, end), known to a catalog or not."""
    given = _given(tenant, names, start, end)
    return {str(row["customer"]) for row in warehouse.query_rows(_CUSTOMERS, given)}


def events_without_usage(
    warehouse: Warehouse,
    tenant: str,
    customers: Sequence[str],
    names: Sequence[str],
    start: datetime,
    end: datetime,
) -> Iterator[dict[str, Any]]:
    """Of customers without usage in [start, end): how many `events` of these names are in it.

    By `customer`, with the `first` and `last` time. Copies of an event count once.
    """
    yield from _of_customers(warehouse, _EVENTS, tenant, customers, names, start, end)


def named_subscriptions(
    warehouse: Warehouse,
    tenant: str,
    customers: Sequence[str],
    names: Sequence[str],
    start: datetime,
    end: datetime,
) -> Iterator[dict[str, Any]]:
    """Which `subscription`s the events of these names name in [start, end).

    By `customer` and `event_name`.
    """
    yield from _of_customers(warehouse, _NAMED, tenant, customers, names, start, end)


def _of_customers(
    warehouse: Warehouse,
    sql: str,
    tenant: str,
    customers: Sequence[str],
    names: Sequence[str],
    start: datetime,
    end: datetime,
) -> Iterator[dict[str, Any]]:
    given = _given(tenant, names, start, end)
    for piece in chunks(sorted(customers), warehouse.parameter_bytes):
        yield from warehouse.query_rows(sql, {**given, "customers": json_list(piece)})


def _given(tenant: str, names: Sequence[str], start: datetime, end: datetime) -> dict[str, Value]:
    return {"tenant": tenant, "start": start, "end": end, "names": json_list(names)}
