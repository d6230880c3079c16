"""Tenants never see each other, whatever their ids look like."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from meters.catalog import Catalog
from tests.warehouse.rows import (
    INSTANT,
    digest,
    event,
    events,
    hour,
    usage,
    usage_table,
    value,
    values_table,
)
from tests.warehouse.test_invoices import invoice, line
from tests.warehouse.test_writes import quarantine_table, refused
from warehouse.affected import (
    affected_events,
    copies_of,
    events_exist,
)
from warehouse.client import Warehouse
from warehouse.invoices import invoice_lines, list_invoices, read_invoices, write_invoices
from warehouse.merging import merged_usage
from warehouse.queries import (
    catalog_content,
    max_revision,
    quarantine_counts,
    quarantine_rows,
    usage_rows,
    usage_rows_for,
    usage_values_for,
    values_of,
)
from warehouse.touched import drop_touched, hours_of_run, mark_touched_hours
from warehouse.writes import (
    insert_catalog,
    insert_events,
    insert_quarantine,
    insert_touched,
    insert_usage,
    insert_usage_values,
)

SPANS = [("acme", hour(-100), hour(100))]


def fill(warehouse: Warehouse, tenant: str) -> None:
    """The same rows under the same ids for any tenant, `events` and amounts apart."""
    size = len(tenant)
    insert_events(warehouse, events([event(tenant, properties=tenant)]))
    touched = {
        "external_customer_id": pa.array(["acme"]),
        "identity_hash": pa.array([digest("e1")], pa.binary(16)),
        "timestamp": pa.array([hour(0)], INSTANT),
    }
    insert_touched(warehouse, tenant, "run", pa.table(touched))
    mark_touched_hours(warehouse, tenant, "run", 1, Catalog.model_validate({}))
    insert_usage_values(warehouse, tenant, values_table(value(size % 256)))
    insert_usage(warehouse, tenant, usage_table(usage(events=size, sum=Decimal(size))))
    insert_quarantine(warehouse, quarantine_table(refused(tenant, payload=tenant)))
    insert_catalog(warehouse, tenant, "hash", tenant)
    write_invoices(warehouse, tenant, [invoice("i1", line("l1", charge=tenant), number=tenant)])


def seen(warehouse: Warehouse, tenant: str) -> dict[str, Any]:
    """Everything that the reads give for a tenant, as what tells tenants apart."""
    batches = affected_events(warehouse, tenant, "run", 0, 1)
    identities = [("acme", digest("e1"))]
    return {
        "events": events_exist(warehouse, tenant),
        "copies": copies_of(warehouse, tenant, identities)["properties"].to_pylist(),
        "affected": [row["properties"] for batch in batches for row in batch.to_pylist()],
        "touched": hours_of_run(warehouse, tenant, "run", ["acme"]).height,
        "rows": usage_rows(warehouse, tenant)["events"].to_pylist(),
        "rows_for": usage_rows_for(warehouse, tenant, SPANS)["events"].to_pylist(),
        "values": values_of(warehouse, tenant)["value_hash"].to_pylist(),
        "values_for": usage_values_for(warehouse, tenant, SPANS)["value_hash"].to_pylist(),
        "revision": max_revision(warehouse, tenant, SPANS),
        "merged": [
            (row["events"], row["distinct"])
            for row in merged_usage(
                warehouse, tenant, [("acme", "sub", hour(-9), hour(9))]
            ).to_pylist()
        ],
        "quarantine": quarantine_rows(warehouse, tenant)["payload"].to_pylist(),
        "counts": quarantine_counts(warehouse, tenant),
        "catalog": catalog_content(warehouse, tenant, "hash"),
        "invoices": [document["number"] for document in list_invoices(warehouse, tenant)],
        "invoice": [d["number"] for d in read_invoices(warehouse, tenant, ["i1"]).values()],
        "lines": [row["charge"] for row in invoice_lines(warehouse, tenant, ["i1"])],
    }


def alone(tenant: str) -> dict[str, Any]:
    size = len(tenant)
    return {
        "events": True,
        "copies": [tenant],
        "affected": [tenant],
        "touched": 1,
        "rows": [size],
        "rows_for": [size],
        "values": [bytes([size % 256]) * 16],
        "values_for": [bytes([size % 256]) * 16],
        "revision": 1,
        "merged": [(size, 1)],
        "quarantine": [tenant],
        "counts": {"invalid_timestamp": 1},
        "catalog": tenant,
        "invoices": [tenant],
        "invoice": [tenant],
        "lines": [tenant],
    }


NOTHING = {
    "events": False,
    "copies": [],
    "affected": [],
    "touched": 0,
    "rows": [],
    "rows_for": [],
    "values": [],
    "values_for": [],
    "revision": 0,
    "merged": [],
    "quarantine": [],
    "counts": {},
    "catalog": None,
    "invoices": [],
    "invoice": [],
    "lines": [],
}


def test_each_tenant_sees_its_own_rows_alone(warehouse: Warehouse, tenant: str) -> None:
    tenants = [tenant, tenant + "x", tenant + "é\0'"]
    for name in tenants:
        fill(warehouse, name)
    for name in tenants:
        assert seen(warehouse, name) == alone(name)
    assert seen(warehouse, tenant + "y") == NOTHING
    drop_touched(warehouse, tenants[0], "run")
    assert hours_of_run(warehouse, tenants[1], "run", ["acme"]).height == 1


@pytest.mark.parametrize(
    "attack",
    [
        "' OR 1 = 1 --",
        "'; DROP TABLE events; --",
        "x' UNION ALL SELECT * FROM usage --",
        "\\' OR tenant_id != \\'",
        "",
    ],
)
def test_ids_that_look_like_statements_select_nothing_of_others(
    warehouse: Warehouse, tenant: str, attack: str
) -> None:
    fill(warehouse, tenant)
    if attack:
        assert seen(warehouse, attack) == NOTHING
    assert usage_rows(warehouse, tenant, customer=attack).num_rows == 0
    assert usage_rows(warehouse, tenant, meter=attack).num_rows == 0
    assert values_of(warehouse, tenant, subscription=attack).num_rows == 0
    assert usage_rows_for(warehouse, tenant, [(attack, hour(-9), hour(9))]).num_rows == 0
    assert merged_usage(warehouse, tenant, [(attack, attack, hour(-9), hour(9))]).num_rows == 0
    assert copies_of(warehouse, tenant, [(attack, digest("e1"))]).num_rows == 0
    assert quarantine_rows(warehouse, tenant, origin=attack, reason=attack).num_rows == 0
    assert catalog_content(warehouse, tenant, attack) is None
    assert read_invoices(warehouse, tenant, [attack]) == {}
    assert list_invoices(warehouse, tenant, customer=attack) == []
    assert list(affected_events(warehouse, tenant, attack, 0, 1)) == []
    drop_touched(warehouse, tenant, attack)
    assert seen(warehouse, tenant) == alone(tenant)


@pytest.mark.parametrize("strange", ["' OR 1 = 1 --", "\\", "a\tb\nc", "é😀", "{a:String}"])
def test_strange_ids_are_ids_like_others(warehouse: Warehouse, tenant: str, strange: str) -> None:
    row = event(tenant, strange, strange, external_subscription_id=strange)
    insert_events(warehouse, events([row]))
    insert_usage(
        warehouse,
        tenant,
        usage_table(
            usage(external_customer_id=strange, external_subscription_id=strange, meter=strange)
        ),
    )
    assert copies_of(warehouse, tenant, [(strange, digest(strange))]).to_pylist() == [row]
    found = usage_rows(warehouse, tenant, customer=strange, subscription=strange, meter=strange)
    assert found.num_rows == 1
    merged = merged_usage(warehouse, tenant, [(strange, strange, hour(0), hour(1))])
    assert merged["meter"].to_pylist() == [strange]
