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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

import pyarrow as pa

from meters.catalog import Aggregation
from meters.scalars import canonical_json
from warehouse.client import Warehouse
from warehouse.merging import latest_of
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
    def winning(self) -> str:
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


@dataclass(frozen=True)
class Stretch:
    """All series from `first` to `last`, in their order and both included.

    Of some meters alone, where `meters` is not None. Where it is not `exact`, the other series of
    the first and of the last customer may come too: to leave them out takes time.
    """

    first: Series
    last: Series
    meters: Collection[str] | None = None
    exact: bool = True


@dataclass(frozen=True)
class Listed:
    """A series with its number of rows at most, and when its first and last bucket start."""

    series: Series
    rows: int
    first_us: int
    last_us: int


@dataclass(frozen=True)
class Merging:
    """Rows of `meters` come merged where no instant of `cuts` parts them.

    Of buckets that start from the first of `cuts`, which ascend, to `last_us`; in microseconds
    since 1970. Of the rows of `latest`, some of these meters, the latest value is found; it is
    half of what merging costs.
    """

    meters: Collection[str]
    latest: Collection[str]
    cuts: Sequence[int]
    last_us: int


_LATEST: frozenset[Aggregation] = frozenset({"latest"})
_NO_NUMBER = "CAST(NULL AS Nullable(Decimal(38, 12)))"

NEEDED: Mapping[str, frozenset[Aggregation]] = {
    "sum": frozenset({"sum", "avg"}),
    "min": frozenset({"min"}),
    "max": frozenset({"max"}),
    "latest_at": _LATEST,
    "latest_id": _LATEST,
    "latest_value": _LATEST,
}
"""Which aggregations need a column of the state; all need `events`."""

EMPTY: Mapping[str, str] = {
    "sum": "CAST(0 AS Decimal(76, 12))",
    "min": _NO_NUMBER,
    "max": _NO_NUMBER,
    "latest_at": "CAST(NULL AS Nullable(DateTime64(6, 'UTC')))",
    "latest_id": "''",
    "latest_value": _NO_NUMBER,
}
"""What stands for a column of the state where nobody needs it: that of no event."""

_SERIES_OF = """
SELECT external_customer_id AS customer, external_subscription_id AS subscription,
    toString(meter) AS series_meter, count() AS rows,
    toUnixTimestamp64Micro(min(bucket_start)) AS first_us,
    toUnixTimestamp64Micro(max(bucket_start)) AS last_us
FROM usage
PREWHERE {where}
"""
_GROUPED = "GROUP BY external_customer_id, meter, external_subscription_id\n"

_SERIES = f"{_SERIES_OF} AND external_customer_id = {{{{one:String}}}} {_GROUPED}"

# In the order of the key, ClickHouse groups as it reads and ends at the limit. Small blocks end
# it soon: one of each part is read in any case.
_NEXT_SERIES = f"""
{_SERIES_OF} AND external_customer_id >= {{{{from_customer:String}}}}
{_GROUPED}
ORDER BY external_customer_id, meter, external_subscription_id
LIMIT {{{{limit:UInt32}}}}
SETTINGS optimize_aggregation_in_order = 1, max_block_size = 8192
"""

# Series that stand one after the other: sets of them would be built and searched by each
# statement, for half of what it costs.
_CUSTOMERS = (
    "external_customer_id >= {first_customer:String} "
    "AND external_customer_id <= {last_customer:String}"
)
_EXACT = """
    NOT (
        external_customer_id = {first_customer:String}
        AND (external_subscription_id, toString(meter))
            < ({first_subscription:String}, {first_meter:String})
    )
    AND NOT (
        external_customer_id = {last_customer:String}
        AND (external_subscription_id, toString(meter))
            > ({last_subscription:String}, {last_meter:String})
    )
"""
_OF_METERS = "meter IN (SELECT arrayJoin(JSONExtract({meters:String}, 'Array(String)')))"

# Not sorted: that costs as much as all else, and whoever merges has an order of his own.
_ROWS = """
SELECT {columns} FROM usage FINAL
PREWHERE {where}
WHERE {winning}
"""

_GROUP_KEY = ", ".join(f"w.{name}" for name in KEY.split(", ") if name != "bucket_start")

_MERGED = f"""
SELECT {_GROUP_KEY}, min(w.bucket_start) AS bucket_start, sum(w.events) AS events, {{columns}},
    max(w.revision) AS revision
FROM usage AS w FINAL
PREWHERE {{where}}
WHERE {{winning}}
GROUP BY {_GROUP_KEY}, if(
    w.meter IN (SELECT arrayJoin(JSONExtract({{{{merging:String}}}}, 'Array(String)')))
        AND toUnixTimestamp64Micro(w.bucket_start)
            BETWEEN {{{{cuts_from:Int64}}}} AND {{{{cuts_to:Int64}}}},
    roundDown(
        toUnixTimestamp64Micro(w.bucket_start), JSONExtract({{{{cuts:String}}}}, 'Array(Int64)')
    ),
    toUnixTimestamp64Micro(w.bucket_start)
)
SETTINGS prefer_column_name_to_alias = 1
"""

_LATEST_ROW, _HAS_LATEST = latest_of(
    "w.latest_at IS NOT NULL AND w.meter IN {{latest:Array(String)}}"
)
_MERGED_STATE = {
    "sum": "sum(w.sum)",
    "min": "min(w.min)",
    "max": "max(w.max)",
    "latest_at": f"if({_HAS_LATEST}, {_LATEST_ROW}.1, NULL)",
    "latest_id": f"{_LATEST_ROW}.2",
    "latest_value": f"if({_HAS_LATEST}, {_LATEST_ROW}.3, NULL)",
}

_VALUES = f"""
SELECT {KEY}, revision, value_hash FROM usage_values PREWHERE {{where}}
"""


def usage_series(
    warehouse: Warehouse, tenant: str, selection: Selection, *, from_customer: str, limit: int
) -> tuple[list[Listed], str | None]:
    """The series of some customers from `from_customer` on, sorted: about `limit` of them.

    Of each customer all are there, so that one with many series may have more. Also says from
    which customer on there may be more, if so. Customers are compared by their UTF-8 bytes.
    """
    where, values = selection.where(tenant)
    if selection.customer is not None:
        if selection.customer < from_customer:
            return [], None
        return _series_of(warehouse, where, values, selection.customer), None
    given = {**values, "from_customer": from_customer, "limit": limit}
    found = _sorted_series(warehouse.query_rows(_NEXT_SERIES.format(where=where), given))
    if len(found) < limit:
        return found, None
    # The limit may have cut the last customer.
    last = found[-1].series.customer
    whole = [each for each in found if each.series.customer != last]
    found = whole or _series_of(warehouse, where, values, last)
    return found, found[-1].series.customer + "\0"


def _series_of(
    warehouse: Warehouse, where: str, values: Mapping[str, Value], customer: str
) -> list[Listed]:
    sql = _SERIES.format(where=where)
    return _sorted_series(warehouse.query_rows(sql, {**values, "one": customer}))


def _sorted_series(rows: Sequence[Mapping[str, object]]) -> list[Listed]:
    listed = (
        Listed(
            Series(str(row["customer"]), str(row["subscription"]), str(row["series_meter"])),
            *(int(str(row[name])) for name in ("rows", "first_us", "last_us")),
        )
        for row in rows
    )
    return sorted(listed, key=lambda each: each.series)


def rows_of_series(
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    stretch: Stretch,
    *,
    aggregations: Collection[Aggregation] | None = None,
    merging: Merging | None = None,
) -> pa.Table:
    """The winning rows of these series, as `warehouse.queries.usage_rows` has them, unsorted.

    With `aggregations` what meters alone need that are read over spans (`Meter.over_spans`) is
    left out, with the end of buckets, and of the state what these aggregations do not need is
    as of no event. With `merging` as well, a merged row has the start of the first of its buckets.
    """
    if aggregations is None:
        return _of_series(warehouse, _rows(ROW), tenant, selection, stretch)
    needed = {name for name, users in NEEDED.items() if users.intersection(aggregations)}
    empty = [f"{EMPTY[name]} AS {name}" for name in NEEDED if name not in needed]
    if merging is None:
        columns = ", ".join([KEY, "events", *sorted(needed), *empty, "revision"])
        return _of_series(warehouse, _rows(columns), tenant, selection, stretch)
    merged = [f"{_MERGED_STATE[name]} AS {name}" for name in sorted(needed)]
    sql = _MERGED.replace("{columns}", ", ".join([*merged, *empty]))
    given: dict[str, Value] = {
        "merging": json_list(sorted(merging.meters)),
        "latest": sorted(merging.latest),
        "cuts": json_list(list(merging.cuts)),
        "cuts_from": merging.cuts[0],
        "cuts_to": merging.last_us,
    }
    return _of_series(warehouse, sql, tenant, selection, stretch, given)


def _rows(columns: str) -> str:
    return _ROWS.replace("{columns}", columns)


def values_of_series(
    warehouse: Warehouse, tenant: str, selection: Selection, stretch: Stretch
) -> pa.Table:
    """All stored distinct values of these series, with key and `revision`; some come twice.

    Those of a row's own revision belong to it; the others are of rows that were replaced. That
    is left to the reader, who has the rows: to find the winners again costs more than all else.
    """
    return _of_series(warehouse, _VALUES, tenant, selection, stretch)


def _of_series(
    warehouse: Warehouse,
    sql: str,
    tenant: str,
    selection: Selection,
    stretch: Stretch,
    given: Mapping[str, Value] | None = None,
) -> pa.Table:
    where, values = selection.where(tenant)
    ends = {
        f"{end}_{name}": value
        for end, series in (("first", stretch.first), ("last", stretch.last))
        for name, value in asdict(series).items()
    }
    known = {**values, **(given or {}), **ends}
    conditions = [where, _CUSTOMERS]
    if stretch.exact:
        conditions.append(_EXACT)
    if stretch.meters is not None:
        conditions.append(_OF_METERS)
        known["meters"] = json_list(sorted(stretch.meters))
    statement = sql.format(where=" AND ".join(conditions), winning=selection.winning)
    return warehouse.query_arrow(statement, known)
