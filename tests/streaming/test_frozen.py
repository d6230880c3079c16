"""A stream that stands still turns red, whatever its process looks like, and green again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from fastapi.testclient import TestClient

from meters.catalog import Catalog
from service.app import create_app
from service.context import Service
from service.health import Monitor, waiting_in_kafka
from service.keys import KeyStore
from service.settings import Settings
from tests.streaming.test_stream import Stream, events, front, stream
from warehouse.client import Warehouse

__all__ = ["front", "stream"]

PATIENCE = timedelta(seconds=15)
"""More than the ten seconds after which a stream says that it lives."""
LONGEST = 180


def until(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LONGEST
    while not check():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_a_stream_that_is_frozen_is_red_until_it_goes_on(stream: Stream, front: str) -> None:
    with Warehouse.connect(front) as warehouse:
        waiting = waiting_in_kafka("default", stream.bootstrap, stream.topic, None)
        monitor = Monitor(
            warehouse,
            "default",
            clock=lambda: datetime.now(UTC),
            waiting=waiting,
            patience=PATIENCE,
        )
        keys = KeyStore(stream.folder / "keys.json")
        service = Service(Settings(), keys, Catalog(), warehouse, monitor=monitor)
        with TestClient(create_app(service)) as client:

            def failing() -> set[str]:
                answer = client.get("/readyz")
                checks = answer.json()["checks"]
                found = {check["name"] for check in checks if not check["ok"]}
                assert answer.status_code == (503 if found else 200)
                return found

            stream.send(events(31, 300))
            under_way = stream.start(front, "--runner", "direct")
            stream.wait_for(300)
            until(lambda: not failing(), "a stream that works must be green")
            under_way.process.send_signal(signal.SIGSTOP)
            stream.send(events(32, 300))
            until(lambda: failing() == {"stream", "lag"}, "a frozen stream must turn red")
            assert under_way.process.poll() is None
            under_way.process.send_signal(signal.SIGCONT)
            stream.wait_for(600)
            until(lambda: not failing(), "a stream that goes on must turn green")
            assert monitor.report().lag == 0
    under_way.process.send_signal(signal.SIGTERM)
    assert under_way.wait().code == 0
    assert stream.usage(front) == stream.backfilled()
