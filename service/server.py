"""Uvicorn, bound and limited: the process that answers.

Access lines are not logged: they would hold ids of customers. Ends on SIGINT and SIGTERM
once requests that have begun are answered.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
import uvloop
from fastapi import FastAPI

from meters.collection import keep_what_is_there
from meters.errors import BeammeterError
from service.http_protocol import BoundedProtocol
from service.settings import Settings

_GRACE_SECONDS = 15
"""For requests that have begun: events wait for their acknowledgement no longer than 10 s."""
_KEEP_ALIVE_SECONDS = 30
_MOST_CONNECTIONS = 2_000
_LEFT_SECONDS = 1.0


def serve(app: FastAPI, settings: Settings, notice: Callable[[str], None]) -> None:
    """Answer requests until asked to end.

    `notice` gets the address once the port is bound. Raises BeammeterError where it
    cannot be, or where the application does not start.
    """
    bound = _bind(settings)
    host, port = bound.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=1024,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    # What was made at the start stays for good: looking through it would stop all requests.
    keep_what_is_there()
    notice(f"listening at http://{shown}:{port}")
    with bound, _leaving_quietly():
        try:
            _run(server, bound)
        except SystemExit:
            raise BeammeterError("the service must start (see the messages above)") from None


def _run(server: uvicorn.Server, bound: socket.socket) -> None:
    """Run until the server has ended, and wait for nothing else.

    A thread may be within a statement to a warehouse that does not answer. `asyncio.run` would
    wait for it, and the loop is not closed here as it may yet say that it is done.
    """
    loop = uvloop.new_event_loop()
    loop.run_until_complete(server.serve(sockets=[bound]))
    if left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.wait(left, timeout=_LEFT_SECONDS))


@contextmanager
def _leaving_quietly() -> Iterator[None]:
    """Uvicorn raises the signal that ended it once more, which must not end the process."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        where = f"{settings.host}:{settings.port}"
        raise BeammeterError(f"--port must be free (got {where}: {error.strerror})") from None
    bound.listen(1024)
    return bound
