"""Raw events, quarantine and catalogs: written twice they count once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from meters.event import QUARANTINE_SCHEMA
from tests.warehouse.rows import event, events, hour
from warehouse.client import Warehouse
from warehouse.queries import catalog_content, quarantine_counts, quarantine_rows
from warehouse.writes import insert_catalog, insert_events, insert_quarantine


def stored_events(warehouse: Warehouse, tenant: str) -> list[dict[str, Any]]:
    return warehouse.query_rows(
        "SELECT event_id, properties, ingested_at, origin FROM events FINAL "
        "WHERE tenant_id = {tenant:String} ORDER BY event_id, properties",
        {"tenant": tenant},
    )


def test_events_written_twice_are_stored_once(warehouse: Warehouse, tenant: str) -> None:
    table = events([event(tenant, "e1"), event(tenant, "e2")])
    for _ in range(2):
        insert_events(warehouse, table)
    assert [row["event_id"] for row in stored_events(warehouse, tenant)] == ["e1", "e2"]


def test_of_equal_copies_the_first_to_arrive_stays_in_any_order(
    warehouse: Warehouse, tenant: str
) -> None:
    for name, order in (("up", (1, 2, 3)), ("down", (3, 2, 1)), ("mixed", (2, 1, 3))):
        for arrived in order:
            row = event(tenant, name, ingested_at=hour(arrived), origin=f"file{arrived}")
            insert_events(warehouse, events([row]))
    assert {(row["ingested_at"], row["origin"]) for row in stored_events(warehouse, tenant)} == {
        (hour(1), "file1")
    }


def test_copies_with_other_content_are_all_kept(warehouse: Warehouse, tenant: str) -> None:
    rows = [event(tenant, properties="{}"), event(tenant, properties='{"a":1}')]
    insert_events(warehouse, events(rows))
    found = stored_events(warehouse, tenant)
    assert sorted(row["properties"] for row in found) == sorted(row["properties"] for row in rows)


def refused(tenant: str, **given: Any) -> dict[str, Any]:
    return {
        "tenant_id": tenant,
        "origin": "file.jsonl",
        "origin_row": 7,
        "reason": "invalid_timestamp",
        "meter": "",
        "field": "timestamp",
        "detail": "timestamp must be RFC 3339 (got 'x')",
        "event_id": "e1",
        "external_customer_id": "acme",
        "payload": "{'\0",
        **given,
    }


def quarantine_table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=QUARANTINE_SCHEMA)


def test_what_was_refused_is_kept_once_for_each_row_meter_and_reason(
    warehouse: Warehouse, tenant: str
) -> None:
    rows = [
        refused(tenant),
        refused(tenant, meter="tokens", reason="missing_property"),
        refused(tenant, origin_row=8),
        refused(tenant, origin="other.csv", reason="invalid_number"),
    ]
    for _ in range(2):
        insert_quarantine(warehouse, quarantine_table(*rows))
    found = quarantine_rows(warehouse, tenant).to_pylist()
    assert sorted(({name: row[name] for name in rows[0]} for row in found), key=repr) == sorted(
        rows, key=repr
    )
    assert quarantine_counts(warehouse, tenant) == {
        "invalid_number": 1,
        "invalid_timestamp": 2,
        "missing_property": 1,
    }


def test_quarantine_is_read_by_origin_and_reason_and_at_most_so_many(
    warehouse: Warehouse, tenant: str
) -> None:
    rows = [refused(tenant, origin_row=i, origin=f"file{i % 2}") for i in range(6)]
    insert_quarantine(warehouse, quarantine_table(*rows))
    assert quarantine_rows(warehouse, tenant, origin="file1").num_rows == 3
    assert quarantine_rows(warehouse, tenant, reason="invalid_number").num_rows == 0
    assert quarantine_rows(warehouse, tenant, limit=2).num_rows == 2
    assert quarantine_counts(warehouse, tenant + "x") == {}


def test_a_catalog_is_kept_once(warehouse: Warehouse, tenant: str) -> None:
    assert insert_catalog(warehouse, tenant, "h1", "meters: []\n")
    assert not insert_catalog(warehouse, tenant, "h1", "meters: []\n")
    assert catalog_content(warehouse, tenant, "h1") == "meters: []\n"
    assert catalog_content(warehouse, tenant, "h2") is None
