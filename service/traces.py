"""A span for each request: its route, how it ended, how long it took, and nothing that was sent.

The sender's `traceparent` is its parent, so that a trace goes through from the application.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
            status = 500

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, noted)
            finally:
                if span is not None:
                    # As in the metrics: what matches no route has no name of its own.
                    route = getattr(scope.get("route"), "path", None)
                    method = scope["method"] if route else "any"
                    span.update_name(f"{method} {route or 'none'}")
                    span.set_attribute("http.request.method", method)
                    span.set_attribute("http.route", route or "none")
                    span.set_attribute("http.response.status_code", status)
