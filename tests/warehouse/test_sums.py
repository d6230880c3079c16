"""Kept sums: they answer as the hours do, whatever was written since, and only where they may.

The oracle is the same question without sums, which reads the hours alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.catalog import Aggregation
from meters.errors import WarehouseError
from tests.warehouse.rows import hour, usage, usage_table, value, values_table
from warehouse.client import Warehouse
from warehouse.overview import Dimension, usage_summary
from warehouse.parameters import json_list
from warehouse.sums import _LAST_BLOCKS, _NEW, Kept, Sums, day_of, day_start
from warehouse.usage_series import Selection
from warehouse.writes import insert_usage, insert_usage_values

ALL: set[Aggregation] = {"count", "sum", "max", "min", "latest", "unique_count"}
DAYS = 3
SPAN = (hour(0), hour(24 * DAYS))

METERS = ["calls", "users"]
GROUPS = ["{}", '{"region":"eu"}', '{"region":"us"}']
QUESTIONS: list[tuple[list[Dimension], str | None]] = [
    (["meter"], None),
    (["meter", "hour"], None),
    (["meter", "day"], None),
    (["meter", "month"], None),
    (["meter", "group"], "region"),
    (["meter", "day", "group"], "region"),
    (["meter", "customer"], None),
    (["meter", "subscription"], None),
]

FROM_EACH: list[list[Dimension]] = [["meter"], ["meter", "customer"]]
"""What `usage_hours` answers, and what `usage_days` does."""


def asked(
    warehouse: Warehouse,
    tenant: str,
    sums: Sums | None,
    by: list[Dimension],
    group: str | None = None,
    *,
    chosen: Selection | None = None,
    zone: str = "Europe/Berlin",
    counted: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    chosen = chosen or Selection()
    rows: list[dict[str, Any]] = usage_summary(
        warehouse,
        tenant,
        chosen,
        by,
        zone=zone,
        group=group,
        aggregations=ALL,
        counted=counted,
        sums=sums,
    ).to_pylist()
    return rows


def kept(sums: Sums) -> Kept:
    found = sums.of(*SPAN)
    assert found is not None
    return found


def days(*numbers: int) -> list[int]:
    return [day_of(hour(24 * number)) for number in numbers]


def put(warehouse: Warehouse, tenant: str, **given: Any) -> None:
    insert_usage(warehouse, tenant, usage_table(usage(**given)))


@st.composite
def written(draw: st.DrawFn) -> dict[str, Any]:
    """One usage row as somebody may write it: late, again, at a higher revision, as a tombstone."""
    at = hour(draw(st.integers(0, 24 * DAYS - 1)))
    number = Decimal(draw(st.integers(-5, 5)))
    events = draw(st.integers(0, 3))
    return usage(
        external_customer_id=draw(st.sampled_from(["a", "b"])),
        external_subscription_id=draw(st.sampled_from(["", "s"])),
        meter=draw(st.sampled_from(METERS)),
        group_key=draw(st.sampled_from(GROUPS)),
        bucket_start=at,
        events=events,
        sum=number,
        min=number,
        max=number,
        latest_at=draw(st.sampled_from([None, at, at + timedelta(minutes=1)])),
        latest_id=draw(st.sampled_from(["e1", "e2"])),
        latest_value=number,
        revision=draw(st.integers(1, 3)),
    )


@st.composite
def spans(draw: st.DrawFn) -> Selection:
    """A part of the days, cut at hours, or all there is; of one meter, or group, or all."""
    ends = st.none() | st.integers(0, 24 * DAYS).map(hour)
    start, end = draw(ends), draw(ends)
    if start is not None and end is not None and end <= start:
        start, end = end, start + timedelta(hours=1)
    groups = draw(st.sampled_from([{}, {"region": ['"eu"']}]))
    return Selection(
        meter=draw(st.none() | st.sampled_from(METERS)), start=start, end=end, groups=groups
    )


STEPS = st.one_of(
    st.lists(written(), min_size=1, max_size=6),
    st.sampled_from(["refresh", "merge", "restart"]),
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(STEPS, min_size=1, max_size=6),
    chosen=spans(),
    questions=st.lists(
        st.sampled_from(QUESTIONS), min_size=2, max_size=3, unique_by=lambda asked: tuple(asked[0])
    ),
)
def test_answers_with_sums_are_those_without_after_any_writes_and_refreshes(
    warehouse: Warehouse,
    unique: Callable[[], str],
    steps: list[Any],
    chosen: Selection,
    questions: list[tuple[list[Dimension], str | None]],
) -> None:
    tenant = unique()
    sums = Sums(warehouse)
    for step in [*steps, "refresh"]:
        if step == "refresh":
            sums.refresh(unused_seconds=0)
        elif step == "restart":
            sums = Sums(warehouse)
        elif step == "merge":
            for table in ("usage", "usage_values"):
                warehouse.command(f"OPTIMIZE TABLE {table} FINAL")
        else:
            # A row has one content for each (revision, events), however often it is written.
            rows = [{**row, "events": row["events"] * 1000 + _mark(row)} for row in step]
            rows = [{**row, "events": 0} if row["events"] < 1000 else row for row in rows]
            distinct = [
                {**_key_of(row), "value_hash": bytes([row["events"] % 7 + number]) * 16}
                for row in rows
                if row["meter"] == "users" and row["events"]
                for number in range(2)
            ]
            insert_usage_values(warehouse, tenant, values_table(*distinct))
            insert_usage(warehouse, tenant, usage_table(*rows))
        for by, group in questions:
            counted = () if "customer" in by else ("users",)
            told = [
                asked(warehouse, tenant, each, by, group, chosen=chosen, counted=counted)
                for each in (None, sums)
            ]
            assert told[0] == told[1]


def _mark(row: dict[str, Any]) -> int:
    """A number for what a row says, so that rows with the same version are the same row."""
    latest = -1 if row["latest_at"] is None else row["latest_at"].minute
    return (int(row["sum"]) + 5) * 20 + (latest + 1) * 2 + int(row["latest_id"][1]) - 1


def _key_of(row: dict[str, Any]) -> dict[str, Any]:
    names = (
        "external_customer_id",
        "meter",
        "external_subscription_id",
        "group_key",
        "bucket_start",
        "revision",
    )
    return {name: row[name] for name in names}


def test_before_the_first_refresh_the_hours_are_read(warehouse: Warehouse, tenant: str) -> None:
    put(warehouse, tenant)
    sums = Sums(warehouse)
    assert sums.of(*SPAN) is None
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 1


def test_a_write_makes_its_own_day_old_and_no_other(warehouse: Warehouse, tenant: str) -> None:
    for number in range(DAYS):
        put(warehouse, tenant, bucket_start=hour(24 * number))
    sums = Sums(warehouse)
    sums.refresh()
    assert [day for day, _ in kept(sums).summed] == days(0, 1, 2)
    put(warehouse, tenant, bucket_start=hour(30), events=2)
    assert (kept(sums).rest, [day for day, _ in kept(sums).summed]) == (days(1), days(0, 2))
    assert sums.refresh() == 1
    assert kept(sums).rest == []


def test_a_merge_keeps_apart_what_came_after_a_sum(warehouse: Warehouse, tenant: str) -> None:
    for number in range(DAYS):
        put(warehouse, tenant, bucket_start=hour(24 * number))
    Sums(warehouse).refresh()
    put(warehouse, tenant, bucket_start=hour(24), events=2)
    warehouse.command("OPTIMIZE TABLE usage FINAL")
    sums = Sums(warehouse)  # one that has seen nothing before the merge
    sums.refresh(stopped=lambda: True)
    assert (kept(sums).rest, [day for day, _ in kept(sums).summed]) == (days(1), days(0, 2))


@pytest.mark.parametrize("column", ["usage", "usage_values"])
def test_what_is_written_during_a_refresh_is_not_lost(
    warehouse: Warehouse, tenant: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(warehouse, tenant, meter="users", events=1)
    sums = Sums(warehouse)
    command = Warehouse.command

    def disturbed(self: Warehouse, sql: str, parameters: Any = None) -> None:
        if "INSERT INTO usage_kept" in sql:
            if column == "usage":
                put(warehouse, tenant, meter="users", events=2)
            else:
                row = value(1, meter="users")
                insert_usage_values(warehouse, tenant, values_table(row))
        command(self, sql, parameters)

    monkeypatch.setattr(Warehouse, "command", disturbed)
    sums.refresh()
    monkeypatch.undo()
    assert days(0)[0] in kept(sums).rest
    [row] = asked(warehouse, tenant, sums, ["meter"], counted=("users",))
    assert (row["events"], row["distinct"]) == ((2, 0) if column == "usage" else (1, 1))


def test_a_refresh_that_breaks_off_leaves_nothing_that_is_read(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(warehouse, tenant)
    sums = Sums(warehouse)
    command = Warehouse.command

    def broken(self: Warehouse, sql: str, parameters: Any = None) -> None:
        if "INSERT INTO usage_kept" in sql:
            raise KeyboardInterrupt
        command(self, sql, parameters)

    monkeypatch.setattr(Warehouse, "command", broken)
    with pytest.raises(KeyboardInterrupt):
        sums.refresh()
    monkeypatch.undo()
    assert days(0)[0] in kept(sums).rest
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 1
    sums.refresh(unused_seconds=0)
    for table in ("usage_hours", "usage_days"):
        rows = warehouse.query_rows(
            f"SELECT count(DISTINCT run) AS runs FROM {table} WHERE tenant_id = {{tenant:String}}",
            {"tenant": tenant},
        )
        assert rows == [{"runs": 1}]


def test_two_who_refresh_do_not_harm_each_other(warehouse: Warehouse, tenant: str) -> None:
    put(warehouse, tenant)
    one, other = Sums(warehouse), Sums(warehouse)
    assert one.refresh() > 0
    put(warehouse, tenant, events=5)
    for each in (other, one):
        each.refresh()
        assert asked(warehouse, tenant, each, ["meter"])[0]["events"] == 5


def test_sums_are_read_where_they_are_fresh(warehouse: Warehouse, tenant: str) -> None:
    """Sums that say something else than the hours are believed: so they are what is read."""
    put(warehouse, tenant)
    sums = Sums(warehouse)
    sums.refresh()
    [(_, run)] = [each for each in kept(sums).summed if each[0] == days(0)[0]]
    for table, extra in (("usage_hours", ""), ("usage_days", ", external_customer_id")):
        warehouse.command(
            f"INSERT INTO {table} (tenant_id, meter, bucket_start, events, run{extra}) SELECT "
            "{tenant:String}, 'calls', {at:DateTime64(6, 'UTC')}, 41, {run:UInt64}"
            + (", 'acme'" if extra else ""),
            {"tenant": tenant, "at": hour(0), "run": run},
        )
    for by in FROM_EACH:
        assert asked(warehouse, tenant, sums, by)[0]["events"] == 42
    cut = Selection(start=hour(0), end=hour(1))
    assert asked(warehouse, tenant, sums, ["meter", "customer"], chosen=cut)[0]["events"] == 1
    put(warehouse, tenant, events=2)
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 2


@pytest.mark.parametrize("at", [datetime.fromisoformat("2299-12-31T23:00:00+00:00"), hour(0)])
def test_days_are_numbered_as_far_as_buckets_go(
    warehouse: Warehouse, tenant: str, at: datetime
) -> None:
    put(warehouse, tenant, bucket_start=at)
    sums = Sums(warehouse)
    sums.refresh()
    found = sums.of(at, None)
    assert found is not None
    assert day_of(at) in [day for day, _ in found.summed]
    chosen = Selection(start=day_start(day_of(at)))
    for by in FROM_EACH:
        assert [row["events"] for row in asked(warehouse, tenant, sums, by, chosen=chosen)] == [1]


@pytest.mark.parametrize("table", ["usage_hours", "usage_days"])
def test_sums_that_were_emptied_are_not_believed(
    warehouse: Warehouse, tenant: str, table: str
) -> None:
    put(warehouse, tenant)
    sums = Sums(warehouse)
    sums.refresh()
    assert kept(sums).rest == []
    warehouse.command(f"TRUNCATE TABLE {table}")
    for by in FROM_EACH:
        assert [row["events"] for row in asked(warehouse, tenant, sums, by)] == [1]
    sums.refresh()
    assert kept(sums).rest == []


def test_a_day_of_tombstones_alone_is_summed_once(warehouse: Warehouse, tenant: str) -> None:
    at = hour(24 * 400)
    put(warehouse, tenant, bucket_start=at, events=0)
    sums = Sums(warehouse)
    assert sums.refresh() > 0
    assert sums.refresh() == 0
    found = sums.of(at, at + timedelta(days=1))
    assert found is not None
    assert ([day for day, _ in found.summed], found.rest) == ([day_of(at)], [])
    put(warehouse, tenant, bucket_start=at, events=1, revision=2)
    for _ in range(2):
        assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 1
        sums.refresh()


@pytest.mark.parametrize("column", ["usage_block", "values_block"])
@pytest.mark.parametrize("restarted", [False, True])
def test_kept_blocks_that_the_tables_never_had_are_not_believed(
    warehouse: Warehouse, tenant: str, column: str, *, restarted: bool
) -> None:
    """As after a backup was restored: its parts are numbered anew, from 1."""
    put(warehouse, tenant)
    sums = Sums(warehouse)
    sums.refresh()
    put(warehouse, tenant, events=2)
    warehouse.command(
        "INSERT INTO usage_kept (day, run, usage_block, values_block) "
        "SELECT day, run, usage_block + 1000000 * ({column:String} = 'usage_block'), "
        "values_block + 1000000 * ({column:String} = 'values_block') FROM usage_kept FINAL",
        {"column": column},
    )
    if restarted:
        sums = Sums(warehouse)
        sums.refresh(stopped=lambda: True)
    for by in FROM_EACH:
        assert [row["events"] for row in asked(warehouse, tenant, sums, by)] == [2]
    assert warehouse.query_rows("SELECT count() AS rows FROM usage_kept") == [{"rows": 0}]
    sums.refresh()
    assert kept(sums).rest == []
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 2


def test_tables_that_lost_blocks_are_looked_at_anew(warehouse: Warehouse, tenant: str) -> None:
    at = hour(24 * 500)
    put(warehouse, tenant)
    sums = Sums(warehouse)
    sums.refresh()
    put(warehouse, tenant, bucket_start=at)
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 2
    warehouse.command(f"ALTER TABLE usage DROP PARTITION {at:%Y%m}")
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 1
    assert sums.of(None, None) is None
    sums.refresh()
    assert kept(sums).rest == []
    assert asked(warehouse, tenant, sums, ["meter"])[0]["events"] == 1


def test_days_that_cannot_be_summed_do_not_hold_up_the_others(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.sums._BATCH_ROWS", 1)
    sums = Sums(warehouse)
    sums.refresh()
    for number in range(DAYS):
        put(warehouse, tenant, bucket_start=hour(24 * number))
    command = Warehouse.command

    def failing(self: Warehouse, sql: str, parameters: Any = None) -> None:
        if "INSERT INTO usage_hours" in sql and str(days(2)[0]) in parameters["days"]:
            raise WarehouseError("too much memory")
        command(self, sql, parameters)

    monkeypatch.setattr(Warehouse, "command", failing)
    with pytest.raises(WarehouseError, match="too much memory"):
        sums.refresh()
    assert (kept(sums).rest, [day for day, _ in kept(sums).summed]) == (days(2), days(0, 1))


def test_distinct_values_count_for_what_is_summed_at_a_time(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = Sums(warehouse)
    sums.refresh()
    for number in range(2):
        at = hour(24 * number)
        put(warehouse, tenant, meter="users", bucket_start=at)
        rows = [value(each, meter="users", bucket_start=at) for each in range(10)]
        insert_usage_values(warehouse, tenant, values_table(*rows))
    command = Warehouse.command
    told = []

    def seen(self: Warehouse, sql: str, parameters: Any = None) -> None:
        if "INSERT INTO usage_hours" in sql and "uniqExactState" in sql:
            told.append(parameters["days"])
        command(self, sql, parameters)

    monkeypatch.setattr(Warehouse, "command", seen)
    # The rows that a process has counted, of both days: less than these without the values.
    counted = sum(sums._sources["usage"].rows.get(day, 0) for day in days(0, 1))
    monkeypatch.setattr("warehouse.sums._BATCH_ROWS", counted + 10)
    sums.refresh()
    assert told == [json_list([day]) for day in reversed(days(0, 1))]


def test_only_parts_with_new_blocks_are_read(warehouse: Warehouse, tenant: str) -> None:
    for number in range(2):
        put(warehouse, tenant, bucket_start=hour(24 * (600 + 40 * number)))
    [found] = warehouse.query_rows(_LAST_BLOCKS.replace(", 'usage_values'", ""))
    seen = int(str(found["block"])) - 1
    read = warehouse.query_rows(f"EXPLAIN ESTIMATE {_NEW.format(table='usage')}", {"seen": seen})
    assert [(each["parts"], each["rows"]) for each in read] == [(1, 1)]
    for table in ("usage", "usage_values"):
        ids = warehouse.query_rows(
            "SELECT partition_id FROM system.parts WHERE database = currentDatabase() "
            "AND table = {table:String}",
            {"table": table},
        )
        assert all(str(each["partition_id"]).isdigit() for each in ids)
