"""Uvicorn's HTTP protocol with bounds on a request: the size of its head, the time of all of it.

Uvicorn bounds neither with httptools, so a sender of endless headers would fill the memory, and
one of slow headers, or of a slow body that nobody reads, would hold its connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import bodies

MOST_HEAD = 64 * 1024
HEAD_SECONDS = 15.0
BODY_SECONDS = bodies.SECONDS + 5
"""Who reads a body says before that it is late; this is for those that nobody reads."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request has a head that is too large, or is too slow."""

    _head = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection must begin a request in time."""
        super().connection_made(transport)
        self._begin(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head."""
        if self._timer is None and self._head >= 0:
            self._begin(HEAD_SECONDS)
        self._head += len(data) if self._head >= 0 else 0
        super().data_received(data)
        if self._timer is None and self._head < 0:
            self._begin(BODY_SECONDS)
        if self._head > MOST_HEAD and not self.transport.is_closing():
            self._end()
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The head is there; what follows is a body."""
        self._end()
        self._head = -1
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The next head may begin; its time counts from its first byte on."""
        self._end()
        self._head = 0
        super().on_message_complete()

    def _begin(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._late)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()
