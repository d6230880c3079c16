"""Stored events page by page, by time or name: of all copies of an event the one that counts.

    conditions -> the next rows behind a key -> those that are the first copy of their event
                              `-- again until the page is full --'

A row is chosen by its own values, then held against the other copies of its event, few of
which there are. So a page costs what its rows cost, however many events there are with copies.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from warehouse.affected import EVENT_COLUMNS
from warehouse.client import Warehouse
from warehouse.parameters import Value, json_list

Row = dict[str, Any]
Sort = Literal["timestamp", "event_name"]

_ROWS = f"""
SELECT {EVENT_COLUMNS} FROM events FINAL
WHERE {{where}}
ORDER BY {{order}}
LIMIT {{{{limit:UInt64}}}}
"""

_KEY = "timestamp, external_customer_id, event_id, content_hash"
_PLACE = (
    "({at:DateTime64(6, 'UTC')}, {of:String}, {id:String}, "
    "toFixedString(unhex({content:String}), 16))"
)

_FIRST = """
SELECT external_customer_id, event_id,
    argMin(content_hash, (ingested_at, content_hash)) AS content_hash
FROM events
WHERE tenant_id = {tenant:String} AND (external_customer_id, identity_hash) IN (
    SELECT pair.1, toFixedString(unhex(pair.2), 16)
    FROM (SELECT arrayJoin(JSONExtract({pairs:String}, 'Array(Tuple(String, String))')) AS pair)
)
GROUP BY external_customer_id, event_id
"""

_FILTERS = {
    "customer": "external_customer_id = {customer:String}",
    "event_name": "event_name = {event_name:String}",
    "event_id": "event_id = {event_id:String}",
    "source": "source = {source:String}",
}
_PROPERTY = (
    "JSONHas(properties, {{name{0}:String}}) AND has(JSONExtract({{values{0}:String}}, "
    "'Array(String)'), if(JSONType(properties, {{name{0}:String}}) = 'String', "
    "JSONExtractString(properties, {{name{0}:String}}), "
    "JSONExtractRaw(properties, {{name{0}:String}})))"
)


@dataclass(frozen=True)
class EventPlace:
    """The key of an event in a list, behind which a page begins."""

    name: str
    at: datetime
    customer: str
    event_id: str
    content_hash: str

    @classmethod
    def of(cls, row: Row) -> EventPlace:
        """The place of a row of `event_page`."""
        return cls(
            row["event_name"],
            row["timestamp"],
            row["external_customer_id"],
            row["event_id"],
            row["content_hash"].hex(),
        )


@dataclass(frozen=True)
class Chosen:
    """Which events: `start <= timestamp < end`; None stands for any.

    `properties` maps a property to the values that it may have: texts, or numbers,
    booleans and null as JSON writes them.
    """

    start: datetime
    end: datetime
    customer: str | None = None
    event_name: str | None = None
    event_id: str | None = None
    source: str | None = None
    properties: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def where(self, tenant: str) -> tuple[list[str], dict[str, Value]]:
        """The conditions on `events`, and their parameters."""
        where = [
            "tenant_id = {tenant:String}",
            "timestamp >= {start:DateTime64(6, 'UTC')} AND timestamp < {end:DateTime64(6, 'UTC')}",
        ]
        values: dict[str, Value] = {"tenant": tenant, "start": self.start, "end": self.end}
        for name, condition in _FILTERS.items():
            if (value := getattr(self, name)) is not None:
                where.append(condition)
                values[name] = value
        for number, (name, allowed) in enumerate(sorted(self.properties.items())):
            where.append(_PROPERTY.format(number))
            values |= {f"name{number}": name, f"values{number}": json_list(list(allowed))}
        return where, values


def event_page(
    warehouse: Warehouse,
    tenant: str,
    chosen: Chosen,
    *,
    limit: int,
    sort: Sort = "timestamp",
    descending: bool = True,
    after: EventPlace | None = None,
    before: EventPlace | None = None,
) -> list[Row]:
    """At most `limit` events behind `after` and in front of `before`, in the order of `sort`.

    Rows are those of `events`, with `properties` as JSON text.
    """
    where, values = chosen.where(tenant)
    key = _KEY if sort == "timestamp" else f"toString(event_name), {_KEY}"
    order = ", ".join(f"{name} DESC" if descending else name for name in key.split(", "))
    behind, ahead = ("<", ">") if descending else (">", "<")
    if before is not None:
        where.append(_beside(key, ahead, sort, "b"))
        values |= _place(before, "b")
    found: list[Row] = []
    size = limit
    while len(found) < limit:
        now, given = list(where), {**values, "limit": size}
        if after is not None:
            now.append(_beside(key, behind, sort, "a"))
            given |= _place(after, "a")
        rows = warehouse.query_rows(_ROWS.format(where=" AND ".join(now), order=order), given)
        found += _first(warehouse, tenant, rows)
        if len(rows) < size:
            break
        after = EventPlace.of(rows[-1])
    return found[:limit]


def _first(warehouse: Warehouse, tenant: str, rows: Sequence[Row]) -> list[Row]:
    """Those rows that are the first copy of their event, wherever the other ones are."""
    if not rows:
        return []
    pairs = sorted({(row["external_customer_id"], row["identity_hash"].hex()) for row in rows})
    counting = {
        (row["external_customer_id"], row["event_id"]): row["content_hash"]
        for row in warehouse.query_rows(
            _FIRST, {"tenant": tenant, "pairs": json_list([list(pair) for pair in pairs])}
        )
    }
    return [
        row
        for row in rows
        if counting.get((row["external_customer_id"], row["event_id"])) == row["content_hash"]
    ]


def _beside(key: str, side: str, sort: Sort, mark: str) -> str:
    place = _PLACE if sort == "timestamp" else "({name:String}, " + _PLACE[1:]
    for name in ("at", "of", "id", "content", "name"):
        place = place.replace(f"{{{name}:", f"{{{mark}_{name}:")
    return f"({key}) {side} {place}"


def _place(place: EventPlace, mark: str) -> dict[str, Value]:
    return {
        f"{mark}_at": place.at,
        f"{mark}_of": place.customer,
        f"{mark}_id": place.event_id,
        f"{mark}_content": place.content_hash,
        f"{mark}_name": place.name,
    }
