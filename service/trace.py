"""The trace of one event: whether it counts, and from there to the line that bills it.

    id -> copies in `events`, refusals in `quarantine` -> the copy that counts
       -> for each meter: counted or why not -> subscription -> bucket -> usage row
       -> period -> line of an invoice

Which copy counts and what a meter makes of it is worked out anew from the raw event, by the
scalar rules; what is stored stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from meters.attribution import Attribution
from meters.buckets import bucket_of
from meters.catalog import Catalog, Meter
from meters.errors import Rejected
from meters.numbers import from_scaled, plain
from meters.periods import Periods, Span, calendar_months
from meters.readings import reading_of_row
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant
from service.answers import shown
from service.catalogs import InTime
from service.summaries import value_of
from transforms.conflicts import is_time_filled_in
from warehouse import event_lookup
from warehouse.client import Warehouse

Row = dict[str, Any]


def trace(
    catalogs: InTime, warehouse: Warehouse, tenant: str, event_id: str, customer: str | None
) -> list[Row]:
    """One trace for each customer that has the id; an empty list where nobody has.

    `status` is `accepted`, `conflict` (copies with other content came), `unmetered` (no
    meter counts it), or `quarantined` (no copy was accepted). Meters and attribution are
    those of the catalog that meters its hour. What a replay has settled has `settled_at`.
    """
    copies = event_lookup.event_copies(warehouse, tenant, event_id, customer)
    refusals = event_lookup.event_refusals(warehouse, tenant, event_id, customer)
    owners = [str(row["external_customer_id"]) for row in (*copies, *refusals)]
    return [
        _of_customer(
            catalogs,
            warehouse,
            tenant,
            owner,
            [row for row in copies if row["external_customer_id"] == owner],
            [row for row in refusals if row["external_customer_id"] == owner],
        )
        for owner in sorted(set(owners))
    ]


def _of_customer(
    catalogs: InTime,
    warehouse: Warehouse,
    tenant: str,
    customer: str,
    copies: Sequence[Row],
    refusals: Sequence[Row],
) -> Row:
    refused = [shown(row) for row in refusals]
    if not copies:
        return {
            "customer": customer,
            "status": "quarantined",
            "quarantined": refused,
            "event": None,
            "copies": [],
            "marks": [],
            "meters": [],
        }
    counted = copies[0]
    catalog = catalogs.metering(customer, counted["timestamp"])
    meters = []
    if customer in catalog.customers_by_id:
        attribution = Attribution(catalog)
        meters = [
            _metered(catalog, warehouse, tenant, attribution, meter, counted)
            for meter in catalog.meters
            if meter.event_name == counted["event_name"]
        ]
    marks = event_lookup.event_marks(warehouse, tenant, customer, counted["identity_hash"])
    contents = {content(row) for row in copies}
    status = "accepted" if any(each["result"] == "counted" for each in meters) else "unmetered"
    if len(contents) > 1:
        status = "conflict"
    return {
        "customer": customer,
        "known_customer": customer in catalog.customers_by_id,
        "status": status,
        "event": event_row(counted),
        "copies": [
            {
                "content_hash": row["content_hash"].hex(),
                "ingested_at": format_instant(row["ingested_at"]),
                "origin": row["origin"],
                "origin_row": row["origin_row"],
                "counts": place == 0,
                "duplicate_of": None if place == 0 else counted["content_hash"].hex(),
                "conflict": content(row) != content(counted),
            }
            for place, row in enumerate(copies)
        ],
        "quarantined": refused,
        "marks": [shown(row) for row in marks],
        "meters": meters,
    }


def event_row(row: Row) -> Row:
    """A stored event as it was sent, its properties as JSON."""
    return {
        "event_id": row["event_id"],
        "event_name": row["event_name"],
        "external_customer_id": row["external_customer_id"],
        "external_subscription_id": row.get("external_subscription_id"),
        "source": row.get("source") or None,
        "timestamp": format_instant(row["timestamp"]),
        "ingested_at": format_instant(row["ingested_at"]),
        "properties": parse_json(row["properties"]),
    }


def content(row: Row) -> str:
    """What the sender said, so that JSON written differently is the same."""
    said = event_row(row)
    del said["ingested_at"]
    if is_time_filled_in(row):
        del said["timestamp"]
    return canonical_json(said)


def _metered(
    catalog: Catalog,
    warehouse: Warehouse,
    tenant: str,
    attribution: Attribution,
    meter: Meter,
    row: Row,
) -> Row:
    at: datetime = row["timestamp"]
    customer = row["external_customer_id"]
    found: Row = {"meter": meter.id, "aggregation": meter.aggregation}
    properties = parse_json(row["properties"])
    assert isinstance(properties, dict)
    try:
        measured = reading_of_row(meter, row, properties)
    except Rejected as error:
        return {**found, "result": "refused", "reason": error.reason, "detail": error.detail}
    if measured is None:
        return {**found, "result": "filtered", "filters": {**meter.filters}}
    group, reading = measured
    explicit = row["external_subscription_id"]
    owner = attribution.subscription_for(customer, meter.id, at, explicit)
    zone = catalog.customers_by_id[customer].time_zone
    period = _period(catalog, owner, at, zone)
    bucket = bucket_of(at, zone, [period.start, period.end])
    stored = event_lookup.usage_cell(
        warehouse,
        tenant,
        customer=customer,
        subscription=owner,
        meter=meter.id,
        group=group,
        at=at,
    )
    lines = (
        event_lookup.lines_of(
            warehouse, tenant, customer=customer, subscription=owner, meter=meter.id, at=at
        )
        if owner
        else []
    )
    return {
        **found,
        "result": "counted",
        "value": None if reading.scaled is None else plain(from_scaled(reading.scaled)),
        "group": parse_json(group),
        "subscription": owner,
        "bucket": _span(bucket),
        "period": _span(period),
        "usage": None if stored is None else _usage(meter, stored),
        "lines": [
            {
                "invoice_id": line["invoice_id"],
                "status": line["status"],
                "line_id": line["line_id"],
                "charge": line["charge"],
                "quantity": line["quantity"],
                "line": parse_json(line["document"]),
            }
            for line in lines
        ],
    }


def _usage(meter: Meter, stored: Row) -> Row:
    # Distinct values are not counted for one bucket here.
    known = meter.aggregation != "unique_count"
    value = value_of(meter, {**stored, "distinct": None}) if known else None
    return {
        "value": None if value is None else plain(value),
        "events": stored["events"],
        "revision": stored["revision"],
        "updated_at": format_instant(stored["updated_at"]),
    }


def _period(catalog: Catalog, subscription: str | None, at: datetime, zone: str) -> Span:
    entry = catalog.subscriptions_by_id.get(subscription or "")
    found = None
    if entry is not None:
        plan = catalog.plans_by_id[entry.plan]
        found = Periods(entry.start, zone, plan.period, entry.end).containing(at)
    if found is None:
        found = calendar_months(zone).containing(at)
    assert found is not None
    return found


def _span(span: Span) -> dict[str, str]:
    return {"start": format_instant(span.start), "end": format_instant(span.end)}
