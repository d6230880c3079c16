"""A stream that stands still turns red, whatever its process looks like, and green again."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from fastapi.testclient import TestClient

from meters.catalog import Catalog
from service.app import create_app
from service.context import Service
from service.health import Monitor, waiting_in_kafka
from service.keys import KeyStore
from service.settings import Settings
from tests.services.process import LOCALHOST, free_port
from tests.streaming.test_stream import Stream, events, front, stream
from transforms.kafka_client import KafkaSettings, group_of
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


def asked(port: int, path: str) -> tuple[int, str]:
    """What the stream's own process answers."""
    try:
        with urllib.request.urlopen(f"http://{LOCALHOST}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_stream_that_is_frozen_is_red_until_it_goes_on(stream: Stream, front: str) -> None:
    with Warehouse.connect(front) as warehouse:
        group = group_of("default")
        settings = KafkaSettings(stream.bootstrap, stream.topic, group, splits=1)
        monitor = Monitor(
            warehouse,
            "default",
            clock=lambda: datetime.now(UTC),
            waiting=waiting_in_kafka(settings),
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
            port = free_port()
            under_way = stream.start(front, "--runner", "direct", "--metrics", port)
            stream.wait_for(300)
            until(lambda: not failing(), "a stream that works must be green")
            until(lambda: asked(port, "/readyz")[0] == 200, "it must say so itself")
            status, told = asked(port, "/metrics")
            assert status == 200
            assert 'beammeter_check_ok{check="lag",tenant="default"} 1.0' in told
            assert 'beammeter_waiting_events{tenant="default"} 0.0' in told
            assert asked(port, "/elsewhere")[0] == 404
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
