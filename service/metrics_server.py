"""Metrics and health of a process that serves nothing else, as a stream without a server.

    GET /metrics    for Prometheus    GET /readyz    200 or 503    GET /healthz    200

Open to whoever reaches the address, which is this machine unless told otherwise: it tells
rates, delays and the tenant's name, and nothing of a customer. A process that is frozen
does not answer, which Prometheus tells as well.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec

from meters.errors import BeammeterError, ConfigurationError
from service.health import Monitor
from service.metrics import CONTENT_TYPE, Metrics

_TIMEOUT = 10.0
_LOCALHOST = "127.0.0.1"
_JSON = "application/json"


def parse_address(text: str) -> tuple[str, int]:
    """`[HOST:]PORT`; without a host it is this machine's own address."""
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"--metrics must be [HOST:]PORT (got {text!r})")
    return host.strip("[]") or _LOCALHOST, int(port)


@contextmanager
def metrics_server(address: tuple[str, int], tenant: str, monitor: Monitor) -> Iterator[int]:
    """Answers in threads of its own during the block, which gets the port.

    Raises BeammeterError where the address is not free.
    """
    metrics = Metrics(tenant, monitor)

    class Handler(BaseHTTPRequestHandler):
        timeout = _TIMEOUT

        def do_GET(self) -> None:
            """One question."""
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, metrics.text())
            elif self.path == "/readyz":
                report = monitor.report()
                found = msgspec.json.encode(report.readiness())
                self._answer(200 if report.ok else 503, _JSON, found)
            elif self.path == "/healthz":
                self._answer(200, _JSON, b'{"status":"ok"}')
            else:
                self._answer(404, _JSON, b'{"status":404}')

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: there is no access log."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        daemon_threads = True

    try:
        server = Server(address, Handler)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        raise BeammeterError(f"--metrics must be free (got {where}: {error.strerror})") from None
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
