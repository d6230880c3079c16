"""Every request has an id: the sender's `x-request-id`, or one that is made here.

It is in the answer's header, in every error and in every line of the log.
"""

from __future__ import annotations

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_FORM = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_FIXED = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class RequestIds:
    """ASGI middleware that gives each request its id."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and mark the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = next((value for key, value in scope["headers"] if key == HEADER), b"")
        if not _FORM.fullmatch(name):
            name = secrets.token_hex(12).encode()
        scope["request_id"] = name.decode()

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, name), *_FIXED]
            await send(message)

        await self._app(scope, receive, marked)
