"""Usage page by page: which series of a tenant match, and their rows.

A series is what one meter counted for one customer and subscription. Series are read in
the order (customer, subscription, meter), by customers at first: the key of `usage`
starts with them, so a page costs what it shows, however large the tenant is.

Conditions on columns of that key stand in PREWHERE: all copies of a row agree in them, so
FINAL may find its winners among the rows that are left, and no other column of the rest is
read. ClickHouse does not move them there by itself.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

from meters.scalars import canonical_json
from warehouse.client import Warehouse
from warehouse.parameters import Value, json_list
from warehouse.queries import KEY, ROW


@dataclass(frozen=True)
class Selection:
    """Which usage is asked for; None means any, a `subscription` of `''` usage without one.

    `start` and `end` select buckets that start within them, `since` those that end after it:
    of each customer whatever of its hours an instant touches. `groups` maps a property to the
    canonical JSON scalars that its group value may be.
    """

    customer: str | None = None
    subscription: str | None = None
    meter: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    since: datetime | None = None

    @property
    def counted(self) -> str:
        """The condition on rows that have won: an end is no part of their key."""
        return "events > 0" + (f" AND bucket_end > {_SINCE}" if self.since else "")

    def where(self, tenant: str) -> tuple[str, dict[str, Value]]:
        """The condition on the key of `usage`, and the parameters of both conditions."""
        given: dict[str, Value] = {
            "customer": self.customer,
            "subscription": self.subscription,
            "meter": self.meter,
            "start": self.start,
            "end": self.end,
            "since": self.since,
        }
        values = {name: value for name, value in given.items() if value is not None}
        where = ["tenant_id = {tenant:String}", *(_FILTERS[name] for name in values)]
        for number, (name, allowed) in enumerate(sorted(self.groups.items())):
            where.append(_GROUP.format(name=f"group{number}"))
            values[f"group{number}"] = json_list(_parts(name, allowed))
        return " AND ".join(where), {"tenant": tenant, **values}


_SINCE = "{since:DateTime64(6, 'UTC')}"
_FILTERS = {
    "customer": "external_customer_id = {customer:String}",
    "subscription": "external_subscription_id = {subscription:String}",
    "meter": "meter = {meter:String}",
    "start": "bucket_start >= {start:DateTime64(6, 'UTC')}",
    "end": "bucket_start < {end:DateTime64(6, 'UTC')}",
    # No bucket is longer than an hour.
    "since": f"bucket_start > {_SINCE} - INTERVAL 1 HOUR",
}

# A group is canonical JSON, in which a quote within a text is always escaped: a member
# between two of its delimiters stands there as a member and nowhere else.
_GROUP = (
    "arrayExists(part -> position(group_key, part) > 0, "
    "JSONExtract({{{name}:String}}, 'Array(String)'))"
)


def _parts(name: str, values: Sequence[str]) -> list[str]:
    """The texts of which a group must hold one: `"name":value` between delimiters."""
    label = canonical_json(name)
    return [
        f"{before}{label}:{value}{after}" for value in values for before in "{," for after in ",}"
    ]


@dataclass(frozen=True, order=True)
class Series:
    """One meter of one customer and subscription (`''`: none)."""

    customer: str
    subscription: str
    meter: str


_CUSTOMERS = """
SELECT external_customer_id AS customer FROM usage
PREWHERE {where} AND external_customer_id >= {{from_customer:String}}
GROUP BY external_customer_id ORDER BY external_customer_id LIMIT {{limit:UInt32}}
SETTINGS optimize_aggregation_in_order = 1
"""

_SERIES = """
SELECT external_customer_id AS customer, external_subscription_id AS subscription,
    toString(meter) AS meter, count() AS rows
FROM usage
PREWHERE {where}
    AND external_customer_id IN (SELECT arrayJoin(JSONExtract({{names:String}}, 'Array(String)')))
GROUP BY customer, subscription, meter
"""

_THESE = """
    external_customer_id IN (SELECT arrayJoin(JSONExtract({{names:String}}, 'Array(String)')))
    AND (external_customer_id, external_subscription_id, toString(meter)) IN (
        SELECT arrayJoin(JSONExtract({{series:String}}, 'Array(Tuple(String, String, String))'))
    )
"""

_PLAIN = f"{KEY}, bucket_end, events, sum, min, max, latest_at, latest_id, latest_value, revision"
"""What meters have that are not read over spans (`Meter.over_spans`)."""

_ROWS = f"""
SELECT {{columns}} FROM usage FINAL
PREWHERE {{where}} AND {_THESE}
WHERE {{counted}}
ORDER BY {KEY}
"""

_VALUES = f"""
SELECT DISTINCT {KEY}, revision, value_hash FROM usage_values PREWHERE {{where}} AND {_THESE}
"""


def usage_series(
    warehouse: Warehouse, tenant: str, selection: Selection, *, from_customer: str, customers: int
) -> tuple[list[tuple[Series, int]], bool]:
    """The series of at most `customers` customers from `from_customer` on, sorted.

    Each with the number of rows that it has at most. Also says whether more customers may
    follow. Customers are compared by their UTF-8 bytes.
    """
    where, values = selection.where(tenant)
    if selection.customer is not None:
        names = [selection.customer] if selection.customer >= from_customer else []
    else:
        found = warehouse.query_rows(
            _CUSTOMERS.format(where=where),
            {**values, "from_customer": from_customer, "limit": customers},
        )
        names = [str(row["customer"]) for row in found]
    if not names:
        return [], False
    rows = warehouse.query_rows(_SERIES.format(where=where), {**values, "names": json_list(names)})
    series = sorted(
        (
            (
                Series(str(row["customer"]), str(row["subscription"]), str(row["meter"])),
                int(str(row["rows"])),
            )
            for row in rows
        ),
        key=lambda each: each[0],
    )
    return series, selection.customer is None and len(names) == customers


def rows_of_series(
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    series: Sequence[Series],
    *,
    whole: bool = True,
) -> pa.Table:
    """The winning rows of these series, as `warehouse.queries.usage_rows` gives them.

    Without `whole` what only meters need that are read over spans is left out.
    """
    sql = _ROWS.replace("{columns}", ROW if whole else _PLAIN)
    return _of_series(warehouse, sql, tenant, selection, series)


def values_of_series(
    warehouse: Warehouse, tenant: str, selection: Selection, series: Sequence[Series]
) -> pa.Table:
    """All stored distinct values of these series, with key and `revision`, in no order.

    Those of a row's own revision belong to it; the others are of rows that were replaced. That
    is left to the reader, who has the rows: to find the winners again costs more than all else.
    """
    return _of_series(warehouse, _VALUES, tenant, selection, series)


def _of_series(
    warehouse: Warehouse,
    sql: str,
    tenant: str,
    selection: Selection,
    series: Sequence[Series],
) -> pa.Table:
    where, values = selection.where(tenant)
    given = {
        **values,
        "names": json_list(sorted({each.customer for each in series})),
        "series": json_list([(each.customer, each.subscription, each.meter) for each in series]),
    }
    return warehouse.query_arrow(sql.format(where=where, counted=selection.counted), given)
