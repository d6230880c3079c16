"""Errors as answers: one shape for all routes, with what was wrong, where, and what was due.

    {"type": "about:blank", "title": "Bad Request", "status": 400, "code": "invalid_event",
     "detail": "timestamp must be ... (got 'yesterday')", "request_id": "...",
     "errors": [{"path": "timestamp", "reason": "invalid_timestamp", "value": "yesterday",
                 "expected": "an RFC 3339 time with an offset"}],
     "message": "timestamp must be ... (got 'yesterday')"}

Problem details by RFC 9457. `message` is what clients of FlexPrice show; they read plain JSON
alone, so an answer is `application/problem+json` only for who asks for that.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from meters.errors import JournalUnavailable, Rejected, WarehouseUnavailable

_LOG = logging.getLogger(__name__)
_PROBLEM = "application/problem+json"
_PLAIN = (str, int, float, bool, type(None))


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is wrong: where, what was found (shortened) and what was due.

    `index` is the place of an event in a bulk, counted from 0.
    """

    path: str
    reason: str
    value: str | None
    expected: str
    index: int | None = None

    @property
    def detail(self) -> str:
        """The sentence for people."""
        name = self.path or "the body"
        got = "" if self.value is None else f" (got {self.value!r})"
        return f"{name} must be {self.expected}{got}"

    @classmethod
    def of(cls, rejected: Rejected, index: int | None = None) -> Fault:
        """A refusal of the event's rules."""
        path, value = rejected.field, rejected.value
        return cls(path, rejected.reason, value, rejected.expected, index)


class ApiError(Exception):
    """A request that is answered by an error.

    `code` is a stable word for programs. `extra` members stand beside the others. `counted`
    says that the outcomes have the events of the request already.
    """

    counted = False

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.faults = tuple(faults)
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def invalid(faults: Sequence[Fault], *, status: int = 400, code: str = "invalid_event") -> ApiError:
    """The error for one or more faults; the first is told in full."""
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return ApiError(status, code, faults[0].detail + more, faults=faults)


def unavailable(detail: str, *, after: int = 1, **extra: Any) -> ApiError:
    """503 with Retry-After: trying again in `after` seconds may help."""
    return ApiError(503, "unavailable", detail, headers={"retry-after": str(after)}, extra=extra)


def answer(error: ApiError, request: Request) -> Response:
    """The response."""
    content = {
        "type": "about:blank",
        "title": http.HTTPStatus(error.status).phrase,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": _id(request),
        "errors": error.faults,
        "message": error.detail,
        **error.extra,
    }
    body = msgspec.json.encode(content)
    kind = _PROBLEM if _PROBLEM in request.headers.get("accept", "") else "application/json"
    return Response(body, error.status, error.headers, media_type=kind)


def add_handlers(app: FastAPI) -> None:
    """All errors of `app` get the one shape."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _wrong_parameters)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(WarehouseUnavailable, _no_warehouse)
    app.add_exception_handler(JournalUnavailable, _no_journal)
    app.add_exception_handler(Exception, _failed)


def _id(request: Request) -> str:
    return str(request.scope.get("request_id", ""))


async def _api_error(request: Request, error: Exception) -> Response:
    return answer(cast(ApiError, error), request)


async def _http_error(request: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)
    code = http.HTTPStatus(found.status_code).phrase.lower().replace(" ", "_")
    headers = dict(found.headers or {})
    return answer(ApiError(found.status_code, code, found.detail, headers=headers), request)


def faults_of(error: RequestValidationError) -> list[Fault]:
    """What is wrong with a request, by the place of each parameter or field."""
    return [
        Fault(
            path=".".join(str(part) for part in found["loc"]),
            reason=found["type"],
            value=_shown(found.get("input")),
            expected=found["msg"],
        )
        for found in error.errors()
    ]


async def _wrong_parameters(request: Request, error: Exception) -> Response:
    faults = faults_of(cast(RequestValidationError, error))
    detail = f"{faults[0].path}: {faults[0].expected} (got {faults[0].value!r})"
    return answer(ApiError(422, "invalid_parameter", detail, faults=faults), request)


async def _no_warehouse(request: Request, error: Exception) -> Response:
    return answer(unavailable(f"the warehouse is away: {error}", after=5), request)


async def _no_journal(request: Request, error: Exception) -> Response:
    del error
    return answer(unavailable("the journal of final invoices is away", after=5), request)


async def _failed(request: Request, error: Exception) -> Response:
    _LOG.error("request %s failed: %s", _id(request), type(error).__name__, exc_info=error)
    # This answer is made outside of the middleware that marks all others.
    headers = {"x-request-id": _id(request)}
    detail = "this request failed in the server"
    return answer(ApiError(500, "failed", detail, headers=headers), request)


def _shown(value: object) -> str | None:
    if value is None:
        return None
    text = str(value) if isinstance(value, _PLAIN) else repr(value)
    return text if len(text) <= Rejected.MAX_VALUE else text[: Rejected.MAX_VALUE] + "..."
