"""Events of customers that a catalog does not have, and the subscriptions that events name."""

from __future__ import annotations

from tests.warehouse.rows import event, events, hour, usage, usage_table
from warehouse.client import Warehouse
from warehouse.unattributed import (
    customers_with_events,
    events_without_usage,
    named_subscriptions,
)
from warehouse.writes import insert_events, insert_usage

NAMES = ["call", "quoted'name"]
EVERYONE = ["acme", "globex", "o'hara \\ 株式会社", "silent"]


def test_they_are_found_by_name_and_time_and_copies_count_once(
    warehouse: Warehouse, tenant: str
) -> None:
    odd = EVERYONE[2]
    insert_events(
        warehouse,
        events(
            [
                event(tenant, "a", "acme", timestamp=hour(0)),
                event(tenant, "b", "globex", timestamp=hour(1), external_subscription_id="s-1"),
                event(tenant, "b", "globex", timestamp=hour(2), external_subscription_id="s-2"),
                event(tenant, "c", odd, timestamp=hour(1), event_name=NAMES[1]),
                event(tenant, "d", odd, timestamp=hour(2)),
                event(tenant, "e", odd, timestamp=hour(3)),
                event(tenant, "f", "silent", timestamp=hour(1), event_name="other"),
                event(f"{tenant}-other", "g", "silent", timestamp=hour(1)),
            ]
        ),
    )
    asked = (NAMES, hour(0), hour(3))
    assert customers_with_events(warehouse, tenant, *asked) == set(EVERYONE[:3])
    found = list(events_without_usage(warehouse, tenant, EVERYONE, *asked))
    assert [(row["customer"], row["events"], row["first"], row["last"]) for row in found] == [
        ("acme", 1, hour(0), hour(0)),
        ("globex", 1, hour(1), hour(2)),
        (odd, 2, hour(1), hour(2)),
    ]
    assert list(named_subscriptions(warehouse, tenant, EVERYONE, *asked)) == [
        {"customer": "globex", "event_name": "call", "subscription": "s-1"},
        {"customer": "globex", "event_name": "call", "subscription": "s-2"},
    ]
    # Who has usage in the span has been known when it was measured.
    insert_usage(warehouse, tenant, usage_table(usage(bucket_start=hour(2))))
    found = list(events_without_usage(warehouse, tenant, EVERYONE, *asked))
    assert [row["customer"] for row in found] == ["globex", odd]
    later = (NAMES, hour(3), hour(9))
    assert customers_with_events(warehouse, tenant, *later) == {odd}
