"""What is never billed where catalogs follow each other in time."""

from __future__ import annotations

from typing import Any

from meters.catalog import Catalog
from meters.periods import Span
from meters.timeline import ALWAYS, Timeline
from meters.zones import microseconds
from tests.warehouse.rows import T0, event, events, hour, usage, usage_table
from transforms.unbilled import never_billed
from warehouse.client import Warehouse
from warehouse.writes import insert_events, insert_usage


def catalog(*customers: str, charges: bool = True) -> Catalog:
    charge = {"id": "c", "meter": "calls", "price": {"model": "unit", "unit_amount": "1"}}
    return Catalog.model_validate(
        {
            "meters": [{"id": "calls", "event_name": "call", "aggregation": "count"}],
            "customers": [{"id": name} for name in customers],
            "plans": [{"id": "p", "currency": "EUR", "charges": [charge] if charges else []}],
            "subscriptions": [
                {"id": f"s-{name}", "customer": name, "plan": "p", "start": T0}
                for name in customers
            ],
        }
    )


def facts(warehouse: Warehouse, tenant: str, *catalogs: Catalog) -> list[tuple[Any, ...]]:
    """What the last of catalogs never bills, each of which holds from hour 0, 2, 4 ... on."""
    entries = [(microseconds(hour(2 * at)), each) for at, each in enumerate(catalogs)]
    timeline = Timeline([(ALWAYS, catalogs[0]), *entries[1:]])
    found = never_billed(catalogs[-1], timeline, warehouse, tenant, Span(T0, hour(6)))
    return [(row.customer, row.subscription, row.reason, row.value, row.events) for row in found]


def test_a_customer_is_unknown_to_the_catalog_of_the_hour(
    warehouse: Warehouse, tenant: str
) -> None:
    at = enumerate([0, 1, 2, 5])
    rows = [event(tenant, f"e{key}", "late", timestamp=hour(number)) for key, number in at]
    insert_events(warehouse, events(rows))
    both, one = catalog("acme", "late"), catalog("acme")
    # Hours that no repair will ever measure for a customer who came later.
    insert_usage(
        warehouse,
        tenant,
        usage_table(
            *(
                usage(
                    external_customer_id="late",
                    external_subscription_id="s-late",
                    bucket_start=hour(number),
                )
                for number in (2, 5)
            )
        ),
    )
    assert facts(warehouse, tenant, one, both) == [("late", None, "unknown_customer", None, 2)]
    assert facts(warehouse, tenant, both) == []
    assert facts(warehouse, tenant, both, one) == [("late", "s-late", "unknown_customer", 2, 2)]


def test_a_meter_is_for_show_only_where_no_catalog_has_charged_it(
    warehouse: Warehouse, tenant: str
) -> None:
    insert_usage(warehouse, tenant, usage_table(usage(external_subscription_id="s-acme", events=3)))
    charged, free = catalog("acme"), catalog("acme", charges=False)
    assert facts(warehouse, tenant, free) == []
    assert facts(warehouse, tenant, charged, free) == [("acme", "s-acme", "not_charged", 3, 3)]
