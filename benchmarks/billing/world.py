"""Customers with one subscription each, a plan of all price models, and stored usage.

Every subscription has usage of every meter in a few hours of the month; the amounts
differ from one to the next. All customers pay a tax, one in ten has a coupon and one in
twenty a credit grant.
"""

from __future__ import annotations

from datetime import UTC, datetime

from meters.catalog import Catalog
from warehouse.client import Warehouse

START = datetime(2026, 10, 1, tzinfo=UTC)
AS_OF = datetime(2026, 11, 1, tzinfo=UTC)

_PRICES: list[dict[str, object]] = [
    {"price": {"model": "unit", "unit_amount": "0.002"}},
    {"price": {"model": "unit", "unit_amount": "0.0175"}, "included": "1000"},
    {"price": {"model": "package", "amount": "1.25", "size": "250", "free_units": "100"}},
    {
        "price": {
            "model": "graduated",
            "tiers": [
                {"up_to": "1000", "unit_amount": "0.01"},
                {"up_to": "5000", "unit_amount": "0.008", "flat_amount": "2"},
                {"unit_amount": "0.005"},
            ],
        }
    },
    {
        "price": {
            "model": "volume",
            "tiers": [
                {"up_to": "2000", "unit_amount": "0.02"},
                {"up_to": "6000", "unit_amount": "0.0125"},
                {"unit_amount": "0.01", "flat_amount": "5"},
            ],
        }
    },
    {"price": {"model": "percentage", "rate": "2.9", "fixed_amount": "0.3"}},
    {
        "price": {
            "model": "graduated_percentage",
            "tiers": [{"up_to": "3000", "rate": "1.5"}, {"rate": "0.9"}],
        }
    },
    {
        "price": {"model": "unit", "unit_amount": "0.7"},
        "convert": {"divide_by": "1000", "round": "up"},
    },
    {"price": {"model": "unit", "unit_amount": "0.0003"}, "minimum": "1", "maximum": "3"},
    {
        "price": {"model": "unit", "unit_amount": "0.0141"},
        "discount": {"percent": "12.5"},
    },
]


def catalog(subscriptions: int, charges: int) -> Catalog:
    """As many customers as subscriptions, on one plan of so many usage charges."""
    return Catalog.model_validate(
        {
            "meters": [
                {
                    "id": f"meter_{at}",
                    "event_name": f"event_{at}",
                    "aggregation": "sum",
                    "property": "amount",
                }
                for at in range(charges)
            ],
            "plans": [
                {
                    "id": "standard",
                    "currency": "EUR",
                    "period": "month",
                    "charges": [
                        {"id": f"charge_{at}", "meter": f"meter_{at}", **_PRICES[at % len(_PRICES)]}
                        for at in range(charges)
                    ],
                }
            ],
            "customers": [
                {"id": _customer(at), "currency": "EUR", "tax": "vat"}
                for at in range(subscriptions)
            ],
            "subscriptions": [
                {
                    "id": _subscription(at),
                    "customer": _customer(at),
                    "plan": "standard",
                    "start": START,
                    **({"coupons": ["welcome"]} if at % 10 == 0 else {}),
                }
                for at in range(subscriptions)
            ],
            "taxes": [{"id": "vat", "rate": "19"}],
            "coupons": [{"id": "welcome", "percent": "10"}],
            "credits": [
                {
                    "id": f"grant_{at:07}",
                    "customer": _customer(at),
                    "amount": "25.00",
                    "currency": "EUR",
                    "kind": "promotional" if at % 40 else "paid",
                    "start": START,
                }
                for at in range(0, subscriptions, 20)
            ],
        }
    )


def store_usage(warehouse: Warehouse, subscriptions: int, charges: int, hours: int) -> None:
    """Usage rows of all subscriptions: so many hours a meter, written by ClickHouse itself."""
    warehouse.command(
        """
        INSERT INTO usage (
            tenant_id, external_customer_id, meter, external_subscription_id, group_key,
            bucket_start, bucket_end, sum, min, max, latest_value, latest_at, latest_id,
            events, revision, meter_hash, updated_at
        )
        SELECT 'default', concat('customer_', leftPad(toString(subscription), 7, '0')),
            concat('meter_', toString(charge)),
            concat('subscription_', leftPad(toString(subscription), 7, '0')), '{}',
            {start:DateTime64(6, 'UTC')} + INTERVAL hour * 24 HOUR AS bucket,
            bucket + INTERVAL 1 HOUR,
            toDecimal256(cityHash64(subscription, charge, hour) % 4000000, 12) / 1000 AS used,
            used, used, used, bucket, concat('e', toString(number)), 1 + number % 9, 0, 'm', bucket
        FROM (
            SELECT number, intDiv(number, {charges:UInt32} * {hours:UInt32}) AS subscription,
                intDiv(number, {hours:UInt32}) % {charges:UInt32} AS charge,
                number % {hours:UInt32} AS hour
            FROM numbers({rows:UInt64})
        )
        """,
        {
            "start": START,
            "charges": charges,
            "hours": hours,
            "rows": subscriptions * charges * hours,
        },
    )


def _customer(at: int) -> str:
    return f"customer_{at:07}"


def _subscription(at: int) -> str:
    return f"subscription_{at:07}"
