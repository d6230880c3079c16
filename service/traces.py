"""A span for each request: its route, how it ended, how long it took, and nothing that was sent.

The sender's `traceparent` is its parent, so that a trace goes through from the application.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.answered import answered
from warehouse import tracing

_PARENT = b"traceparent"


class Traces:
    """ASGI middleware, for servers that trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _PARENT), None)
        parent = None if given is None else given.decode("latin-1")
        told = {"beammeter.request_id": scope.get("request_id", "")}
        with tracing.span("request", told, kind="server", parent=parent) as span:

            def ended(route: str, method: str, status: int) -> None:
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.request.method", method)
                    span.set_attribute("http.route", route)
                    span.set_attribute("http.response.status_code", status)

            await answered(self._app, scope, receive, send, ended)
