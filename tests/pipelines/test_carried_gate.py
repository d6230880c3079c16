"""What a recurring meter carries into an invoice passes the gate with it, however old it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meters.catalog import Catalog
from tests.acceptance.samples import event
from tests.pipelines.billed import Bills, seats_of
from tests.pipelines.runs import Tenant

WORLD = seats_of("acme", recurring=True)
DUE = "2026-03-01T00:00:00Z"


def seats(key: str, at: str, count: int) -> dict[str, Any]:
    return event(key, "acme", at, count, event_name="seat", external_subscription_id="s")


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("2026-02-10T12:00:00Z", id="in the period"),
        pytest.param("2026-01-10T12:00:00Z", id="before the subscription started"),
    ],
)
def test_an_invoice_waits_for_what_is_carried_into_it(
    new_tenant: Callable[[Catalog], Tenant], at: str
) -> None:
    tenant = new_tenant(WORLD)
    tenant.backfill([seats("a", "2026-01-05T12:00:00Z", 3)])
    tenant.store([seats("b", at, 4)])
    site = Bills(tenant)
    [waiting] = site.finalize(DUE)
    assert (waiting["status"], waiting["hold_reason"]) == ("held", "usage_differs")
    assert waiting["lines"][0]["quantity"] == "3"
    tenant.mark(tenant.store([seats("b", at, 4)]))
    [waiting] = site.finalize(DUE)
    assert (waiting["status"], waiting["hold_reason"]) == ("held", "dirty")
    tenant.repair()
    [final] = site.finalize(DUE)
    assert (final["status"], final["lines"][0]["quantity"]) == ("finalized", "7")
