"""What middleware learns of a request once it is answered."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Told = Callable[[str, str, int], None]
"""Called with the path of the route, the method and the status.

What matches no route has no name of its own, so that nobody can make names: it is told as
`none`, by the method `any`. What broke off before its answer began has status 500.
"""


async def answered(app: ASGIApp, scope: Scope, receive: Receive, send: Send, told: Told) -> None:
    """Pass a request on and tell how it ended."""
    status = 500

    async def noted(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, noted)
    finally:
        route = getattr(scope.get("route"), "path", None)
        told(route or "none", scope["method"] if route else "any", status)
