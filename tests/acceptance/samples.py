"""Small catalogs and events that say only what a test is about."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
COUNT = {"id": "calls", "event_name": "call", "aggregation": "count"}
SUM = {"id": "tokens", "event_name": "call", "aggregation": "sum", "property": "v"}
LATE = "2026-09-01T00:00:00Z"
"""An `ingested_at` that is after every timestamp of the samples."""


def event(key: str, customer: str, timestamp: str, value: Any = 1, **more: Any) -> Row:
    """A call of `customer`, of size `value`."""
    return {
        "event_id": key,
        "event_name": "call",
        "external_customer_id": customer,
        "timestamp": timestamp,
        "ingested_at": LATE,
        "properties": {"v": value},
        **more,
    }


def unit(charge: str, meter: str, amount: str = "1", **more: Any) -> Row:
    """A charge at a price for each unit."""
    return {
        "id": charge,
        "meter": meter,
        "price": {"model": "unit", "unit_amount": amount},
        **more,
    }


def plan(key: str, *charges: Row, currency: str = "EUR", period: str = "month") -> Row:
    """A plan."""
    return {"id": key, "currency": currency, "period": period, "charges": list(charges)}


def subscription(key: str, customer: str, plan_id: str, start: str, end: str | None = None) -> Row:
    """A subscription."""
    row = {"id": key, "customer": customer, "plan": plan_id, "start": start}
    return row | {"end": end} if end else row


def catalog(
    customers: dict[str, str],
    subscriptions: tuple[Row, ...] = (),
    plans: tuple[Row, ...] = (),
    meters: tuple[Row, ...] = (COUNT, SUM),
) -> Row:
    """A catalog of customers (id to time zone) and the rest."""
    return {
        "meters": list(meters),
        "customers": [{"id": key, "time_zone": zone} for key, zone in customers.items()],
        "plans": list(plans),
        "subscriptions": list(subscriptions),
    }


def found(rows: list[Row], meter: str = "calls", **where: Any) -> list[tuple[Any, ...]]:
    """(start, end, value) of the rows of a meter, in order."""
    chosen = [row for row in rows if row["meter"] == meter]
    chosen = [row for row in chosen if all(row[key] == value for key, value in where.items())]
    return sorted((row["start"], row["end"], row["value"]) for row in chosen)
