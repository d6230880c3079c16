"""The merge of usage rows into the quantities of spans, done by ClickHouse.

This is the SQL form of the aggregators' `merge`: sums are added, extremes compared,
the latest value is the one with the greatest (latest_at, latest_id), ids compared as
UTF-8 bytes, and distinct values are counted over the values that belong to the
winning rows. An average is `sum / events`. Billing reads its quantities here.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list
from warehouse.queries import KEY, ROW

UsageSpan = tuple[str, str | None, datetime, datetime]
"""A customer, a subscription (None: usage without one) and a half-open UTC span."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SPANS = """
    spans AS (
        SELECT item.1 AS span, item.2 AS customer, item.3 AS subscription,
            fromUnixTimestamp64Micro(item.4, 'UTC') AS start,
            fromUnixTimestamp64Micro(item.5, 'UTC') AS end
        FROM (
            SELECT arrayJoin(JSONExtract(
                {spans:String}, 'Array(Tuple(UInt32, String, String, Int64, Int64))'
            )) AS item
        )
    )
"""

_WITHIN = """
                tenant_id = {tenant:String}
                AND external_customer_id IN (SELECT customer FROM spans)
                AND bucket_start >= {first:DateTime64(6, 'UTC')}
                AND bucket_start < {last:DateTime64(6, 'UTC')}
"""

_COUNTED = "AND meter IN (SELECT arrayJoin(JSONExtract({counted:String}, 'Array(String)')))"
_ASKED = "AND meter IN (SELECT arrayJoin(JSONExtract({meters:String}, 'Array(String)')))"


def _winners(name: str, columns: str, and_meters: str = "") -> str:
    """A common table expression: the winning rows of the spans, with `span` and `merged_group`."""
    return f"""
    {name} AS (
        SELECT s.span AS span, if({{by_group:Bool}}, u.group_key, '{{}}') AS merged_group, u.*
        FROM (
            SELECT {columns} FROM usage FINAL
            PREWHERE {_WITHIN} {and_meters}
            WHERE events > 0
        ) AS u
        INNER JOIN spans AS s
            ON u.external_customer_id = s.customer AND u.external_subscription_id = s.subscription
        WHERE u.bucket_start >= s.start AND u.bucket_start < s.end
    )
"""


_WINNERS = f"{_SPANS}, {_winners('winners', ROW)}"


def _distinct(and_meters: str) -> str:
    """How many distinct values there are. FINAL looks at rows of counted meters alone."""
    return f"""
    {_winners("counted", f"{KEY}, revision", and_meters)},
    distinct_values AS (
        SELECT w.span AS span, w.meter AS meter, w.merged_group AS group_key,
            uniqExact(v.value_hash) AS values
        FROM (
            SELECT {KEY}, revision, value_hash FROM usage_values
            PREWHERE {_WITHIN} {and_meters}
        ) AS v
        INNER JOIN counted AS w USING ({KEY}, revision)
        GROUP BY w.span, w.meter, w.merged_group
    ),
"""


def latest_of(rows: str) -> tuple[str, str]:
    """The greatest (latest_at, latest_id, latest_value) of some rows, and whether there is one.

    `rows` is a condition on columns of the table `w`, under which `latest_at` is not null.
    """
    latest = "tuple(assumeNotNull(w.latest_at), w.latest_id, assumeNotNull(w.latest_value))"
    return f"maxIf({latest}, {rows})", f"countIf({rows}) > 0"


LATEST, HAS_LATEST = latest_of("w.latest_at IS NOT NULL")
"""`latest_of` all rows."""

_LATEST_COLUMNS = """
    if(m.has_latest, m.latest.1, NULL) AS latest_at,
    m.latest.2 AS latest_id,
    if(m.has_latest, m.latest.3, NULL) AS latest_value,
"""


def _merged(latest: bool, distinct: bool, and_meters: str) -> str:
    """The statement that merges; what is not wanted costs nothing."""
    return f"""
WITH
    {_WINNERS},
    {_distinct(and_meters) if distinct else ""}
    merged AS (
        SELECT w.span AS span, w.meter AS meter, w.merged_group AS group_key,
            sum(w.events) AS events,
            sum(w.sum) AS sum, min(w.min) AS min, max(w.max) AS max,
            {f"{LATEST} AS latest, {HAS_LATEST} AS has_latest," if latest else ""}
            max(w.revision) AS revision
        FROM winners AS w
        GROUP BY w.span, w.meter, w.merged_group
    )
SELECT m.span AS span, m.meter AS meter, m.group_key AS group_key, m.events AS events,
    m.sum AS sum, m.min AS min, m.max AS max,
    {_LATEST_COLUMNS if latest else ""}
    {"d.values AS distinct," if distinct else ""}
    m.revision AS revision
FROM merged AS m
{"LEFT JOIN distinct_values AS d USING (span, meter, group_key)" if distinct else ""}
ORDER BY span, meter, group_key
"""


_BUCKETS = f"""
WITH {_WINNERS}
SELECT span, meter, group_key, bucket_start, events, sum, max, revision
FROM winners
WHERE meter IN (SELECT arrayJoin(JSONExtract({{meters:String}}, 'Array(String)')))
ORDER BY span, meter, group_key, bucket_start
"""

_EXTENTS = f"""
WITH {_SPANS}, {_winners("winners", f"{KEY}, bucket_end, events", _ASKED)}
SELECT span, meter, min(bucket_start) AS first, max(bucket_end) AS last, sum(events) AS events
FROM winners
GROUP BY span, meter
ORDER BY span, meter
"""

_VALUES = f"""
WITH {_WINNERS}
SELECT DISTINCT w.span AS span, w.meter AS meter, w.group_key AS group_key,
    v.value_hash AS value_hash
FROM (
    SELECT {KEY}, revision, value_hash FROM usage_values
    WHERE tenant_id = {{tenant:String}}
        AND external_customer_id IN (SELECT customer FROM spans)
        AND bucket_start >= {{first:DateTime64(6, 'UTC')}}
        AND bucket_start < {{last:DateTime64(6, 'UTC')}}
        AND meter IN (SELECT arrayJoin(JSONExtract({{meters:String}}, 'Array(String)')))
) AS v
INNER JOIN winners AS w USING ({KEY}, revision)
ORDER BY span, meter, group_key, value_hash
"""


_OVER_SPANS = f"""
WITH {_WINNERS}
SELECT span, meter, group_key, events, sum, moment, moment_low, shift,
    arrayMap((p, n) -> CAST((p.1, p.2, p.3, p.4, n),
        'Tuple(at Int64, item String, id String, value Decimal(38, 12), count UInt64)'
    ), bag.1, bag.2) AS points,
    revision
FROM (
    SELECT w.span AS span, w.meter AS meter, w.group_key AS group_key,
        sum(w.events) AS events, sum(w.sum) AS sum,
        sum(toDecimal256(w.moment, 0)) AS moment,
        sum(toDecimal256(w.moment_low, 0)) AS moment_low,
        sum(w.sum * toDecimal256(toUnixTimestamp64Micro(w.bucket_start), 0)) AS shift,
        sumMap(arrayMap(p -> (p.1, p.2, p.3, p.4), w.points), arrayMap(p -> p.5, w.points)) AS bag,
        max(w.revision) AS revision
    FROM winners AS w
    WHERE w.meter IN (SELECT arrayJoin(JSONExtract({{meters:String}}, 'Array(String)')))
    GROUP BY w.span, w.meter, w.group_key
)
ORDER BY span, meter, group_key
"""


def merged_usage(
    warehouse: Warehouse,
    tenant: str,
    spans: Sequence[UsageSpan],
    *,
    by_group: bool = True,
    latest: bool = True,
    counted: Sequence[str] | None = None,
) -> pa.Table:
    """One row for each span, meter and group with counted events, sorted by these.

    Without `by_group` all groups of a meter are merged to one, `{}`. Without `latest` its
    columns are left out. `counted` are the meters whose distinct values are counted (None: all
    that have some); where it is empty there is no column `distinct`.

    Columns: `span` (index into `spans`), `meter`, `group_key`, `events`, `sum`, `min`,
    `max`, `latest_at`, `latest_id`, `latest_value`, `distinct` (number of distinct
    values), `revision` (the highest of the rows). A row belongs to a span by its
    `bucket_start`; spans may overlap. Spans without usage have no row.
    """
    given: dict[str, Value] = {"by_group": by_group}
    if counted:
        given["counted"] = json_list(sorted(counted))
    sql = _merged(latest, counted is None or bool(counted), _COUNTED if counted else "")
    return _of_spans(warehouse, sql, tenant, spans, given)


def bucket_usage(
    warehouse: Warehouse, tenant: str, spans: Sequence[UsageSpan], meters: Sequence[str]
) -> pa.Table:
    """The winning rows of these meters in each span, one for each bucket and group.

    Columns: `span`, `meter`, `group_key`, `bucket_start`, `events`, `sum`, `max`,
    `revision`, sorted in this order. Spans and rows belong together as in `merged_usage`.
    """
    given: dict[str, Value] = {"by_group": True, "meters": json_list(sorted(meters))}
    return _of_spans(warehouse, _BUCKETS, tenant, spans, given)


def usage_extents(
    warehouse: Warehouse, tenant: str, spans: Sequence[UsageSpan], meters: Sequence[str]
) -> pa.Table:
    """Where in each span there is usage of these meters, and of how many events.

    Columns: `span`, `meter`, `first` (start of the first bucket), `last` (end of the last),
    `events`, sorted by the first two. Spans and rows belong together as in `merged_usage`.
    """
    given: dict[str, Value] = {"by_group": False, "meters": json_list(sorted(meters))}
    return _of_spans(warehouse, _EXTENTS, tenant, spans, given)


def distinct_values(
    warehouse: Warehouse, tenant: str, spans: Sequence[UsageSpan], meters: Sequence[str]
) -> pa.Table:
    """The distinct values of these meters in each span, by group.

    Columns: `span`, `meter`, `group_key`, `value_hash`, sorted in this order.
    """
    given: dict[str, Value] = {"by_group": True, "meters": json_list(sorted(meters))}
    return _of_spans(warehouse, _VALUES, tenant, spans, given)


def usage_over_spans(
    warehouse: Warehouse, tenant: str, spans: Sequence[UsageSpan], meters: Sequence[str]
) -> pa.Table:
    """What levels, percentiles and recurring meters have in each span, by group.

    Columns: `span`, `meter`, `group_key`, `events`, `sum`, `moment` and `moment_low` (of
    whole units and of 10**-12, since the start of each bucket), `shift` (the sum of
    each bucket times its start: what both lack of moments since the epoch), `points`,
    `revision`; sorted by the first three.
    """
    given: dict[str, Value] = {"by_group": True, "meters": json_list(sorted(meters))}
    return _of_spans(warehouse, _OVER_SPANS, tenant, spans, given)


def _of_spans(
    warehouse: Warehouse,
    sql: str,
    tenant: str,
    spans: Sequence[UsageSpan],
    given: Mapping[str, Value],
) -> pa.Table:
    numbered = [
        (index, customer, subscription or "", start, end)
        for index, (customer, subscription, start, end) in enumerate(spans)
    ]
    tables = [
        warehouse.query_arrow(
            sql,
            {
                **given,
                "tenant": tenant,
                "first": min((span[3] for span in piece), default=_EPOCH),
                "last": max((span[4] for span in piece), default=_EPOCH),
                "spans": json_list(piece),
            },
        )
        for piece in list(chunks(numbered, warehouse.parameter_bytes)) or [[]]
    ]
    return pa.concat_tables(tables)
