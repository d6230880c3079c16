"""The routes that take events: FlexPrice's, and under /api/v1 those of OpenMeter and Lago.

An answer says 202 (or what the peer's clients expect) once all events are durable, 207 where
some of a bulk were refused, 400 where all were, and 503 where the broker did not take them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from service import event_formats, ingest_openapi
from service.access import Caller, allowed, check_rate
from service.context import Service, service_of
from service.errors import ApiError, Fault, invalid, unavailable
from service.event_formats import CLOUD_NAMES, LAGO_NAMES, Event
from service.idempotency import Repeated, key_of
from service.intake import Taken
from service.json_shapes import Items
from service.keys import Right

router = APIRouter(tags=["events"])

JSON = "application/json"
LINES = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"

_ENCODE = msgspec.json.Encoder().encode
_MORE = 100
"""Faults that one answer tells in full."""

RIGHT: Right = "write"
"""What a key must be allowed to do for all of these routes."""

Writer = Annotated[Caller, Depends(allowed(RIGHT))]
Served = Annotated[Service, Depends(service_of)]


_Route = Callable[[Request, Caller, Service], Awaitable[Response]]


def _counted(route: _Route) -> _Route:
    """The route, whose requests are counted also where nobody can know their events."""

    @wraps(route)
    async def counted(request: Request, caller: Writer, service: Served) -> Response:
        try:
            return await route(request, caller, service)
        except ApiError as error:
            if service.intake is not None and not error.counted:
                outcomes = service.intake.outcomes
                if error.status == 503:
                    outcomes.count(failed=1)
                else:
                    outcomes.refuse(error.code)
            raise

    return counted


@dataclass(frozen=True)
class _Format:
    """How one kind of body is read and answered. With `whole`, one wrong event refuses all."""

    read: Callable[[bytes], Items[Event]]
    answer: Callable[[Items[Event], Taken], Response]
    names: Mapping[str, str]
    whole: bool
    refused: int = 400


@router.post("/v1/events", status_code=202, openapi_extra=ingest_openapi.SINGLE)
@_counted
async def ingest_event(request: Request, caller: Writer, service: Served) -> Response:
    """Take one event, as FlexPrice's clients send it."""
    _content_type(request, JSON)
    read = event_formats.single
    return await _ingest(request, caller, service, lambda _: _Format(read, _one, {}, True))


@router.post("/v1/events/bulk", status_code=202, openapi_extra=ingest_openapi.BULK)
@_counted
async def ingest_events(request: Request, caller: Writer, service: Served) -> Response:
    """Take many events: FlexPrice's `{"events": [...]}`, or one JSON object in each line."""
    kind = _content_type(request, JSON, *LINES)
    read = event_formats.bulk if kind == JSON else event_formats.lines
    return await _ingest(request, caller, service, lambda _: _Format(read, _many, {}, False))


@router.post("/api/v1/events", status_code=204, openapi_extra=ingest_openapi.PEERS)
@_counted
async def ingest_peers(request: Request, caller: Writer, service: Served) -> Response:
    """Take CloudEvents, as OpenMeter's clients send them, or one event of Lago's clients."""
    kind = _content_type(request, JSON, CLOUD_EVENT, CLOUD_EVENTS)
    customers = _customers(service)

    def choose(body: bytes) -> _Format:
        if kind == JSON and event_formats.is_lago(body):

            def read(body: bytes) -> Items[Event]:
                return event_formats.lago_event(body, customers)

            return _Format(read, _lago, LAGO_NAMES, True, refused=422)
        return _Format(event_formats.cloud_events, _nothing, CLOUD_NAMES, True)

    return await _ingest(request, caller, service, choose)


@router.post("/api/v1/events/batch", status_code=200, openapi_extra=ingest_openapi.LAGO_BATCH)
@_counted
async def ingest_lago_batch(request: Request, caller: Writer, service: Served) -> Response:
    """Take many events of Lago's clients."""
    _content_type(request, JSON)
    customers = _customers(service)

    def read(body: bytes) -> Items[Event]:
        return event_formats.lago_batch(body, customers)

    answer = _Format(read, _lago_many, LAGO_NAMES, True, refused=422)
    return await _ingest(request, caller, service, lambda _: answer)


async def _ingest(
    request: Request,
    caller: Caller,
    service: Service,
    choose: Callable[[bytes], _Format],
) -> Response:
    intake = service.intake
    if intake is None:
        raise unavailable("this server takes no events")
    if service.only_tenant is not None:
        caller.check_tenant(service.only_tenant)
    limits = service.settings.limits
    rate = caller.key.events_rate or limits.events_rate
    check_rate(service, caller.key, "events", rate)
    intake.check()
    key = key_of(request)
    async with service.room.body(request, limits) as body:
        form = choose(body)

        async def take(repeated: Repeated | None) -> Response:
            items = form.read(body)
            if items.size > limits.events:
                detail = f"a request may have {limits.events} events (got {items.size})"
                raise ApiError(413, "too_many_events", detail)
            service.rates.draw(caller.key.id, "events", rate, items.size)
            taken = await intake.take(
                caller.tenant,
                items,
                names=form.names,
                make_id=None if repeated is None else repeated.make_id,
                whole=form.whole,
            )
            return _answer(form, items, taken)

        if key is None:
            return await take(None)
        repeated = Repeated(caller.tenant, key, request.url.path, _kind(request), body)
        return await _once(service, repeated, take)


async def _once(
    service: Service, repeated: Repeated, take: Callable[[Repeated], Awaitable[Response]]
) -> Response:
    known = service.answers.begin(repeated)
    if known is not None:
        return known
    response = None
    try:
        response = await take(repeated)
    finally:
        service.answers.end(repeated, response)
    return response


def _answer(form: _Format, items: Items[Event], taken: Taken) -> Response:
    """The response; faults come in the order of the events."""
    taken.faults.sort(key=lambda fault: fault.index or 0)
    if taken.failed:
        made = {str(place): taken.made[place] for place in taken.failed if place in taken.made}
        failed = unavailable(
            f"{taken.accepted} of {items.size} events were taken, {len(taken.failed)} may not "
            f"have been ({taken.reason}): send these again with the same ids",
            accepted=taken.accepted,
            failed=taken.failed,
            event_ids=made,
            rejected=taken.faults,
        )
        failed.counted = True
        raise failed
    if taken.faults and not taken.accepted:
        wrong = len({fault.index for fault in taken.faults})
        error = invalid(taken.faults[:_MORE], status=form.refused)
        error.counted = True
        if items.size > 1:
            error.extra = {"accepted": 0, "rejected": taken.faults, "wrong": wrong}
        if form.refused == 422:
            error.extra["error_details"] = _lago_details(taken.faults, items.size > 1)
        raise error
    return form.answer(items, taken)


def _json(status: int, content: Any) -> Response:
    return Response(_ENCODE(content), status, media_type=JSON)


def _one(items: Items[Event], _taken: Taken) -> Response:
    message = "Event accepted for processing"
    return _json(202, {"message": message, "event_id": items.found[0].event_id})


def _many(items: Items[Event], taken: Taken) -> Response:
    """FlexPrice's clients read an object of strings, so what more there is are strings as well."""
    if not taken.faults:
        accepted = {
            "message": "Events accepted for processing",
            "accepted": str(taken.accepted),
            **{items.path(place, "event_id"): name for place, name in taken.made.items()},
        }
        return _json(202, accepted)
    rejected = {fault.index for fault in taken.faults}
    made = {str(place): name for place, name in taken.made.items() if place not in rejected}
    content = {
        "message": f"{len(rejected)} of {items.size} events were refused, the others accepted",
        "status": 207,
        "accepted": taken.accepted,
        "rejected": [{"detail": f.detail, **msgspec.to_builtins(f)} for f in taken.faults],
        "event_ids": made,
    }
    return _json(207, content)


def _nothing(_items: Items[Event], _taken: Taken) -> Response:
    return Response(status_code=204)


def _lago(items: Items[Event], _taken: Taken) -> Response:
    return _json(200, {"event": _lago_event(items.found[0])})


def _lago_many(items: Items[Event], _taken: Taken) -> Response:
    return _json(200, {"events": [_lago_event(event) for event in items.found]})


def _lago_event(event: Event) -> dict[str, Any]:
    return {
        "lago_id": None,
        "transaction_id": event.event_id,
        "external_subscription_id": event.external_subscription_id or "",
        "code": event.event_name,
        "timestamp": event.timestamp,
        "properties": event.properties or {},
    }


def _lago_details(faults: list[Fault], many: bool) -> dict[str, Any]:
    """Lago's form: reasons by field, in a batch by place first."""
    details: dict[str, Any] = {}
    for fault in faults:
        inner = details.setdefault(str(fault.index), {}) if many else details
        inner.setdefault(fault.path.rpartition(".")[2], []).append(fault.reason)
    return details


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _content_type(request: Request, *known: str) -> str:
    given = _kind(request)
    if given not in known:
        detail = f"content-type must be {' or '.join(known)} (got {given!r})"
        raise ApiError(415, "unsupported_content_type", detail)
    return given


def _customers(service: Service) -> Callable[[str], str | None]:
    """The customer of each subscription, in the catalogs that this server knows."""
    served = service.catalogs
    catalog = service.catalog if served is None else served.known.reading

    def customer(subscription: str) -> str | None:
        found = None if catalog is None else catalog.subscriptions_by_id.get(subscription)
        return None if found is None else found.customer

    return customer
