"""A page of usage merges in ClickHouse what reading all rows would merge, wherever it is cut.

The oracle is `read_usage` over every row as it is stored, which is what `beammeter usage` prints.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from meters.catalog import Catalog
from meters.reading import Granularity, UsageCell, cuts, read_usage
from meters.zones import from_microseconds, microseconds
from runners.commands import usage_before
from service import usage_pages
from service.usage_pages import usage_page
from tests.warehouse.rows import VALUES, usage, usage_table, values_table
from warehouse.client import Warehouse
from warehouse.usage_series import Listed, Selection, Series
from warehouse.writes import insert_usage, insert_usage_values

METERS: list[dict[str, Any]] = [
    {"id": "avg", "aggregation": "avg", "property": "n"},
    {"id": "calls", "aggregation": "count", "group_by": ["region"]},
    {"id": "daily", "aggregation": "max", "property": "n", "bucket": "day"},
    {"id": "gauge", "aggregation": "weighted_sum", "property": "n"},
    {"id": "last", "aggregation": "latest", "property": "n"},
    {"id": "least", "aggregation": "min", "property": "n"},
    {"id": "most", "aggregation": "max", "property": "n"},
    {"id": "p50", "aggregation": "percentile", "property": "n", "percentile": 50},
    {"id": "seats", "aggregation": "unique_count", "property": "n", "recurring": True},
    {"id": "total", "aggregation": "sum", "property": "n", "group_by": ["region"]},
    {"id": "users", "aggregation": "unique_count", "property": "n", "group_by": ["region"]},
]
ZONES = {
    "berlin": "Europe/Berlin",
    "kolkata": "Asia/Kolkata",
    "lord": "Australia/Lord_Howe",
    "york": "America/New_York",
}
# They start at odd times, one ends, and periods are of days, weeks and months.
SUBSCRIPTIONS = [
    ("berlin", "month", "2026-08-31T22:00:00Z", None),
    ("kolkata", "week", "2026-09-20T10:20:30Z", "2026-10-25T07:00:00Z"),
    ("lord", "day", "2026-10-02T13:45:00Z", None),
    ("york", "month", "2026-10-03T09:30:00.5Z", None),
]
CATALOG = Catalog.model_validate(
    {
        "meters": [{"event_name": "call", **meter} for meter in METERS],
        "customers": [
            {"id": name, "time_zone": zone, "currency": "EUR"} for name, zone in ZONES.items()
        ],
        "plans": [
            {"id": unit, "currency": "EUR", "period": unit, "charges": [{"id": "fee", "fee": "1"}]}
            for unit in ("day", "week", "month")
        ],
        "subscriptions": [
            {"id": f"sub_{one}", "customer": one, "plan": unit, "start": start, "end": end}
            for one, unit, start, end in SUBSCRIPTIONS
        ],
    }
)
START = datetime(2026, 10, 1, tzinfo=UTC)
MERGED: list[Granularity] = ["day", "period"]


def written(chance: random.Random) -> list[dict[str, Any]]:
    """Some rows of most series, around a midnight, the end of a period or a change of clocks."""
    rows = []
    for meter, customer in product([meter["id"] for meter in METERS], [*ZONES, "stranger"]):
        for subscription in ("", f"sub_{customer}", "sub_gone"):
            hours = chance.choice([-12, 0, 24, 48, 72, 24 * 24, 24 * 31, 24 * 31])
            near = START + timedelta(hours=hours)
            quarters = chance.sample(range(-56, 56), chance.choice([0, 4, 16]))
            for quarter in quarters:
                at = near + timedelta(minutes=15 * quarter)
                rows.append(row_at(chance, at, meter, customer, subscription))
    return rows


def row_at(
    chance: random.Random, at: datetime, meter: str, customer: str, subscription: str
) -> dict[str, Any]:
    grouped = meter in ("calls", "total", "users")
    number = Decimal(chance.randint(-99, 99))
    point = {"at": microseconds(at), "item": "", "id": "e", "value": number, "count": 1}
    return usage(
        external_customer_id=customer,
        external_subscription_id=subscription,
        meter=meter,
        group_key=chance.choice(['{"region":"eu"}', '{"region":"us"}']) if grouped else "{}",
        bucket_start=at,
        events=chance.randint(1, 3),
        sum=number,
        min=number,
        max=number + 1,
        latest_at=START + timedelta(minutes=chance.randint(0, 9)) if meter == "last" else None,
        latest_id=str(chance.randrange(10**9)) if meter == "last" else "",
        latest_value=number if meter == "last" else None,
        points=[point] if meter == "p50" else [],
        revision=1,
    )


def store(warehouse: Warehouse, tenant: str, rows: Sequence[dict[str, Any]]) -> None:
    """Some rows and their distinct values; some come again, at a higher revision and with others.

    No two rows say the same latest event: one is in one bucket alone.
    """
    again = [{**row, "sum": row["sum"] + 1, "revision": 2} for row in rows[::5]]
    for part in (rows, again):
        insert_usage(warehouse, tenant, usage_table(*part))
        own = [name for name in VALUES.names if name != "value_hash"]
        distinct = [
            {
                **{name: row[name] for name in own},
                "value_hash": bytes([number + row["events"]]) * 16,
            }
            for row in part
            if row["meter"] in ("users", "seats")
            for number in range(row["events"] * row["revision"])
        ]
        insert_usage_values(warehouse, tenant, values_table(*distinct))


def all_pages(warehouse: Warehouse, tenant: str, selection: Selection, **asked: Any) -> list[Any]:
    found: list[UsageCell] = []
    cursor = None
    while True:
        page = usage_page(CATALOG, warehouse, tenant, selection, cursor=cursor, **asked)
        found += page.cells
        cursor = page.next_cursor
        if cursor is None:
            return found


def of_all_rows(
    warehouse: Warehouse,
    tenant: str,
    selection: Selection,
    granularity: Granularity,
    group_by: list[str] | None,
) -> list[UsageCell]:
    names = ("customer", "subscription", "meter", "start", "end")
    chosen = {name: getattr(selection, name) for name in names}
    rows, values = usage_before(warehouse, tenant, CATALOG, chosen)
    since = selection.start
    return read_usage(CATALOG, rows, values, granularity, group_by, since=since)


SPAN = {"start": START + timedelta(hours=5), "end": START + timedelta(days=30)}
ASKED: list[tuple[Selection, list[str] | None, int, int]] = [
    (Selection(), None, 70, 100_000),
    (Selection(), [], 50, 60),
    (Selection(**SPAN), None, 90, 20),
    (Selection(customer="york"), None, 7, 5),
    (Selection(meter="last"), None, 5, 100_000),
    (Selection(meter="users", groups={"region": ['"eu"']}), None, 5, 30),
]


def test_pages_of_any_size_have_what_all_rows_have(
    embedded: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(embedded, tenant, written(random.Random(1)))
    monkeypatch.setattr(usage_pages, "_FIRST_ROWS", 1)
    for (selection, group_by, limit, most), granularity in product(ASKED, MERGED):
        monkeypatch.setattr(usage_pages, "_MOST_ROWS", most)
        asked = {"granularity": granularity, "group_by": group_by, "limit": limit}
        found = all_pages(embedded, tenant, selection, **asked)
        whole = of_all_rows(embedded, tenant, selection, granularity, group_by)
        wanted = whole if not selection.groups else [c for c in whole if '"eu"' in c.group]
        assert found == wanted
        assert found


def test_what_is_merged_comes_in_few_rows(
    embedded: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [
        usage(
            external_customer_id="berlin",
            external_subscription_id="sub_berlin",
            meter=meter,
            bucket_start=START + timedelta(hours=number),
        )
        for meter in ("total", "users")
        for number in range(24)
    ]
    insert_usage(embedded, tenant, usage_table(*hours))
    heights = {}

    def seen(catalog: Catalog, rows: Any, *rest: Any, **given: Any) -> list[UsageCell]:
        heights.update(dict(rows["meter"].value_counts().iter_rows()))
        return read_usage(catalog, rows, *rest, **given)

    monkeypatch.setattr(usage_pages, "read_usage", seen)
    cells = usage_page(CATALOG, embedded, tenant, Selection(), granularity="period", limit=10).cells
    assert heights == {"total": 1, "users": 24}
    assert [(cell.meter, cell.events) for cell in cells] == [("total", 24), ("users", 24)]


def test_usage_of_an_owner_that_was_not_listed_waits_for_the_next_page(
    embedded: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows were merged over days and periods of others, so they say nothing."""
    base = {"meter": "total", "external_customer_id": "york"}
    old = usage(**base, external_subscription_id="", bucket_start=START)
    late = usage(**base, external_subscription_id="sub_york", bucket_start=START)
    insert_usage(embedded, tenant, usage_table(old))
    rows_of_series = usage_pages.rows_of_series

    def disturbed(*args: Any, **given: Any) -> Any:
        insert_usage(embedded, tenant, usage_table(late))
        return rows_of_series(*args, **given)

    monkeypatch.setattr(usage_pages, "rows_of_series", disturbed)
    asked: dict[str, Any] = {"granularity": "period", "limit": 10}
    during = usage_page(CATALOG, embedded, tenant, Selection(), **asked).cells
    after = usage_page(CATALOG, embedded, tenant, Selection(), **asked).cells
    assert [cell.subscription for cell in during] == [None]
    assert [cell.subscription for cell in after] == [None, "sub_york"]


def test_a_batch_ends_with_a_customer_unless_there_is_no_room(
    embedded: Warehouse, tenant: str
) -> None:
    rows = [
        usage(external_customer_id=customer, meter=meter, bucket_start=START + timedelta(hours=at))
        for customer, hours in (("berlin", 1), ("kolkata", 4), ("york", 1))
        for meter in ("calls", "total")
        for at in range(hours)
    ]
    insert_usage(embedded, tenant, usage_table(*rows))

    def batches(room: int) -> list[tuple[list[str], bool]]:
        found = usage_pages._batches(embedded, tenant, Selection(), None, usage_pages._Room(room))
        return [([each.series.customer for each in batch], exact) for batch, exact in found]

    b, k, y = "berlin", "kolkata", "york"
    assert batches(100) == [([b, b, k, k, y, y], False)]
    assert batches(11) == [([b, b, k, k], False), ([y, y], False)]
    assert batches(5) == [([b, b], False), ([k], True), ([k], True), ([y, y], False)]


def test_few_cuts_part_what_no_owner_has_in_one_day_or_period() -> None:
    owners = [("berlin", "sub_berlin"), ("york", ""), ("stranger", "sub_york")]
    first, last = microseconds(START), microseconds(START + timedelta(days=2))
    days = [from_microseconds(us) for us in cuts(CATALOG, owners, "day", first, last)]
    assert [at.isoformat()[5:16] for at in days] == [
        "10-01T00:00",
        "10-01T04:00",
        "10-01T22:00",
        "10-02T04:00",
        "10-02T22:00",
    ]
    periods = [from_microseconds(us) for us in cuts(CATALOG, owners, "period", first, last)]
    assert [at.isoformat()[5:16] for at in periods] == ["10-01T00:00", "10-01T04:00"]
    assert cuts(CATALOG, owners, "day", first, first) == [first]


def test_where_there_are_too_many_days_rows_come_as_they_are() -> None:
    far = microseconds(START + timedelta(days=usage_pages._MOST_CUTS + 1))
    batch = [Listed(Series("york", "", "total"), 2, microseconds(START), far)]
    assert usage_pages._merging(CATALOG, batch, "day") is None
    assert usage_pages._merging(CATALOG, batch, "period") is not None
    assert usage_pages._merging(CATALOG, batch, "hour") is None
