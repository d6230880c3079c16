"""The short way in for events: the routes of `service.ingest_routes`, called directly.

    POST /v1/events ... --front--> right and rate of the key --> the route's function --> answer
    all else            -------> the application

An event costs less than what the framework does for a request: matching routes, and resolving
dependencies that are the same for all of these. So these routes are called by their path. The
application has them as well, and the OpenAPI file describes them; a test compares both ways.
"""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service import ingest_routes
from service.access import caller_of
from service.context import Service
from service.errors import ApiError, answer


class Front:
    """ASGI middleware that answers the routes that take events."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._routes: dict[str, APIRoute] = {}
        if service.intake is not None:
            routes = ingest_routes.router.routes
            self._routes = {each.path: each for each in routes if isinstance(each, APIRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        route = self._routes.get(scope["path"])
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            caller = caller_of(request, self._service, ingest_routes.RIGHT)
            response = await route.endpoint(request, caller, self._service)
        except ApiError as error:
            response = answer(error, request)
        await response(scope, receive, send)
