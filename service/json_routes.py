"""Routes that take a JSON body other than events: read within limits, refused field by field.

router = APIRouter(route_class=JsonRoute)
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from service.access import known_key
from service.context import Service
from service.errors import Fault, faults_of, invalid
from service.json_shapes import check_json
from service.settings import MIB, Limits

LIMITS = Limits(body=4 * MIB, content=16 * MIB)
"""Of such a body, as sent and unpacked."""

_DUE = {"missing": "given", "extra_forbidden": "left out: it is no known field"}


class JsonRoute(APIRoute):
    """A route whose body is read for a key alone, has at most a size, and whose wrong fields
    are 400 with their paths.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the reading of the body."""
        inner = super().get_route_handler()
        if self.methods is None or "POST" not in self.methods:
            return inner

        async def handle(request: Request) -> Response:
            service = cast(Service, request.app.state.service)
            # The framework reads a body before it asks who sends it.
            known_key(request, service)
            async with service.room.body(request, LIMITS) as content:
                if content:
                    check_json(content)
                try:
                    return await inner(Request(request.scope, _once(content)))
                except RequestValidationError as error:
                    found = [_named(fault) for fault in faults_of(error)]
                    raise invalid(found, code="invalid_body") from None

        return handle


def _once(content: bytes) -> Callable[[], Coroutine[Any, Any, dict[str, Any]]]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": content, "more_body": False}

    return receive


def _named(fault: Fault) -> Fault:
    """The fault with its path as in errors of events: `fix[0].payload`."""
    first, *rest = fault.path.split(".")
    if first != "body":
        return fault
    path = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in rest)
    due = _DUE.get(fault.reason, fault.expected.removeprefix("Input should be "))
    return Fault(path.lstrip("."), fault.reason, fault.value, due)
