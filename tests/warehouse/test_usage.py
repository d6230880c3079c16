"""Usage rows: which row of a key wins, and what the reads give."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.warehouse.rows import hour, usage, usage_table, value, values_table
from warehouse.client import Warehouse
from warehouse.queries import (
    max_revision,
    usage_rows,
    usage_rows_for,
    usage_values_for,
    values_of,
)
from warehouse.writes import insert_usage, insert_usage_values

FEW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ALWAYS = (hour(-1000), hour(1000))


def key_of(row: dict[str, Any]) -> tuple[object, ...]:
    names = (
        "external_customer_id",
        "meter",
        "external_subscription_id",
        "group_key",
        "bucket_start",
    )
    return tuple(row[name] for name in names)


def found(warehouse: Warehouse, tenant: str, **filters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = usage_rows(warehouse, tenant, **filters).to_pylist()
    return rows


rows = st.builds(
    lambda customer, at, group, events, revision: usage(
        external_customer_id=customer,
        bucket_start=hour(at),
        group_key=group,
        events=events,
        revision=revision,
        # Within one (revision, events) the content is the same, as in the program.
        sum=Decimal(1000 * revision + events),
    ),
    customer=st.sampled_from(["a", "b"]),
    at=st.integers(0, 3),
    group=st.sampled_from(["{}", '{"r":null}']),
    events=st.integers(0, 3),
    revision=st.integers(1, 3),
)


@FEW
@given(writes=st.lists(st.lists(rows, max_size=5), max_size=4))
def test_the_highest_revision_and_then_the_most_events_win_in_any_order(
    warehouse: Warehouse, unique: Callable[[], str], writes: list[list[dict[str, Any]]]
) -> None:
    tenant = unique()
    for part in [*writes, *writes[:1]]:
        insert_usage(warehouse, tenant, usage_table(*part))
    winners: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in (row for part in writes for row in part):
        best = winners.get(key_of(row))
        if best is None or (row["revision"], row["events"]) > (best["revision"], best["events"]):
            winners[key_of(row)] = row
    visible = {key: row for key, row in winners.items() if row["events"]}
    got = found(warehouse, tenant)
    assert {key_of(row): row for row in got} == visible
    assert len(got) == len(visible)
    with_tombstones = usage_rows_for(warehouse, tenant, [("a", *ALWAYS), ("b", *ALWAYS)])
    assert {key_of(row): row for row in with_tombstones.to_pylist()} == winners
    revisions = [row["revision"] for part in writes for row in part]
    assert max_revision(warehouse, tenant, [("a", *ALWAYS), ("b", *ALWAYS)]) == max(
        revisions, default=0
    )


def test_a_row_written_twice_is_one_row(warehouse: Warehouse, tenant: str) -> None:
    for _ in range(2):
        insert_usage(warehouse, tenant, usage_table(usage(events=7), usage(events=7)))
    assert [row["events"] for row in found(warehouse, tenant)] == [7]


def test_a_tombstone_hides_older_rows_until_a_newer_one_comes(
    warehouse: Warehouse, tenant: str
) -> None:
    insert_usage(warehouse, tenant, usage_table(usage(events=5, revision=1)))
    insert_usage(warehouse, tenant, usage_table(usage(events=0, revision=2)))
    insert_usage(warehouse, tenant, usage_table(usage(events=9, revision=1)))
    assert found(warehouse, tenant) == []
    insert_usage(warehouse, tenant, usage_table(usage(events=1, revision=3)))
    assert [row["revision"] for row in found(warehouse, tenant)] == [3]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, {0, 1, 2, 3}),
        ({"customer": "acme"}, {0, 1, 2}),
        ({"customer": "ACME"}, set()),
        ({"subscription": "sub"}, {0, 2, 3}),
        ({"subscription": ""}, {1}),
        ({"meter": "tokens"}, {2}),
        ({"start": hour(1)}, {1, 2, 3}),
        ({"end": hour(1)}, {0}),
        ({"start": hour(1), "end": hour(2)}, {1}),
        ({"customer": "acme", "meter": "calls", "end": hour(9)}, {0, 1}),
    ],
)
def test_filters_select_rows(
    warehouse: Warehouse, tenant: str, filters: dict[str, Any], expected: set[int]
) -> None:
    table = usage_table(
        usage(bucket_start=hour(0), events=1),
        usage(bucket_start=hour(1), events=2, external_subscription_id=""),
        usage(bucket_start=hour(2), events=3, meter="tokens"),
        usage(bucket_start=hour(3), events=4, external_customer_id="other"),
    )
    insert_usage(warehouse, tenant, table)
    assert {row["events"] - 1 for row in found(warehouse, tenant, **filters)} == expected


def test_spans_are_half_open_and_may_overlap(warehouse: Warehouse, tenant: str) -> None:
    table = usage_table(*(usage(bucket_start=hour(h), events=h + 1) for h in range(6)))
    insert_usage(warehouse, tenant, table)

    def hours(*spans: tuple[str, datetime, datetime]) -> list[int]:
        rows = usage_rows_for(warehouse, tenant, list(spans)).to_pylist()
        return sorted(row["events"] - 1 for row in rows)

    assert hours(("acme", hour(1), hour(3))) == [1, 2]
    assert hours(("acme", hour(1), hour(3)), ("acme", hour(2), hour(4))) == [1, 2, 3]
    assert hours(("acme", hour(0), hour(1)), ("acme", hour(4), hour(5))) == [0, 4]
    assert hours(("acme", hour(2), hour(2))) == []
    assert hours(("other", *ALWAYS)) == []
    assert hours() == []


def test_thousands_of_spans_are_read_at_once(warehouse: Warehouse, tenant: str) -> None:
    table = usage_table(
        *(usage(external_customer_id=f"c{i}", bucket_start=hour(i % 5)) for i in range(1500))
    )
    insert_usage(warehouse, tenant, table)
    spans = [(f"c{i}", hour(i % 5), hour(i % 5 + 1)) for i in range(3000)]
    assert usage_rows_for(warehouse, tenant, spans).num_rows == 1500
    assert max_revision(warehouse, tenant, spans) == 1


def test_values_belong_to_the_winning_revision(warehouse: Warehouse, tenant: str) -> None:
    insert_usage_values(
        warehouse,
        tenant,
        values_table(
            value(1, revision=1), value(2, revision=1), value(2, revision=2), value(3, revision=2)
        ),
    )
    spans = [("acme", *ALWAYS)]
    assert values_of(warehouse, tenant).num_rows == 0
    insert_usage(warehouse, tenant, usage_table(usage(revision=1)))
    assert hashes(values_of(warehouse, tenant).to_pylist()) == [1, 2]
    insert_usage(warehouse, tenant, usage_table(usage(revision=2)))
    assert hashes(values_of(warehouse, tenant).to_pylist()) == [2, 3]
    assert hashes(values_of(warehouse, tenant, customer="acme", end=hour(1)).to_pylist()) == [2, 3]
    assert values_of(warehouse, tenant, customer="other").num_rows == 0
    stored = usage_values_for(warehouse, tenant, spans).to_pylist()
    assert sorted((row["revision"], row["value_hash"][0]) for row in stored) == [
        (1, 1),
        (1, 2),
        (2, 2),
        (2, 3),
    ]
    insert_usage(warehouse, tenant, usage_table(usage(revision=3, events=0)))
    assert values_of(warehouse, tenant).num_rows == 0


def test_values_written_twice_are_one(warehouse: Warehouse, tenant: str) -> None:
    for _ in range(2):
        insert_usage_values(warehouse, tenant, values_table(value(1), value(1), value(2)))
    insert_usage(warehouse, tenant, usage_table(usage()))
    assert hashes(values_of(warehouse, tenant).to_pylist()) == [1, 2]
    assert usage_values_for(warehouse, tenant, [("acme", *ALWAYS)]).num_rows == 2


def test_values_without_a_row_count_for_the_highest_revision(
    warehouse: Warehouse, tenant: str
) -> None:
    insert_usage(warehouse, tenant, usage_table(usage(revision=2)))
    insert_usage_values(warehouse, tenant, values_table(value(1, revision=5)))
    assert max_revision(warehouse, tenant, [("acme", *ALWAYS)]) == 5
    assert max_revision(warehouse, tenant, [("acme", hour(1), hour(2))]) == 0
    assert max_revision(warehouse, tenant, []) == 0


def hashes(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(row["value_hash"][0] for row in rows)
