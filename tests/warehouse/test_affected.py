"""Affected events against a slow model in plain Python."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.catalog import Catalog
from meters.errors import WarehouseError
from tests.warehouse.rows import INSTANT, T0, digest, event, events, hour
from warehouse.affected import affected_count, affected_events, copies_of, events_exist
from warehouse.client import Warehouse
from warehouse.touched import drop_touched, hours_of_run, mark_touched_hours
from warehouse.writes import insert_events, insert_touched

CATALOG = Catalog.model_validate({"customers": [{"id": "a"}, {"id": "b"}]})


@dataclass(frozen=True)
class Copy:
    """A stored copy: of which event, with which content, when it arrived."""

    customer: str
    event_id: str
    minutes: int
    text: int
    arrived: int

    @property
    def timestamp(self) -> datetime:
        return T0 + timedelta(minutes=self.minutes)

    @property
    def identity(self) -> tuple[str, str]:
        return self.customer, self.event_id

    @property
    def content(self) -> tuple[str, str, int, int]:
        return self.customer, self.event_id, self.minutes, self.text

    def row(self, tenant: str) -> dict[str, object]:
        return event(
            tenant,
            self.event_id,
            self.customer,
            timestamp=self.timestamp,
            properties=str(self.text),
            ingested_at=T0 + timedelta(seconds=self.arrived),
            origin=f"file{self.arrived}",
        )


copies = st.builds(
    Copy,
    customer=st.sampled_from(["a", "b"]),
    event_id=st.sampled_from(["e1", "e2", "e3", "e4"]),
    minutes=st.integers(0, 12 * 60),
    text=st.integers(0, 1),
    arrived=st.integers(0, 3),
)


def touched_table(found: list[Copy]) -> pa.Table:
    return pa.table(
        {
            "external_customer_id": pa.array([copy.customer for copy in found], pa.string()),
            "identity_hash": pa.array([digest(copy.event_id) for copy in found], pa.binary(16)),
            "timestamp": pa.array([copy.timestamp for copy in found], INSTANT),
        }
    )


def floor(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def expected_events(stored: list[Copy], touched: list[Copy]) -> set[tuple[object, ...]]:
    """(content, first arrival) of every affected event, by the words of the definition."""
    identities = {copy.identity for copy in touched}
    hours = {
        (copy.customer, floor(copy.timestamp)) for copy in stored if copy.identity in identities
    }
    affected = {copy.identity for copy in stored if (copy.customer, floor(copy.timestamp)) in hours}
    firsts: dict[tuple[object, ...], int] = {}
    for copy in stored:
        if copy.identity in affected:
            firsts[copy.content] = min(copy.arrived, firsts.get(copy.content, copy.arrived))
    return {(*content, arrived) for content, arrived in firsts.items()}


def found_events(
    warehouse: Warehouse, tenant: str, run: str, shards: int
) -> list[tuple[object, ...]]:
    rows = []
    for shard in range(shards):
        for batch in affected_events(warehouse, tenant, run, shard, shards):
            for row in batch.to_pylist():
                assert int.from_bytes(row["identity_hash"][:8], "little") % shards == shard
                minutes = (row["timestamp"] - T0) // timedelta(minutes=1)
                arrived = (row["ingested_at"] - T0) // timedelta(seconds=1)
                assert row["origin"] == f"file{arrived}"
                rows.append(
                    (
                        row["external_customer_id"],
                        row["event_id"],
                        minutes,
                        int(row["properties"]),
                        arrived,
                    )
                )
    return rows


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    before=st.lists(copies, max_size=10),
    run=st.lists(copies, min_size=1, max_size=6),
    shards=st.integers(1, 3),
)
def test_affected_events_are_those_of_the_model(
    warehouse: Warehouse,
    unique: Callable[[], str],
    before: list[Copy],
    run: list[Copy],
    shards: int,
) -> None:
    tenant = unique()
    other = unique()
    insert_events(warehouse, events([copy.row(other) for copy in before + run]))
    for part in (before, run):
        insert_events(warehouse, events([copy.row(tenant) for copy in part]))
    insert_touched(warehouse, tenant, "r1", touched_table(run))
    insert_touched(warehouse, tenant, "r2", touched_table(before))
    mark_touched_hours(warehouse, tenant, "r1", shards, CATALOG)
    found = found_events(warehouse, tenant, "r1", shards)
    assert len(found) == len(set(found))
    assert set(found) == expected_events(before + run, run)
    touched = {copy.identity for copy in run}
    hours = hours_of_run(warehouse, tenant, "r1", ["a", "b"])
    assert {(row["external_customer_id"], row["hour"]) for row in hours.to_dicts()} == {
        (copy.customer, floor(copy.timestamp)) for copy in before + run if copy.identity in touched
    }
    assert affected_count(warehouse, tenant, "r1") <= len(before + run)


def test_an_old_copy_at_another_time_brings_its_own_hours_in(
    warehouse: Warehouse, tenant: str
) -> None:
    old = Copy("a", "e1", 0, 0, 0)
    neighbour = Copy("a", "e2", 59, 0, 0)
    far = Copy("a", "e3", 5 * 60, 0, 0)
    again = Copy("a", "e1", 10 * 60, 0, 1)
    insert_events(warehouse, events([c.row(tenant) for c in (old, neighbour, far, again)]))
    insert_touched(warehouse, tenant, "r", touched_table([again]))
    mark_touched_hours(warehouse, tenant, "r", 1, CATALOG)
    found = {row[1] for row in found_events(warehouse, tenant, "r", 1)}
    assert found == {"e1", "e2"}


def test_the_hour_itself_is_touched_and_no_more(warehouse: Warehouse, tenant: str) -> None:
    rows = [event(tenant, f"e{h}", timestamp=hour(h)) for h in (0, 1, 1.99, 2, 2.99, 3)]
    insert_events(warehouse, events(rows))
    touched = pa.table(
        {
            "external_customer_id": ["acme"],
            "identity_hash": pa.array([digest("e2")], pa.binary(16)),
            "timestamp": pa.array([hour(2)], INSTANT),
        }
    )
    insert_touched(warehouse, tenant, "r", touched)
    mark_touched_hours(warehouse, tenant, "r", 1, CATALOG)
    found = pa.Table.from_batches(affected_events(warehouse, tenant, "r", 0, 1))
    assert sorted(found["event_id"].to_pylist()) == ["e2", "e2.99"]


def test_affected_events_have_the_columns_of_an_event(warehouse: Warehouse, tenant: str) -> None:
    row = event(tenant, external_subscription_id="s", source=None)
    insert_events(warehouse, events([row]))
    insert_touched(warehouse, tenant, "r", touched_table([Copy("acme", "e1", 0, 0, 0)]))
    mark_touched_hours(warehouse, tenant, "r", 1, CATALOG)
    found = pa.Table.from_batches(affected_events(warehouse, tenant, "r", 0, 1)).to_pylist()
    assert found == [row]


def test_hours_must_be_marked_first(warehouse: Warehouse, tenant: str) -> None:
    insert_touched(warehouse, tenant, "r", touched_table([Copy("a", "e1", 0, 0, 0)]))
    with pytest.raises(WarehouseError, match="mark_touched_hours must be called first"):
        affected_events(warehouse, tenant, "r", 0, 1)


def test_a_run_that_touched_nothing_affects_nothing(warehouse: Warehouse, tenant: str) -> None:
    insert_events(warehouse, events([event(tenant)]))
    mark_touched_hours(warehouse, tenant, "r", 2, CATALOG)
    assert list(affected_events(warehouse, tenant, "r", 0, 2)) == []
    assert hours_of_run(warehouse, tenant, "r", ["acme"]).is_empty()


def test_marking_twice_and_touching_twice_changes_nothing(
    warehouse: Warehouse, tenant: str
) -> None:
    stored = [Copy("a", f"e{i}", 20 * i, 0, 0) for i in range(1, 5)]
    insert_events(warehouse, events([copy.row(tenant) for copy in stored]))
    for _ in range(2):
        insert_touched(warehouse, tenant, "r", touched_table(stored[:1]))
        mark_touched_hours(warehouse, tenant, "r", 3, CATALOG)
    found = found_events(warehouse, tenant, "r", 2)
    assert len(found) == len(set(found))
    assert set(found) == expected_events(stored, stored[:1])


def test_dropping_a_run_leaves_others(warehouse: Warehouse, tenant: str) -> None:
    copy = Copy("a", "e1", 0, 0, 0)
    insert_events(warehouse, events([copy.row(tenant)]))
    for run in ("r1", "it's \\ r2"):
        insert_touched(warehouse, tenant, run, touched_table([copy]))
        mark_touched_hours(warehouse, tenant, run, 1, CATALOG)
    drop_touched(warehouse, tenant, "it's \\ r2")
    drop_touched(warehouse, tenant, "it's \\ r2")
    assert list(affected_events(warehouse, tenant, "it's \\ r2", 0, 1)) == []
    assert len(found_events(warehouse, tenant, "r1", 1)) == 1


def test_copies_are_found_by_customer_and_identity(warehouse: Warehouse, tenant: str) -> None:
    stored = [
        Copy("a", "e1", 0, 0, 3),
        Copy("a", "e1", 0, 0, 1),
        Copy("a", "e1", 90, 1, 2),
        Copy("a", "e2", 0, 0, 0),
        Copy("b", "e1", 0, 0, 0),
        Copy("b", "e2", 0, 0, 0),
    ]
    insert_events(warehouse, events([copy.row(tenant) for copy in stored]))
    wanted = [("a", digest("e1")), ("b", digest("e2")), ("b", digest("e9")), ("a", digest("e1"))]
    rows = copies_of(warehouse, tenant, wanted).to_pylist()
    assert sorted(
        (r["external_customer_id"], r["event_id"], r["properties"], r["origin"]) for r in rows
    ) == [
        ("a", "e1", "0", "file1"),
        ("a", "e1", "1", "file2"),
        ("b", "e2", "0", "file0"),
    ]
    assert copies_of(warehouse, tenant, []).num_rows == 0


def test_thousands_of_identities_are_looked_up_at_once(warehouse: Warehouse, tenant: str) -> None:
    insert_events(warehouse, events([event(tenant, f"e{i}", f"c{i % 7}") for i in range(3000)]))
    wanted = [(f"c{i % 7}", digest(f"e{i}")) for i in range(6000)]
    random.Random(1).shuffle(wanted)
    assert copies_of(warehouse, tenant, wanted).num_rows == 3000


def test_a_tenant_without_events_is_known(warehouse: Warehouse, tenant: str) -> None:
    assert not events_exist(warehouse, tenant)
    insert_events(warehouse, events([event(tenant)]))
    assert events_exist(warehouse, tenant)
    assert not events_exist(warehouse, tenant + "x")
