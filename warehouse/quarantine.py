"""What was refused: read, counted, and settled when it was replayed.

    quarantine           each row of an input, meter and reason, as it was refused
    quarantine_settled   those that a replay has settled since

A row is open while it was refused later than it was settled: an input that is read
again, and refused again, opens it. Its `id` names it alone, and stays: 16 hexadecimal
digits of a hash of its key, which no column keeps.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from warehouse.client import Warehouse
from warehouse.parameters import Parameters, json_list
from warehouse.writes import with_constants, with_time

KEY = ["origin", "origin_row", "meter", "reason"]
"""The key of a refused row within its tenant."""

ID_FORM = re.compile(r"[0-9a-f]{16}")
"""How an id looks."""

_ID = (
    "substring(lower(hex(SHA256(concat(toString(origin), '\\0', toString(origin_row), '\\0', "
    "toString(meter), '\\0', toString(reason))))), 1, 16)"
)

_FILTERS = """
    tenant_id = {tenant:String}
    AND ({reason:Nullable(String)} IS NULL OR reason = {reason:Nullable(String)})
    AND ({meter:Nullable(String)} IS NULL OR meter = {meter:Nullable(String)})
    AND ({customer:Nullable(String)} IS NULL OR external_customer_id = {customer:Nullable(String)})
    AND ({origin:Nullable(String)} IS NULL OR origin = {origin:Nullable(String)}
        OR startsWith(origin, concat({origin:Nullable(String)}, '/')))
    AND ({from:Nullable(DateTime64(6, 'UTC'))} IS NULL
        OR quarantined_at >= {from:Nullable(DateTime64(6, 'UTC'))})
    AND ({to:Nullable(DateTime64(6, 'UTC'))} IS NULL
        OR quarantined_at < {to:Nullable(DateTime64(6, 'UTC'))})
    AND ({ids:String} = '' OR has(JSONExtract({ids:String}, 'Array(String)'), id))
"""

_OPEN = f"""
FROM (SELECT *, {_ID} AS id FROM quarantine FINAL WHERE {_FILTERS}) AS q
LEFT JOIN (
    SELECT origin, origin_row, meter, reason, settled_at FROM quarantine_settled FINAL
    WHERE tenant_id = {{tenant:String}}
) AS s USING (origin, origin_row, meter, reason)
WHERE settled_at < quarantined_at
"""

_COLUMNS = """
    id, quarantined_at, toString(q.reason) AS reason, toString(q.meter) AS meter, field, detail,
    toString(q.origin) AS origin, origin_row, external_customer_id, event_id, payload
"""

_ROWS = f"SELECT {_COLUMNS} {_OPEN} ORDER BY quarantined_at DESC, origin, origin_row, meter"

_PAGE = f"""
SELECT {_COLUMNS} {_OPEN} AND (q.origin, origin_row, q.meter, q.reason) >
    ({{after_origin:String}}, {{after_row:Int64}}, {{after_meter:String}}, {{after_reason:String}})
ORDER BY q.origin, origin_row, q.meter, q.reason LIMIT {{limit:UInt64}}
"""

_NEWEST = f"""
SELECT {_COLUMNS} {_OPEN.replace("{", "{{").replace("}", "}}")} {{behind}}
ORDER BY quarantined_at DESC, q.origin, origin_row, q.meter, q.reason LIMIT {{{{limit:UInt64}}}}
"""

_BEHIND = """
    AND (negate(toUnixTimestamp64Micro(quarantined_at)), toString(q.origin), origin_row,
        toString(q.meter), toString(q.reason)) > (
        negate(toUnixTimestamp64Micro({at:DateTime64(6, 'UTC')})), {of:String}, {row:Int64},
        {by:String}, {why:String})
"""

Refused = tuple[datetime, str, int, str, str]
"""When, where (origin and row), for which meter and why a row was refused."""

_COUNTS = f"""
SELECT toString(q.reason) AS reason, toString(q.meter) AS meter, count() AS rows,
    min(quarantined_at) AS first, max(quarantined_at) AS last
{_OPEN} GROUP BY reason, meter ORDER BY rows DESC, reason, meter
"""


@dataclass(frozen=True)
class Selection:
    """Which rows; None stands for all. `origin` is a file, or the beginning of a path.

    The times, half-open, are those at which rows were refused. `ids` are those of single
    rows; where there are none, any row.
    """

    reason: str | None = None
    meter: str | None = None
    origin: str | None = None
    customer: str | None = None
    from_time: datetime | None = None
    to_time: datetime | None = None
    ids: Sequence[str] = ()

    def parameters(self, tenant: str) -> Parameters:
        """As the statements here take them."""
        return {
            "tenant": tenant,
            "reason": self.reason,
            "meter": self.meter,
            "origin": self.origin,
            "customer": self.customer,
            "from": self.from_time,
            "to": self.to_time,
            "ids": json_list(self.ids) if self.ids else "",
        }


def open_rows(warehouse: Warehouse, tenant: str, chosen: Selection, limit: int) -> pa.Table:
    """The rows that are open, those refused last first."""
    parameters = {**chosen.parameters(tenant), "limit": limit}
    return warehouse.query_arrow(f"{_ROWS} LIMIT {{limit:UInt64}}", parameters)


def open_pages(
    warehouse: Warehouse, tenant: str, chosen: Selection, size: int
) -> Iterator[pa.Table]:
    """All rows that are open, in the order of their key; rows may be settled meanwhile."""
    after: tuple[str, int, str, str] = ("", -1, "", "")
    while True:
        origin, row, meter, reason = after
        page = warehouse.query_arrow(
            _PAGE,
            {
                **chosen.parameters(tenant),
                "limit": size,
                "after_origin": origin,
                "after_row": row,
                "after_meter": meter,
                "after_reason": reason,
            },
        )
        if not page.num_rows:
            return
        yield page
        [last] = page.slice(page.num_rows - 1).select(KEY).to_pylist()
        after = (last["origin"], last["origin_row"], last["meter"], last["reason"])


def newest_open(
    warehouse: Warehouse,
    tenant: str,
    chosen: Selection,
    *,
    limit: int,
    after: Refused | None = None,
) -> pa.Table:
    """At most `limit` rows that are open, those refused last first, behind the row `after`."""
    parameters = {**chosen.parameters(tenant), "limit": limit}
    if after is None:
        sql = _NEWEST.format(behind="")
    else:
        sql = _NEWEST.format(behind=_BEHIND)
        parameters |= dict(zip(("at", "of", "row", "by", "why"), after, strict=True))
    return warehouse.query_arrow(sql, parameters)


def open_counts(warehouse: Warehouse, tenant: str, chosen: Selection) -> pa.Table:
    """How many rows are open for each reason and meter, with the times of first and last."""
    return warehouse.query_arrow(_COUNTS, chosen.parameters(tenant))


def settle(warehouse: Warehouse, tenant: str, rows: pa.Table) -> None:
    """Notes that these rows (`KEY`) are settled."""
    table = with_time(rows.select(KEY), "settled_at")
    warehouse.insert("quarantine_settled", with_constants(table, tenant_id=tenant))
