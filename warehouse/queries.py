"""Reads of usage, quarantine and catalogs, always of one tenant.

Spans are half-open in UTC and select buckets by `bucket_start`. Reads see the winning
row of each key (FINAL); tombstones are left out unless said otherwise.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from warehouse.client import Warehouse
from warehouse.parameters import Parameters, Value, chunks, json_list

CustomerSpan = tuple[str, datetime, datetime]
"""A customer and a half-open span of bucket starts."""

KEY = "external_customer_id, meter, external_subscription_id, group_key, bucket_start"
ROW = (
    f"{KEY}, bucket_end, events, sum, min, max, latest_at, latest_id, latest_value, "
    "moment, moment_low, points, meter_hash, revision"
)

STREAMED = ("kafka://", "log://")
"""How origins begin that a stream has read."""

IS_STREAMED = " OR ".join(f"startsWith(origin, '{start}')" for start in STREAMED).join("()")
"""Whether a stream has read an event; else a backfill has, from a file."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_FILTERS = {
    "customer": "external_customer_id = {customer:String}",
    "subscription": "external_subscription_id = {subscription:String}",
    "meter": "meter = {meter:String}",
    "start": "bucket_start >= {start:DateTime64(6, 'UTC')}",
    "end": "bucket_start < {end:DateTime64(6, 'UTC')}",
}

_OF_SPANS = """
    SELECT u.* FROM (
        SELECT {columns} FROM {table}
        WHERE tenant_id = {{tenant:String}}
            AND external_customer_id IN (
                SELECT arrayJoin(JSONExtract({{customers:String}}, 'Array(String)'))
            )
            AND bucket_start >= {{first:DateTime64(6, 'UTC')}}
            AND bucket_start < {{last:DateTime64(6, 'UTC')}}
    ) AS u
    INNER JOIN (
        SELECT span.1 AS customer, fromUnixTimestamp64Micro(span.2, 'UTC') AS start,
            fromUnixTimestamp64Micro(span.3, 'UTC') AS end
        FROM (
            SELECT arrayJoin(
                JSONExtract({{spans:String}}, 'Array(Tuple(String, Int64, Int64))')
            ) AS span
        )
    ) AS s ON u.external_customer_id = s.customer
    WHERE u.bucket_start >= s.start AND u.bucket_start < s.end
"""

_ROWS_OF_SPANS = _OF_SPANS.format(columns=ROW, table="usage FINAL")
_VALUES_OF_SPANS = _OF_SPANS.format(
    columns=f"DISTINCT {KEY}, revision, value_hash", table="usage_values"
)
_REVISION_OF_SPANS = f"""
    SELECT max(revision) AS revision FROM (
        {_OF_SPANS.format(columns="external_customer_id, bucket_start, revision", table="usage")}
        UNION ALL
        {
    _OF_SPANS.format(columns="external_customer_id, bucket_start, revision", table="usage_values")
}
    )
"""


def usage_rows(
    warehouse: Warehouse,
    tenant: str,
    *,
    customer: str | None = None,
    subscription: str | None = None,
    meter: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pa.Table:
    """The usage rows that match, sorted by key, without tombstones.

    `subscription` None means any, `''` usage without one. `start` and `end` select
    buckets that start within them.
    """
    where, values = _matching(tenant, customer, subscription, meter, start, end)
    return warehouse.query_arrow(
        f"SELECT {ROW} FROM usage FINAL WHERE {where} AND events > 0 ORDER BY {KEY}", values
    )


def values_of(
    warehouse: Warehouse,
    tenant: str,
    *,
    customer: str | None = None,
    subscription: str | None = None,
    meter: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pa.Table:
    """The distinct values of the rows that `usage_rows` gives: their key and `value_hash`."""
    where, values = _matching(tenant, customer, subscription, meter, start, end)
    return warehouse.query_arrow(
        f"SELECT DISTINCT {KEY}, value_hash FROM usage_values WHERE {where} "
        f"AND ({KEY}, revision) IN (SELECT {KEY}, revision FROM usage FINAL "
        f"WHERE {where} AND events > 0) ORDER BY {KEY}, value_hash",
        values,
    )


def usage_rows_for(warehouse: Warehouse, tenant: str, spans: Sequence[CustomerSpan]) -> pa.Table:
    """The winning row of every key whose bucket starts in a span, tombstones included."""
    return _of_spans(warehouse, _ROWS_OF_SPANS, tenant, spans)


def usage_values_for(warehouse: Warehouse, tenant: str, spans: Sequence[CustomerSpan]) -> pa.Table:
    """All stored values whose bucket starts in a span, with key and `revision`.

    Also those that belong to no winning row: older ones, and what a run that was
    killed left.
    """
    return _of_spans(warehouse, _VALUES_OF_SPANS, tenant, spans)


def max_revision(warehouse: Warehouse, tenant: str, spans: Sequence[CustomerSpan]) -> int:
    """The highest revision of rows and values in the spans, 0 where there are none."""
    found = _of_spans(warehouse, _REVISION_OF_SPANS, tenant, spans)
    return max(found["revision"].to_pylist(), default=0)


def quarantine_rows(
    warehouse: Warehouse,
    tenant: str,
    *,
    origin: str | None = None,
    reason: str | None = None,
    limit: int = 1000,
) -> pa.Table:
    """What was refused, the newest first, at most `limit` rows."""
    chosen: dict[str, Value] = {"tenant": tenant, "limit": limit}
    where = ""
    for name, value in (("origin", origin), ("reason", reason)):
        if value is not None:
            where += f" AND {name} = {{{name}:String}}"
            chosen[name] = value
    return warehouse.query_arrow(
        f"SELECT * FROM quarantine FINAL WHERE tenant_id = {{tenant:String}}{where} "
        "ORDER BY quarantined_at DESC, origin, origin_row, meter, reason LIMIT {limit:UInt64}",
        chosen,
    )


def quarantine_counts(warehouse: Warehouse, tenant: str) -> dict[str, int]:
    """How many rows are in quarantine for each reason."""
    rows = warehouse.query_rows(
        "SELECT toString(reason) AS reason, count() AS rows FROM quarantine FINAL "
        "WHERE tenant_id = {tenant:String} GROUP BY reason ORDER BY reason",
        {"tenant": tenant},
    )
    return {str(row["reason"]): int(str(row["rows"])) for row in rows}


def catalog_content(warehouse: Warehouse, tenant: str, catalog_hash: str) -> str | None:
    """The kept catalog with that hash, None where there is none."""
    rows = warehouse.query_rows(
        "SELECT content FROM catalogs FINAL WHERE tenant_id = {tenant:String} "
        "AND catalog_hash = {hash:String}",
        {"tenant": tenant, "hash": catalog_hash},
    )
    return str(rows[0]["content"]) if rows else None


def _matching(
    tenant: str,
    customer: str | None,
    subscription: str | None,
    meter: str | None,
    start: datetime | None,
    end: datetime | None,
) -> tuple[str, Parameters]:
    given: dict[str, Value] = {
        "customer": customer,
        "subscription": subscription,
        "meter": meter,
        "start": start,
        "end": end,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    where = ["tenant_id = {tenant:String}", *(_FILTERS[name] for name in chosen)]
    return " AND ".join(where), {"tenant": tenant, **chosen}


def _of_spans(
    warehouse: Warehouse, sql: str, tenant: str, spans: Sequence[CustomerSpan]
) -> pa.Table:
    pieces = list(chunks(_disjoint(spans), warehouse.parameter_bytes)) or [[]]
    tables = [
        warehouse.query_arrow(
            sql,
            {
                "tenant": tenant,
                "customers": json_list(sorted({customer for customer, _, _ in piece})),
                "first": min((start for _, start, _ in piece), default=_EPOCH),
                "last": max((end for _, _, end in piece), default=_EPOCH),
                "spans": json_list(piece),
            },
        )
        for piece in pieces
    ]
    return pa.concat_tables(tables)


def _disjoint(spans: Sequence[CustomerSpan]) -> list[CustomerSpan]:
    """The same instants without overlap, so that no row is found twice."""
    merged: list[CustomerSpan] = []
    for customer, start, end in sorted(spans):
        if merged and merged[-1][0] == customer and start <= merged[-1][2]:
            merged[-1] = (customer, merged[-1][1], max(end, merged[-1][2]))
        else:
            merged.append((customer, start, end))
    return merged
