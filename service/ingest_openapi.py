"""What the OpenAPI file says about the bodies of events, which are read by hand for speed."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "minLength": 1, "maxLength": 1024}
_TIME = {"type": "string", "format": "date-time"}
_PROPERTIES = {"type": "object", "additionalProperties": True}

_EVENT = {
    "type": "object",
    "required": ["event_name", "external_customer_id"],
    "additionalProperties": False,
    "properties": {
        "event_id": _TEXT,
        "event_name": _TEXT,
        "external_customer_id": _TEXT,
        "external_subscription_id": _TEXT,
        "customer_id": {"type": "string"},
        "timestamp": _TIME,
        "source": {"type": "string"},
        "properties": _PROPERTIES,
    },
}
_CLOUD = {
    "type": "object",
    "required": ["specversion", "id", "source", "type", "subject"],
    "properties": {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "id": _TEXT,
        "source": {"type": "string"},
        "type": _TEXT,
        "subject": _TEXT,
        "time": _TIME,
        "data": _PROPERTIES,
    },
}
_LAGO = {
    "type": "object",
    "required": ["transaction_id", "code", "external_subscription_id"],
    "additionalProperties": False,
    "properties": {
        "transaction_id": _TEXT,
        "external_subscription_id": _TEXT,
        "external_customer_id": _TEXT,
        "code": _TEXT,
        "timestamp": {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
        "precise_total_amount_cents": {"oneOf": [{"type": "string"}, {"type": "number"}]},
        "properties": _PROPERTIES,
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "request_id", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "message": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "reason", "value", "expected"],
                "properties": {
                    "path": {"type": "string"},
                    "reason": {"type": "string"},
                    "value": {"type": ["string", "null"]},
                    "expected": {"type": "string"},
                    "index": {"type": "integer"},
                },
            },
        },
    },
}
_PARAMETERS = [
    {
        "name": name,
        "in": "header",
        "required": False,
        "description": text,
        "schema": {"type": "string", **shape},
    }
    for name, text, shape in (
        (
            "Idempotency-Key",
            "A request that is sent again with it counts once and gets the same answer.",
            {"pattern": "^[!-~]{1,255}$"},
        ),
        ("Content-Encoding", "How the body is packed.", {"enum": ["gzip", "zstd", "identity"]}),
    )
]


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _PROBLEM}}}


_ERRORS = {
    "400": _error("An event, a header or the body is wrong; `errors` says where."),
    "401": _error("No key, or none that is in use."),
    "403": _error("The key may not do this."),
    "408": _error("The body did not come in time."),
    "409": _error("A request with this Idempotency-Key is under way."),
    "413": _error("The body, or the number of events, is too large."),
    "415": _error("The content type or encoding is not known here."),
    "422": _error("A wrong event of Lago's format, or an Idempotency-Key of another request."),
    "429": _error("The key has used up its rate; Retry-After says for how long."),
    "503": _error("The broker did not take the events; Retry-After says when to try again."),
}


def _route(bodies: dict[str, Any], success: dict[str, Any]) -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": bodies},
        "parameters": _PARAMETERS,
        "responses": {**success, **_ERRORS},
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _list(of: dict[str, Any], most: int = 10_000) -> dict[str, Any]:
    return {"type": "array", "items": of, "maxItems": most}


def _events(of: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": _list(of)},
    }


_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_PARTIAL = {
    "description": "Some events were refused: `rejected` names them.",
    "content": _json({"type": "object"}),
}

SINGLE = _route(
    _json(_EVENT), {"202": {"description": "The event is durable.", "content": _json(_STRINGS)}}
)
BULK = _route(
    {**_json(_events(_EVENT)), "application/x-ndjson": {"schema": {"type": "string"}}},
    {
        "202": {"description": "All events are durable.", "content": _json(_STRINGS)},
        "207": _PARTIAL,
    },
)
PEERS = _route(
    {
        "application/cloudevents+json": {"schema": _CLOUD},
        "application/cloudevents-batch+json": {"schema": _list(_CLOUD)},
        **_json(
            {
                "oneOf": [
                    _CLOUD,
                    _list(_CLOUD),
                    {"type": "object", "required": ["event"], "properties": {"event": _LAGO}},
                ]
            }
        ),
    },
    {
        "200": {"description": "Lago's event is durable.", "content": _json({"type": "object"})},
        "204": {"description": "The CloudEvents are durable."},
    },
)
LAGO_BATCH = _route(
    _json(_events(_LAGO)),
    {"200": {"description": "All events are durable.", "content": _json({"type": "object"})}},
)
