"""The SQL merge against a slow model in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from decimal import Context, Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.warehouse.rows import hour, usage, usage_table, value, values_table
from warehouse.client import Warehouse
from warehouse.merging import UsageSpan, merged_usage
from warehouse.writes import insert_usage, insert_usage_values

EXACT = Context(prec=200)
NUMBERS = st.integers(-(10**27) + 1, 10**27 - 1).map(lambda scaled: Decimal(scaled).scaleb(-12))


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    given_row = usage(
        external_customer_id=draw(st.sampled_from(["a", "a", "a", "b"])),
        external_subscription_id=draw(st.sampled_from(["", "s1"])),
        meter=draw(st.sampled_from(["m", "m", "n"])),
        group_key=draw(st.sampled_from(["{}", '{"r":"x"}'])),
        bucket_start=hour(draw(st.integers(0, 2))),
        events=draw(st.integers(0, 4)),
        revision=draw(st.integers(1, 2)),
        sum=draw(NUMBERS),
        min=draw(st.none() | NUMBERS),
        max=draw(st.none() | NUMBERS),
    )
    if draw(st.booleans()):
        given_row |= {
            "latest_at": hour(draw(st.integers(0, 2))),
            "latest_id": draw(st.sampled_from(["a", "B", "é", "z", "\U0001f600", "\uffff"])),
            "latest_value": draw(NUMBERS),
        }
    return given_row


def key_of(given_row: dict[str, Any]) -> tuple[Any, ...]:
    names = (
        "external_customer_id",
        "meter",
        "external_subscription_id",
        "group_key",
        "bucket_start",
    )
    return tuple(given_row[name] for name in names)


spans = st.tuples(
    st.sampled_from(["a", "a", "b"]),
    st.sampled_from([None, "s1"]),
    st.integers(0, 1).map(hour),
    st.integers(1, 3).map(hour),
)


def model(
    rows: list[dict[str, Any]],
    hashes: dict[tuple[Any, ...], set[int]],
    wanted: list[tuple[str, str | None, datetime, datetime]],
    by_group: bool,
) -> list[dict[str, Any]]:
    winners: dict[tuple[Any, ...], dict[str, Any]] = {}
    for candidate in rows:
        best = winners.get(key_of(candidate), candidate)
        if (candidate["revision"], candidate["events"]) >= (best["revision"], best["events"]):
            winners[key_of(candidate)] = candidate
    cells: dict[tuple[int, str, str], list[dict[str, Any]]] = defaultdict(list)
    for winner in winners.values():
        for span, (customer, subscription, start, end) in enumerate(wanted):
            if (
                winner["events"]
                and winner["external_customer_id"] == customer
                and winner["external_subscription_id"] == (subscription or "")
                and start <= winner["bucket_start"] < end
            ):
                group = winner["group_key"] if by_group else "{}"
                cells[span, winner["meter"], group].append(winner)
    merged = []
    for (span, meter, group), parts in sorted(cells.items()):
        total = Decimal(0)
        for part in parts:
            total = EXACT.add(total, part["sum"])
        latest = max(
            (
                (part["latest_at"], part["latest_id"].encode(), part["latest_value"])
                for part in parts
                if part["latest_at"]
            ),
            default=(None, b"", None),
        )
        merged.append(
            {
                "span": span,
                "meter": meter,
                "group_key": group,
                "events": sum(part["events"] for part in parts),
                "sum": total,
                "min": min((p["min"] for p in parts if p["min"] is not None), default=None),
                "max": max((p["max"] for p in parts if p["max"] is not None), default=None),
                "latest_at": latest[0],
                "latest_id": latest[1].decode(),
                "latest_value": latest[2],
                "distinct": len(set().union(*(hashes[(*key_of(p), p["revision"])] for p in parts))),
                "revision": max(part["revision"] for part in parts),
            }
        )
    return merged


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        row(), min_size=4, max_size=12, unique_by=lambda r: (key_of(r), r["revision"], r["events"])
    ),
    values=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4)), max_size=20),
    wanted=st.lists(spans, min_size=1, max_size=5),
    by_group=st.booleans(),
)
def test_the_merge_is_that_of_the_model(
    warehouse: Warehouse,
    unique: Callable[[], str],
    rows: list[dict[str, Any]],
    values: list[tuple[int, int]],
    wanted: list[tuple[str, str | None, datetime, datetime]],
    by_group: bool,
) -> None:
    tenant = unique()
    hashes: dict[tuple[Any, ...], set[int]] = defaultdict(set)
    stored = []
    for index, byte in values:
        if index < len(rows):
            owner = rows[index]
            hashes[(*key_of(owner), owner["revision"])].add(byte)
            stored.append(value(byte, **owner))
    insert_usage_values(warehouse, tenant, values_table(*stored))
    insert_usage(warehouse, tenant, usage_table(*rows))
    found = merged_usage(warehouse, tenant, wanted, by_group=by_group).to_pylist()
    assert found == model(rows, hashes, wanted, by_group)


def merged(warehouse: Warehouse, tenant: str) -> dict[str, Any]:
    found = merged_usage(warehouse, tenant, [("acme", "sub", hour(0), hour(9))]).to_pylist()
    assert len(found) == 1
    return dict(found[0])


def test_rows_that_were_replaced_do_not_count(warehouse: Warehouse, tenant: str) -> None:
    for revision, events in ((1, 9), (2, 2), (1, 9)):
        table = usage_table(usage(revision=revision, events=events, sum=Decimal(events)))
        insert_usage(warehouse, tenant, table)
    found = merged(warehouse, tenant)
    assert (found["events"], found["sum"], found["revision"]) == (2, Decimal(2), 2)


def test_values_of_replaced_rows_do_not_count(warehouse: Warehouse, tenant: str) -> None:
    old = [value(byte, revision=1) for byte in (1, 2, 3)]
    new = [value(byte, revision=2) for byte in (3, 4)]
    next_hour = value(4, bucket_start=hour(1))
    insert_usage_values(warehouse, tenant, values_table(*old, *new, next_hour))
    rows = (usage(revision=1), usage(revision=2), usage(bucket_start=hour(1)))
    insert_usage(warehouse, tenant, usage_table(*rows))
    assert merged(warehouse, tenant)["distinct"] == 2


def test_the_latest_of_one_instant_is_the_greatest_id_as_bytes(
    warehouse: Warehouse, tenant: str
) -> None:
    ids = ["B", "a", "Z", "\uffff", "\U0001f600"]
    rows = [
        usage(
            bucket_start=hour(index),
            latest_at=hour(0),
            latest_id=name,
            latest_value=Decimal(index),
        )
        for index, name in enumerate(ids)
    ]
    for count, expected in ((3, "a"), (5, "\U0001f600")):
        insert_usage(warehouse, tenant, usage_table(*rows[:count]))
        found = merged(warehouse, tenant)
        assert found["latest_id"] == expected
        assert found["latest_value"] == ids.index(expected)


def test_a_sum_of_the_largest_numbers_does_not_wrap(warehouse: Warehouse, tenant: str) -> None:
    huge = Decimal("9" * 26 + "." + "9" * 12)
    table = usage_table(*(usage(bucket_start=hour(h), sum=huge) for h in range(3)))
    insert_usage(warehouse, tenant, table)
    found = merged_usage(warehouse, tenant, [("acme", "sub", hour(0), hour(9))]).to_pylist()
    assert found[0]["sum"] == EXACT.multiply(huge, Decimal(3))


def test_thousands_of_spans_keep_their_numbers(warehouse: Warehouse, tenant: str) -> None:
    table = usage_table(
        *(usage(external_customer_id=f"c{i}", events=i + 1) for i in range(0, 2000, 500))
    )
    insert_usage(warehouse, tenant, table)
    wanted: list[UsageSpan] = [(f"c{i}", "sub", hour(0), hour(1)) for i in range(2000)]
    found = merged_usage(warehouse, tenant, wanted).to_pylist()
    assert [(row["span"], row["events"]) for row in found] == [
        (0, 1),
        (500, 501),
        (1000, 1001),
        (1500, 1501),
    ]
