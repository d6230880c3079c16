"""The formats that events come in, each read into the one `Event`.

    FlexPrice   {"event_name", "external_customer_id", "event_id", "timestamp", "properties", ...}
    CloudEvents {"specversion": "1.0", "id", "source", "type", "subject", "time", "data"}
    Lago        {"transaction_id", "external_subscription_id", "code", "timestamp", "properties"}

The rules of an event are not here: `meters.decode` has them, for every way in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from meters.timestamps import FIRST_INSTANT, format_instant
from service.errors import Fault
from service.json_shapes import Items, Shape, json_errors
from transforms import json_text

_NOTHING = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")
Complain = Callable[..., None]
CustomerOf = Callable[[str], str | None]

_UNIX = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


class Event(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An event as it came, by our names. `customer_id` is FlexPrice's own id and not used."""

    event_id: str | None = None
    event_name: str | None = None
    external_customer_id: str | None = None
    external_subscription_id: str | None = None
    timestamp: str | None = None
    source: str | None = None
    properties: msgspec.Raw = _NOTHING
    customer_id: str | None = None


class CloudEvent(msgspec.Struct, gc=False):
    """CloudEvents 1.0; extension attributes are left out."""

    specversion: str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    subject: str | None = None
    time: str | None = None
    data: msgspec.Raw = _NOTHING
    data_base64: str | None = None


class LagoEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Lago's event; `timestamp` is seconds since 1970, or RFC 3339."""

    transaction_id: str | None = None
    external_subscription_id: str | None = None
    external_customer_id: str | None = None
    code: str | None = None
    timestamp: msgspec.Raw = _NOTHING
    precise_total_amount_cents: msgspec.Raw = _NOTHING
    properties: msgspec.Raw = _NOTHING


def is_missing(raw: msgspec.Raw) -> bool:
    """Whether a value was left out, or is null."""
    return raw in (_NOTHING, _NULL)


class _Bulk(msgspec.Struct, forbid_unknown_fields=True):
    events: msgspec.Raw


class _Envelope(msgspec.Struct):
    event: msgspec.Raw = _NOTHING


CLOUD_NAMES = {
    "event_id": "id",
    "event_name": "type",
    "external_customer_id": "subject",
    "timestamp": "time",
    "properties": "data",
}
LAGO_NAMES = {"event_id": "transaction_id", "event_name": "code"}

_EVENT = Shape(Event, {})
_CLOUD = Shape(CloudEvent, {})
_LAGO = Shape(LagoEvent, {})
_BULK = msgspec.json.Decoder(_Bulk)
_BULK_EXPECTED = "an object with the list events, and nothing else"
_ENVELOPE = msgspec.json.Decoder(_Envelope)


def single(body: bytes) -> Items[Event]:
    """FlexPrice's single event."""
    return _EVENT.one(body)


def bulk(body: bytes) -> Items[Event]:
    """FlexPrice's `{"events": [...]}`, or the list alone."""
    if body.lstrip()[:1] == b"[":
        return _EVENT.many(body, "[{}]")
    with json_errors(body, _BULK_EXPECTED):
        events = _BULK.decode(body).events
    return _EVENT.many(events, "events[{}]")


def lines(body: bytes) -> Items[Event]:
    """One event in each line."""
    return _EVENT.lines(body)


def cloud_events(body: bytes) -> Items[Event]:
    """One CloudEvent, or a list of them."""
    if body.lstrip()[:1] == b"[":
        return _mapped(_CLOUD.many(body, "[{}]"), _from_cloud)
    return _mapped(_CLOUD.one(body), _from_cloud)


def is_lago(body: bytes) -> bool:
    """Whether a JSON body is Lago's `{"event": ...}`."""
    if body.lstrip()[:1] != b"{":
        return False
    with json_errors(body, "a JSON object"):
        return _ENVELOPE.decode(body).event is not _NOTHING


def lago_event(body: bytes, customer_of: CustomerOf) -> Items[Event]:
    """Lago's `{"event": {...}}`; `customer_of` knows that of a subscription."""
    with json_errors(body, "a JSON object"):
        event = _ENVELOPE.decode(body).event
    return _mapped(_LAGO.one(event, "event"), _from_lago(customer_of))


def lago_batch(body: bytes, customer_of: CustomerOf) -> Items[Event]:
    """Lago's `{"events": [...]}`."""
    with json_errors(body, _BULK_EXPECTED):
        events = _BULK.decode(body).events
    return _mapped(_LAGO.many(events, "events[{}]"), _from_lago(customer_of))


def _mapped(items: Items[Any], convert: Callable[[Any, Complain], Event]) -> Items[Event]:
    """Each item by our names; an item for which `convert` complains is none."""
    mapped: Items[Event] = Items(size=items.size, paths=items.paths, faults=items.faults)
    places = []
    for index, item in zip(items.places, items.found, strict=True):
        wrong: list[Fault] = []

        def complain(
            name: str,
            reason: str,
            value: str | None,
            expected: str,
            index: int = index,
            wrong: list[Fault] = wrong,
        ) -> None:
            wrong.append(Fault(mapped.path(index, name), reason, value, expected, index))

        event = convert(item, complain)
        if wrong:
            mapped.faults += wrong
        else:
            mapped.found.append(event)
            places.append(index)
    mapped.places = places
    return mapped


def _from_cloud(given: CloudEvent, complain: Complain) -> Event:
    if given.specversion != "1.0":
        complain("specversion", "invalid_field", given.specversion, "'1.0'")
    for name in ("id", "source"):
        if getattr(given, name) is None:
            complain(name, "missing_field", None, "present")
    if given.data_base64 is not None:
        complain("data_base64", "unknown_field", None, "left out: data must be a JSON object")
    return Event(
        event_id=given.id,
        event_name=given.type,
        external_customer_id=given.subject,
        timestamp=given.time,
        source=given.source,
        properties=given.data,
    )


def _from_lago(customer_of: CustomerOf) -> Callable[[LagoEvent, Complain], Event]:
    def convert(given: LagoEvent, complain: Complain) -> Event:
        if given.transaction_id is None:
            complain("transaction_id", "missing_field", None, "present")
        subscription = given.external_subscription_id
        customer = given.external_customer_id
        if customer is None and subscription is None:
            complain("external_subscription_id", "missing_field", None, "present")
        elif customer is None and (customer := customer_of(subscription or "")) is None:
            expected = "a subscription of the catalog, as external_customer_id is missing"
            complain("external_subscription_id", "unknown_subscription", subscription, expected)
        timestamp = lago_time(given.timestamp)
        if timestamp is None and not is_missing(given.timestamp):
            text = bytes(given.timestamp).decode()
            expected = "seconds since 1970, or an RFC 3339 time with an offset"
            complain("timestamp", "invalid_timestamp", text[:200], expected)
        properties = given.properties
        amount = given.precise_total_amount_cents
        if not is_missing(amount):
            if is_missing(properties):
                properties = msgspec.Raw(b"{}")
            if bytes(properties).lstrip()[:1] == b"{":
                extra = {"precise_total_amount_cents": amount}
                properties = msgspec.Raw(json_text.merged_object(bytes(properties), extra))
        return Event(
            event_id=given.transaction_id,
            event_name=given.code,
            external_customer_id=customer,
            external_subscription_id=subscription,
            timestamp=timestamp,
            properties=properties,
        )

    return convert


def lago_time(raw: bytes | msgspec.Raw) -> str | None:
    """Lago's time as RFC 3339; None where there is none, or it is no time."""
    text = bytes(raw).decode()
    if text.startswith('"'):
        text = msgspec.json.decode(raw, type=str)
    if _UNIX.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        micros = int(seconds) * 1_000_000 + int(fraction[:6].ljust(6, "0") or 0)
        try:
            return format_instant(FIRST_INSTANT + timedelta(microseconds=micros))
        except OverflowError:
            return None
    return text if "T" in text.upper() else None
