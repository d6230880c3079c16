"""Progress of the stream and dirty marks, on both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.shards import shard_of
from tests.warehouse.rows import INSTANT, digest, event, events, hour
from warehouse.client import Warehouse
from warehouse.ownership import (
    SHARD_OF,
    WHOLE_BUCKET,
    Owners,
    Progress,
    clear_marks,
    dirty_marks,
    mark_dirty,
    read_owners,
    read_progress,
    take_over,
    write_progress,
)
from warehouse.writes import insert_events

on_engines = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@on_engines
@given(
    pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=20),
    shards=st.integers(1, 300),
)
def test_sql_and_python_agree_on_the_shard(
    warehouse: Warehouse, pairs: list[tuple[str, str]], shards: int
) -> None:
    pairs = [*pairs, ("", ""), ("default", "é日本😀"), ("a\0", "b"), ("a", "\0b")]
    rows = warehouse.query_arrow(
        f"SELECT toUInt64({SHARD_OF}) AS shard FROM (SELECT unhex(pair.1) AS tenant_id,"
        " unhex(pair.2) AS external_customer_id"
        " FROM (SELECT arrayJoin({pairs:Array(Tuple(String, String))}) AS pair))",
        {
            "shards": shards,
            "pairs": [(a.encode().hex(), b.encode().hex()) for a, b in pairs],
        },
    )
    assert rows["shard"].to_pylist() == [shard_of(a, b, shards) for a, b in pairs]


def test_sql_agrees_for_the_columns_of_a_stored_table(warehouse: Warehouse, tenant: str) -> None:
    customers = [f"kunde-{n}-ü" for n in range(50)]
    insert_events(warehouse, events([event(tenant, customer=name) for name in customers]))
    rows = warehouse.query_rows(
        f"SELECT external_customer_id AS c, {SHARD_OF} AS shard FROM events FINAL"
        " WHERE tenant_id = {tenant:String}",
        {"tenant": tenant, "shards": 7},
    )
    assert {row["c"]: row["shard"] for row in rows} == {
        name: shard_of(tenant, name, 7) for name in customers
    }


# Progress


def test_a_tenant_without_a_stream_has_no_progress_and_owns_its_buckets(
    warehouse: Warehouse, tenant: str
) -> None:
    write_progress(warehouse, tenant + "x", [Progress(1, 0, 5, owned=True)])
    assert read_progress(warehouse, tenant) == []
    assert not read_owners(warehouse, tenant)
    assert read_owners(warehouse, tenant + "x")


writes = st.lists(
    st.lists(
        st.builds(
            Progress,
            shards=st.sampled_from([2, 3]),
            shard=st.integers(0, 1),
            closed_until=st.integers(0, 9),
            owned=st.booleans(),
        ),
        max_size=4,
    ),
    max_size=6,
)


@on_engines
@given(written=writes)
def test_closed_until_is_the_maximum_and_owned_the_last_ever_written(
    warehouse: Warehouse, unique: Callable[[], str], written: list[list[Progress]]
) -> None:
    tenant = unique()
    expected: dict[tuple[int, int], tuple[int, bool]] = {}
    for rows in written:
        write_progress(warehouse, tenant, rows)
        for row in rows:
            before = expected.get((row.shards, row.shard), (0, False))[0]
            expected[row.shards, row.shard] = (max(before, row.closed_until), row.owned)
    found = read_progress(warehouse, tenant)
    assert [(row.shards, row.shard) for row in found] == sorted(expected)
    assert {(r.shards, r.shard): (r.closed_until, r.owned) for r in found} == expected
    assert all(row.updated_at > 0 for row in found)


def test_a_row_that_is_older_says_nothing_about_the_owner_but_never_moves_time_back(
    warehouse: Warehouse, tenant: str
) -> None:
    write_progress(warehouse, tenant, [Progress(1, 0, 50, owned=False, updated_at=200)])
    write_progress(warehouse, tenant, [Progress(1, 0, 70, owned=True, updated_at=100)])
    assert read_progress(warehouse, tenant) == [Progress(1, 0, 70, owned=False, updated_at=200)]
    write_progress(warehouse, tenant, [Progress(1, 0, 60, owned=True, updated_at=300)])
    warehouse.command("OPTIMIZE TABLE progress FINAL")
    assert read_progress(warehouse, tenant) == [Progress(1, 0, 70, owned=True, updated_at=300)]


def test_the_stream_owns_what_ends_after_closed_until_of_the_customers_shard() -> None:
    names = [f"c{n}" for n in range(20)]
    owners = Owners("t", (Progress(2, 0, 100, owned=True), Progress(2, 1, 50, owned=False)))
    for name in names:
        mine = shard_of("t", name, 2) == 0
        assert owners.closed_until(name) == (100 if mine else None)
    assert {shard_of("t", name, 2) for name in names} == {0, 1}
    # A stream that was killed with another number of shards still owns what it owned.
    both = Owners("t", (*owners.rows, Progress(1, 0, 70, owned=True)))
    assert {both.closed_until(name) for name in names} == {70}


# Dirty marks


def marks(*rows: tuple[str, float, str, bytes]) -> pa.Table:
    return pa.table(
        {
            "external_customer_id": pa.array([row[0] for row in rows], pa.string()),
            "bucket_start": pa.array([hour(row[1]) for row in rows], INSTANT),
            "reason": pa.array([row[2] for row in rows], pa.string()),
            "identity_hash": pa.array([row[3] for row in rows], pa.binary(16)),
        }
    )


def found(warehouse: Warehouse, tenant: str, customer: str | None = None) -> list[Any]:
    table = dirty_marks(warehouse, tenant, customer)
    assert table.column_names[-1] == "marked_at"
    return [
        (row["external_customer_id"], row["bucket_start"], row["reason"], row["identity_hash"])
        for row in table.to_pylist()
    ]


A = ("a", 1.0, "late", digest("e1"))
B = ("a", 1.0, "conflict", digest("e1"))
C = ("b", 2.0, "late", WHOLE_BUCKET)


def test_a_mark_twice_is_one_and_marks_are_found_by_customer(
    warehouse: Warehouse, tenant: str
) -> None:
    mark_dirty(warehouse, tenant, marks(A, B, C))
    mark_dirty(warehouse, tenant, marks(A, C))
    assert found(warehouse, tenant) == [
        (name, hour(at), reason, identity) for name, at, reason, identity in (B, A, C)
    ]
    assert [row[0] for row in found(warehouse, tenant, "b")] == ["b"]
    assert found(warehouse, tenant, "c") == []
    assert found(warehouse, tenant + "x") == []


def test_no_marks_are_no_rows(warehouse: Warehouse, tenant: str) -> None:
    mark_dirty(warehouse, tenant, marks())
    clear_marks(warehouse, tenant, dirty_marks(warehouse, tenant))
    assert found(warehouse, tenant) == []


steps = st.lists(
    st.tuples(
        st.sampled_from(["mark", "see", "clear"]), st.lists(st.sampled_from([A, B, C]), max_size=3)
    ),
    max_size=10,
)


@on_engines
@given(done=steps)
def test_clearing_takes_what_was_seen_and_a_later_mark_stays(
    warehouse: Warehouse, unique: Callable[[], str], done: Sequence[tuple[str, list[Any]]]
) -> None:
    tenant = unique()
    made: dict[Any, int] = {}
    seen: dict[Any, int] = {}
    table = dirty_marks(warehouse, tenant)
    for number, (step, which) in enumerate(done):
        if step == "mark":
            mark_dirty(warehouse, tenant, marks(*which))
            made |= dict.fromkeys(which, number)
        elif step == "see":
            table, seen = dirty_marks(warehouse, tenant), dict(made)
        else:
            clear_marks(warehouse, tenant, table)
            made = {key: at for key, at in made.items() if seen.get(key) != at}
    assert sorted(found(warehouse, tenant)) == sorted(
        (name, hour(at), reason, identity) for name, at, reason, identity in made
    )


def test_marks_survive_a_merge(warehouse: Warehouse, tenant: str) -> None:
    mark_dirty(warehouse, tenant, marks(A, B))
    clear_marks(warehouse, tenant, dirty_marks(warehouse, tenant))
    mark_dirty(warehouse, tenant, marks(A))
    warehouse.command("OPTIMIZE TABLE dirty FINAL")
    assert [row[2] for row in found(warehouse, tenant)] == ["late"]


def test_an_event_knows_when_it_was_stored(warehouse: Warehouse, tenant: str) -> None:
    [before] = warehouse.query_rows("SELECT toUnixTimestamp(now()) AS t")
    insert_events(warehouse, events([event(tenant)]))
    [row] = warehouse.query_rows(
        "SELECT toUnixTimestamp(stored_at) AS t FROM events WHERE tenant_id = {tenant:String}",
        {"tenant": tenant},
    )
    assert 0 <= int(str(row["t"])) - int(str(before["t"])) < 60


def test_a_stream_takes_over_what_was_released_and_what_other_shards_had(
    warehouse: Warehouse, tenant: str
) -> None:
    take_over(warehouse, tenant, 2, closed_until=70, now=1000)
    assert read_progress(warehouse, tenant) == [
        Progress(2, shard, 70, owned=True, updated_at=1000) for shard in range(2)
    ]
    write_progress(warehouse, tenant, [Progress(2, 0, 90, owned=True, updated_at=1500)])
    write_progress(warehouse, tenant, [Progress(2, 1, 80, owned=False, updated_at=1600)])
    take_over(warehouse, tenant, 2, closed_until=0, now=2000)
    assert read_progress(warehouse, tenant) == [
        Progress(2, 0, 90, owned=True, updated_at=1500),
        Progress(2, 1, 90, owned=True, updated_at=2000),
    ]
    take_over(warehouse, tenant, 3, closed_until=0, now=3000)
    assert read_progress(warehouse, tenant) == [
        Progress(2, 0, 90, owned=False, updated_at=3000),
        Progress(2, 1, 90, owned=False, updated_at=3000),
        *(Progress(3, shard, 90, owned=True, updated_at=1500) for shard in range(3)),
    ]
