"""The series of a tenant, listed a few at a time, are all of them, in order, and each once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.zones import microseconds
from tests.warehouse.rows import hour, usage, usage_table
from warehouse.client import Warehouse
from warehouse.usage_series import (
    Listed,
    Merging,
    Selection,
    Series,
    Stretch,
    rows_of_series,
    usage_series,
)
from warehouse.writes import insert_usage

# Their order by bytes is not that of their letters, nor that of UTF-16.
CUSTOMERS = ["", "B", "a", "a\0", "ab", "é", "\uffee", "\U0001f600"]
EVERY = [
    Series(customer, subscription, meter)
    for customer, subscription, meter in product(CUSTOMERS, ["", "s"], ["calls", "users"])
]


def listed(warehouse: Warehouse, tenant: str, selection: Selection, limit: int) -> list[Listed]:
    found: list[Listed] = []
    customer: str | None = ""
    while customer is not None:
        part, customer = usage_series(
            warehouse, tenant, selection, from_customer=customer, limit=limit
        )
        found += part
    return found


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.lists(
        st.lists(st.sampled_from(EVERY), min_size=1, max_size=12), min_size=1, max_size=3
    ),
    limit=st.integers(1, 9),
)
def test_any_limit_lists_every_series_once_and_in_order(
    warehouse: Warehouse,
    unique: Callable[[], str],
    parts: list[list[Series]],
    limit: int,
) -> None:
    tenant = unique()
    for number, part in enumerate(parts):
        rows = [
            usage(
                external_customer_id=each.customer,
                external_subscription_id=each.subscription,
                meter=each.meter,
                bucket_start=hour(number),
            )
            for each in part
        ]
        insert_usage(warehouse, tenant, usage_table(*rows))
    present = sorted({each for part in parts for each in part})
    found = listed(warehouse, tenant, Selection(), limit)
    assert [each.series for each in found] == present
    for each in found:
        hours = [number for number, part in enumerate(parts) if each.series in part]
        assert each.rows >= len(hours)
        ends = hour(min(hours)), hour(max(hours))
        assert (each.first_us, each.last_us) == tuple(map(microseconds, ends))
    users = listed(warehouse, tenant, Selection(meter="users"), limit)
    assert [each.series for each in users] == [one for one in present if one.meter == "users"]
    for customer in {each.customer for each in present}:
        own = listed(warehouse, tenant, Selection(customer=customer), limit)
        assert [each.series for each in own] == [one for one in present if one.customer == customer]


@pytest.mark.parametrize("meters", [None, {"users"}])
def test_a_stretch_has_every_series_from_its_first_to_its_last(
    warehouse: Warehouse, tenant: str, meters: set[str] | None
) -> None:
    rows = [
        usage(
            external_customer_id=each.customer,
            external_subscription_id=each.subscription,
            meter=each.meter,
        )
        for each in EVERY
    ]
    insert_usage(warehouse, tenant, usage_table(*rows))
    ordered = sorted(EVERY)
    for start, end in [(0, len(ordered)), (1, 2), (1, 7), (3, 5), (6, 22), (9, len(ordered))]:
        stretch = Stretch(ordered[start], ordered[end - 1], meters)
        found = rows_of_series(warehouse, tenant, Selection(), stretch).to_pylist()
        assert sorted(
            Series(row["external_customer_id"], row["external_subscription_id"], row["meter"])
            for row in found
        ) == [each for each in ordered[start:end] if meters is None or each.meter in meters]


def test_rows_come_merged_between_cuts_and_as_they_are_elsewhere(
    warehouse: Warehouse, tenant: str
) -> None:
    rows = [
        usage(
            meter=meter,
            bucket_start=hour(at),
            sum=at + 1,
            max=at,
            latest_at=hour(at),
            latest_id="e",
            latest_value=at,
            revision=at + 1,
        )
        for meter in ("calls", "last", "users")
        for at in range(5)
    ]
    insert_usage(warehouse, tenant, usage_table(*rows))
    first, second, last = (microseconds(hour(at)) for at in (0, 2, 3))
    found = rows_of_series(
        warehouse,
        tenant,
        Selection(),
        Stretch(Series("acme", "sub", "calls"), Series("acme", "sub", "users"), exact=False),
        aggregations={"sum", "latest"},
        merging=Merging(["calls", "last"], ["last"], [first, second], last),
    ).to_pylist()
    told = {
        meter: sorted(
            (row["bucket_start"], row["events"], row["sum"], row["max"], row["latest_value"])
            for row in found
            if row["meter"] == meter
        )
        for meter in ("calls", "last")
    }
    assert told["last"] == [
        (hour(0), 2, 3, None, 1),
        (hour(2), 2, 7, None, 3),
        (hour(4), 1, 5, None, 4),
    ]
    assert told["calls"] == [(*each[:4], None) for each in told["last"]]
    users = [(row["bucket_start"], row["revision"]) for row in found if row["meter"] == "users"]
    assert sorted(users) == [(hour(at), at + 1) for at in range(5)]
