"""Plans, slots and written invoices that the tests of documents share."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from billing.builder import UsageOf
from billing.invoice import Invoice
from billing.slots import Slot, due
from meters.catalog import Plan
from tests.billing.given import customer, instant, plan, subscription

SEAT: dict[str, Any] = {"id": "seat", "fee": "49.00", "when": "advance"}
CALLS: dict[str, Any] = {
    "id": "calls",
    "meter": "api_calls",
    "included": 1000,
    "price": {"model": "unit", "unit_amount": "0.002"},
}
TOKENS: dict[str, Any] = {
    "id": "tokens",
    "meter": "tokens",
    "price": {
        "model": "graduated",
        "tiers": [{"up_to": 1000000, "unit_amount": "0.00001"}, {"unit_amount": "0.000008"}],
    },
}
PRO = plan([SEAT, CALLS, TOKENS])


def slots(
    tariff: Plan, start: str, as_of: str, end: str | None = None, zone: str = "UTC"
) -> list[Slot]:
    return due(subscription(start, end), tariff, customer(zone), instant(as_of))


def written(invoice: Invoice) -> dict[str, Any]:
    """The invoice as JSON text and back."""
    document: dict[str, Any] = json.loads(json.dumps(invoice.to_dict()))
    return document


def used(value: str, events: int = 1, revision: int = 0) -> UsageOf:
    return UsageOf(Decimal(value), events, revision)
