"""What dies while events flow: broker, TaskManager, warehouse. Usage is that of a backfill."""

from __future__ import annotations

import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.cli import start
from tests.conftest import or_skip
from tests.services.flink import FlinkCluster, JobServer
from tests.services.kafka import Kafka
from tests.streaming.test_stream import Stream, events, front, stream

__all__ = ["front", "stream"]

IDLE = ("--until-idle", 8)


def test_a_broker_that_is_killed_and_comes_back(stream: Stream, kafka: Kafka, prism: Path) -> None:
    url = f"chdb://{stream.folder / 'stream'}"
    stream.send(events(11, 3000))
    options = ("--runner", "prism", "--prism-location", prism)
    under_way = start(*stream.arguments(url, *options, "--until-idle", 30))
    time.sleep(5)
    kafka.kill()
    time.sleep(1)
    kafka.start()
    stream.send(events(12, 3000))
    result = under_way.wait(240)
    assert result.code == 0, result
    assert stream.usage(url) == stream.backfilled()


@pytest.mark.parametrize(
    "fault", ["status=500&code=202&times=6", "status=0&times=4", "status=200&times=3"]
)
def test_a_warehouse_that_fails_for_a_while(
    stream: Stream, front: str, prism: Path, fault: str
) -> None:
    stream.send(events(13, 2000))
    options = ("--runner", "prism", "--prism-location", prism, *IDLE)
    under_way = start(*stream.arguments(front, *options))
    place = front.rpartition("@")[2].partition("/")[0]
    _wait_for_events(place)
    stream.send(events(14, 1000))
    urllib.request.urlopen(f"http://{place}/fault?{fault}", data=b"", timeout=10).close()
    stream.send(events(15, 1000))
    result = under_way.wait()
    assert result.code == 0, result
    assert stream.usage(front) == stream.backfilled()


def _wait_for_events(place: str) -> None:
    """Until the stream has stored something; before that a failure may end it."""
    query = urllib.parse.quote("SELECT count() FROM events")
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://{place}/?query={query}", timeout=10) as answer:
                if int(answer.read()):
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("nothing was stored within two minutes")


def test_a_taskmanager_that_is_killed(stream: Stream, front: str) -> None:
    cluster = FlinkCluster()
    or_skip(cluster.start)
    try:
        with JobServer(cluster=cluster) as server:
            _through_a_kill(stream, front, cluster, server)
    finally:
        cluster.stop()


def _through_a_kill(stream: Stream, front: str, cluster: FlinkCluster, server: JobServer) -> None:
    checkpoints = ("--checkpoints", f"file://{stream.folder / 'checkpoints'}")
    options = ("--runner", "flink", "--job-endpoint", server.endpoint, *checkpoints)
    stream.send(events(16, 3000))
    under_way = start(*stream.arguments(front, *options, "--until-idle", 20))
    _wait_for_events(front.rpartition("@")[2].partition("/")[0])
    stream.send(events(17, 2000))
    time.sleep(2)
    cluster.kill_taskmanager()
    stream.send(events(18, 2000))
    cluster.start_taskmanager()
    result = under_way.wait(300)
    assert result.code == 0, result
    assert stream.usage(front) == stream.backfilled()
