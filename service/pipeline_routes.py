"""The pipeline over HTTP: what arrives, how it is, and one event's way."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from meters.catalog import Catalog
from meters.scalars import parse_json
from meters.timestamps import format_instant
from service.access import Caller, allowed, anyone
from service.answers import json_answer, shown
from service.context import Service, now, service_of
from service.errors import ApiError
from service.metrics import CONTENT_TYPE
from service.reader import MOST_TEXT, Reads, ago
from service.trace import trace
from warehouse.pulse import COUNTS, counts_by_second, newest_events

router = APIRouter(tags=["pipeline"])
health = APIRouter(tags=["health"])

Name = Annotated[str, Query(max_length=MOST_TEXT)]


@health.get("/readyz", dependencies=[Depends(anyone)])
def readyz(service: Annotated[Service, Depends(service_of)]) -> Response:
    """Whether events become usage: 503 where the warehouse is away or a stream stands still."""
    if service.monitor is None:
        return json_answer({"status": "ok", "checks": []})
    report = service.monitor.report()
    answer = json_answer(report.readiness())
    answer.status_code = 200 if report.ok else 503
    return answer


@health.get("/metrics")
def metrics(
    caller: Annotated[Caller, Depends(allowed("read"))],
    service: Annotated[Service, Depends(service_of)],
) -> Response:
    """Metrics for Prometheus, which gives its key as a bearer token."""
    caller.check_tenant(service.settings.tenant)
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


@router.get("/v1/status")
def status(read: Reads, service: Annotated[Service, Depends(service_of)]) -> Response:
    """The condition of the pipeline, with what was read in the last five minutes."""
    del read
    assert service.monitor is not None
    return json_answer(service.monitor.report().to_dict(service.outcomes))


@router.get("/v1/live")
def live(
    read: Reads,
    seconds: Annotated[int, Query(ge=1, le=900)] = 120,
    customer: Name | None = None,
    limit: Annotated[int, Query(ge=0, le=100)] = 20,
) -> Response:
    """Counts of each of the last seconds, and the events that were stored last."""
    at, since = now(), ago(seconds=seconds)
    rates = counts_by_second(read.warehouse, read.tenant, since).to_pylist()
    newest = newest_events(
        read.warehouse, read.tenant, since, customer=customer, limit=limit
    ).to_pylist()
    return json_answer(
        {
            "at": format_instant(at),
            "since": format_instant(since),
            "seconds": [
                {"at": format_instant(row["second"]), **{name: row[name] for name in COUNTS}}
                for row in rates
            ],
            "events": [
                {**shown(row), "properties": parse_json(row["properties"])} for row in newest
            ],
        }
    )


@router.get("/v1/events/trace")
def traced(
    read: Reads,
    event_id: Annotated[str, Query(alias="id", min_length=1, max_length=MOST_TEXT)],
    customer: Name | None = None,
) -> Response:
    """One event's way: copies, quarantine, meters, bucket, usage row, period, invoice line."""
    found = trace(read.in_time, read.warehouse, read.tenant, event_id, customer)
    if not found:
        raise ApiError(404, "not_found", f"no event has the id {event_id!r}")
    return json_answer({"id": event_id, "items": found})


@router.get("/v1/catalog")
def catalog(read: Reads) -> Response:
    """The names of the catalog: meters, customers, plans and subscriptions."""
    return json_answer(_names(read.catalog, read.tenant))


def _names(catalog: Catalog, tenant: str) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "meters": [
            {
                "id": meter.id,
                "event_name": meter.event_name,
                "aggregation": meter.aggregation,
                "property": meter.property,
                "group_by": meter.group_by,
                "description": meter.description,
            }
            for meter in catalog.meters
        ],
        "customers": [
            {"id": each.id, "time_zone": each.time_zone, "currency": each.currency}
            for each in catalog.customers
        ],
        "plans": [{"id": plan.id, "currency": plan.currency} for plan in catalog.plans],
        "subscriptions": [
            {
                "id": each.id,
                "customer": each.customer,
                "plan": each.plan,
                "start": _text(each.start),
                "end": _text(each.end),
            }
            for each in catalog.subscriptions
        ],
    }


def _text(at: datetime | None) -> str | None:
    return None if at is None else format_instant(at)
