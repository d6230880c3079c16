"""Counts of the pipeline: those of the last minutes are told, those of weeks ago go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from meters.zones import microseconds
from warehouse.client import Warehouse
from warehouse.condition import read_condition
from warehouse.pulse import counts_by_second
from warehouse.stats import SINK, Stats, insert_stats

NOW = datetime.now(UTC)
AT = microseconds(NOW)


def aged(warehouse: Warehouse, tenant: str, *, days: int) -> None:
    """The tenant's rows once more, as if they had been written days ago."""
    warehouse.command(
        "INSERT INTO ingest_stats SELECT * REPLACE ("
        "concat(toString(origin), '/', toString({days:UInt32})) AS origin, "
        "recorded_at - toIntervalDay({days:UInt32}) AS recorded_at) "
        "FROM (SELECT * FROM ingest_stats FINAL WHERE tenant_id = {tenant:String} "
        "AND recorded_at > now() - INTERVAL 1 HOUR)",
        {"tenant": tenant, "days": days},
    )


def kept(warehouse: Warehouse, tenant: str) -> list[int]:
    """The age in days of each row that is stored."""
    rows = warehouse.query_rows(
        "SELECT dateDiff('day', recorded_at, now('UTC')) AS days FROM ingest_stats "
        "WHERE tenant_id = {tenant:String} ORDER BY days",
        {"tenant": tenant},
    )
    return [int(str(row["days"])) for row in rows]


def test_counts_go_after_a_week_and_what_is_told_stays_the_same(
    warehouse: Warehouse, tenant: str
) -> None:
    batch = Stats("t/0", 1, AT, read=100, accepted=90, quarantined=10)
    insert_stats(warehouse, tenant, [batch, Stats(SINK + "a", AT, AT, sink_rows=5)])
    for days in (1, 6, 8, 400):
        aged(warehouse, tenant, days=days)
    since = NOW - timedelta(minutes=5)
    before = read_condition(warehouse, tenant, at=NOW, since=since)
    assert before.counts["read"] == 100
    assert before.sink_rows == 5
    seconds = counts_by_second(warehouse, tenant, since)
    assert sum(seconds["read"].to_pylist()) == 100
    assert set(kept(warehouse, tenant)) >= {0, 1, 6}
    warehouse.command("OPTIMIZE TABLE ingest_stats FINAL")
    assert kept(warehouse, tenant) == [0, 0, 1, 1, 6, 6]
    assert read_condition(warehouse, tenant, at=NOW, since=since) == before
    assert counts_by_second(warehouse, tenant, since).equals(seconds)
