"""Ten million usage rows in an embedded warehouse, and the catalog they belong to.

2,000 customers with one subscription each and five meters; each meter has a row every second
hour from the start of September on, one of them in three groups:

    calls     count by region (3)   3 x 715 rows a customer
    tokens    sum                       715
    peak      max                       715
    level     latest                    715
    users     unique_count              715, with two values each

The rows come in by weeks, as a stream writes them; a twentieth comes a second time with more
events, as it does while an hour is counted. Nothing is merged by hand. The kept sums are as a
server that has been up for a while has them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from warehouse.client import Warehouse
from warehouse.parameters import Value
from warehouse.sums import Sums

CUSTOMERS = 2_000
START = datetime(2026, 9, 1, tzinfo=UTC)
SERIES = 7
WEEKS = 9

METERS = [
    {"id": "calls", "event_name": "call", "aggregation": "count", "group_by": ["region"]},
    {"id": "tokens", "event_name": "call", "aggregation": "sum", "property": "tokens"},
    {"id": "peak", "event_name": "call", "aggregation": "max", "property": "tokens"},
    {"id": "level", "event_name": "call", "aggregation": "latest", "property": "tokens"},
    {"id": "users", "event_name": "call", "aggregation": "unique_count", "property": "user"},
]

_KEYS = """
    'default' AS tenant_id,
    concat('c', leftPad(toString(number % {customers:UInt32}), 5, '0')) AS external_customer_id,
    intDiv(number, {customers:UInt32}) % 7 AS series,
    ['calls', 'calls', 'calls', 'tokens', 'peak', 'level', 'users'][series + 1] AS meter,
    concat('sub_', external_customer_id) AS external_subscription_id,
    if(series < 3, concat('{"region":"', ['ap', 'eu', 'us'][series + 1], '"}'), '{}') AS group_key,
    toDateTime64({start:DateTime64(6, 'UTC')}, 6, 'UTC')
        + toIntervalHour(2 * intDiv(number, {customers:UInt32} * 7)) AS bucket_start,
    cityHash64(number) % 1000 + 1 AS size
"""

_ROWS = f"""
INSERT INTO usage (
    tenant_id, external_customer_id, meter, external_subscription_id, group_key, bucket_start,
    bucket_end, sum, min, max, latest_value, latest_at, latest_id, events, revision, meter_hash,
    updated_at
)
SELECT tenant_id, external_customer_id, meter, external_subscription_id, group_key, bucket_start,
    bucket_start + toIntervalHour(1), size * events, 1, size, size, bucket_start, 'e',
    size + {{more:UInt32}} AS events, 0, 'h', now64(6, 'UTC')
FROM (SELECT {_KEYS} FROM numbers({{count:UInt64}}))
WHERE {{more:UInt32}} = 0 OR size <= 50
"""

_VALUES = f"""
INSERT INTO usage_values
SELECT tenant_id, external_customer_id, meter, external_subscription_id, group_key, bucket_start,
    0, toFixedString(substring(sipHash128(toString((size + value) % 500)), 1, 16), 16)
FROM (SELECT {_KEYS} FROM numbers({{count:UInt64}})) ARRAY JOIN [0, 1] AS value
WHERE meter = 'users'
"""


def customer(number: int) -> str:
    """The id of a customer."""
    return f"c{number:05}"


def write_catalog(path: Path) -> None:
    """The catalog as a file."""
    names = [customer(number) for number in range(CUSTOMERS)]
    plan = {
        "id": "pro",
        "currency": "EUR",
        "charges": [
            {"id": m["id"], "meter": m["id"], "price": {"model": "unit", "unit_amount": "0.001"}}
            for m in METERS
        ],
    }
    content = {
        "meters": METERS,
        "customers": [{"id": n, "time_zone": "Europe/Berlin", "currency": "EUR"} for n in names],
        "plans": [plan],
        "subscriptions": [
            {"id": f"sub_{n}", "customer": n, "plan": "pro", "start": "2026-08-31T22:00:00Z"}
            for n in names
        ],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def fill(url: str) -> int:
    """Write the rows, and sum them; returns how many there are."""
    with Warehouse.connect(url) as warehouse:
        hours = 84
        for week in range(WEEKS):
            steps = 43 if week == WEEKS - 1 else hours
            given: dict[str, Value] = {
                "customers": CUSTOMERS,
                "start": START + timedelta(weeks=week),
                "count": CUSTOMERS * SERIES * steps,
            }
            for more in (0, 1000):
                warehouse.command(_ROWS, {**given, "more": more})
            warehouse.command(_VALUES, given)
        Sums(warehouse).refresh()
        found = warehouse.query_rows("SELECT count() AS rows FROM usage")
        return int(str(found[0]["rows"]))
