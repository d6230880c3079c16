"""What dies while events flow: broker, workers, TaskManager, job, warehouse.

Usage is that of a backfill each time. A job that is killed and starts without state is in
`test_catalogs`.
"""

from __future__ import annotations

import signal
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.services.flink import FlinkCluster, JobServer
from tests.services.kafka import Kafka
from tests.services.workers import WorkerPool
from tests.streaming.test_stream import Stream, events, front, stream
from transforms.kafka_client import KafkaSettings, lag

__all__ = ["front", "stream"]

IDLE = ("--until-idle", 8)


def test_a_broker_that_is_killed_and_comes_back(stream: Stream, kafka: Kafka, prism: Path) -> None:
    url = f"chdb://{stream.folder / 'stream'}"
    stream.send(events(11, 3000))
    options = ("--runner", "prism", "--prism-location", prism)
    under_way = stream.start(url, *options, "--until-idle", 30)
    _wait_for_commits(stream)
    kafka.kill()
    kafka.start()
    stream.send(events(12, 3000))
    result = under_way.wait(240)
    assert result.code == 0, result
    assert stream.usage(url) == stream.backfilled()


@pytest.mark.parametrize(
    "fault",
    [
        "status=500&code=202&times=6",
        "status=0&times=4&seconds=1",
        "status=200&times=3",
        "status=500&code=210&times=8&written=50",
    ],
)
def test_a_warehouse_that_fails_for_a_while(
    stream: Stream, front: str, prism: Path, fault: str
) -> None:
    stream.send(events(13, 2000))
    options = ("--runner", "prism", "--prism-location", prism, *IDLE)
    under_way = stream.start(front, *options)
    place = front.rpartition("@")[2].partition("/")[0]
    _wait_for_events(place)
    stream.send(events(14, 1000))
    urllib.request.urlopen(f"http://{place}/fault?{fault}", data=b"", timeout=10).close()
    stream.send(events(15, 1000))
    result = under_way.wait()
    assert result.code == 0, result
    assert stream.usage(front) == stream.backfilled()


def _wait_for_commits(stream: Stream) -> None:
    """Until the stream has read all that is there; a broker that is away at the start ends it."""
    settings = KafkaSettings(stream.bootstrap, stream.topic, "beammeter-default", splits=2)
    until = time.monotonic() + 120
    while lag(settings):
        assert time.monotonic() < until, "nothing was read within two minutes"
        time.sleep(0.2)


def _wait_for_events(place: str, least: int = 1) -> None:
    """Until the stream has stored something; before that a failure may end it."""
    query = urllib.parse.quote("SELECT count() FROM events FINAL")
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://{place}/?query={query}", timeout=10) as answer:
                if int(answer.read()) >= least:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("nothing was stored within two minutes")


def flink(stream: Stream, cluster: FlinkCluster, server: JobServer) -> list[object]:
    """Options of a stream on the cluster, which ends its job there."""
    checkpoints = ("--checkpoints", f"file://{stream.folder / 'checkpoints'}")
    where = ("--job-endpoint", server.endpoint, "--flink-rest", cluster.rest)
    return ["--runner", "flink", *where, *checkpoints]


def _place(front: str) -> str:
    return front.rpartition("@")[2].partition("/")[0]


def _checkpointed(cluster: FlinkCluster, more: int = 1) -> str:
    """Where the newest checkpoint is, once `more` have been completed from now on."""
    (job,) = cluster.running_jobs()
    counted = _checkpoints(cluster, job)["counts"]["completed"]
    until = time.monotonic() + 120
    while _checkpoints(cluster, job)["counts"]["completed"] < counted + more:
        assert time.monotonic() < until, "no checkpoint within two minutes"
        time.sleep(0.2)
    return str(_checkpoints(cluster, job)["latest"]["completed"]["external_path"])


def _checkpoints(cluster: FlinkCluster, job: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.get(f"/jobs/{job}/checkpoints")
    return found


def test_a_stream_that_is_stopped_ends_its_job_on_the_cluster(
    stream: Stream, front: str, cluster: FlinkCluster, server: JobServer
) -> None:
    stream.send(events(19, 500))
    under_way = stream.start(front, *flink(stream, cluster, server))
    _wait_for_events(_place(front))
    assert len(cluster.running_jobs()) == 1
    under_way.process.send_signal(signal.SIGTERM)
    result = under_way.wait()
    assert result.code == 0, result
    assert cluster.running_jobs() == []


def test_python_workers_that_are_killed(
    stream: Stream, front: str, cluster: FlinkCluster, server: JobServer
) -> None:
    stream.send(events(20, 2000))
    with WorkerPool() as pool:
        options = (*flink(stream, cluster, server), "--until-idle", 15, "--", *pool.options)
        under_way = stream.start(front, *options)
        _wait_for_events(_place(front))
        stream.send(events(21, 2000))
        assert pool.kill_workers() > 0
        stream.send(events(22, 2000))
        result = under_way.wait(300)
    assert result.code == 0, result
    assert stream.usage(front) == stream.backfilled()


def test_a_job_that_is_killed_and_goes_on_from_its_checkpoint(
    stream: Stream, front: str, cluster: FlinkCluster, server: JobServer
) -> None:
    stream.send(events(23, 2000))
    options = flink(stream, cluster, server)
    kept = ("--", "--retain_externalized_checkpoints_on_cancellation")
    under_way = stream.start(front, *options, *kept)
    _wait_for_events(_place(front))
    checkpoint = _checkpointed(cluster)
    stream.send(events(24, 2000))
    under_way.process.kill()
    under_way.wait()
    cluster.cancel_jobs()
    stream.send(events(25, 2000))
    again = stream.start(front, *options, "--restore", checkpoint, "--until-idle", 10)
    restored = None
    until = time.monotonic() + 120
    while restored is None and time.monotonic() < until:
        for job in cluster.running_jobs():
            known = cluster.get(f"/jobs/{job}/checkpoints") or {"latest": {"restored": None}}
            restored = known["latest"]["restored"]
        time.sleep(0.2)
    result = again.wait(300)
    assert result.code == 0, result
    assert restored is not None
    assert restored["external_path"] == checkpoint
    assert stream.usage(front) == stream.backfilled()


def test_a_taskmanager_that_is_killed(
    stream: Stream, front: str, cluster: FlinkCluster, server: JobServer
) -> None:
    _through_a_kill(stream, front, cluster, server)


def _through_a_kill(stream: Stream, front: str, cluster: FlinkCluster, server: JobServer) -> None:
    stream.send(events(16, 3000))
    options = flink(stream, cluster, server)
    under_way = stream.start(front, *options, "--until-idle", 20)
    _wait_for_events(_place(front))
    stream.send(events(17, 2000))
    _checkpointed(cluster)
    cluster.kill_taskmanager()
    stream.send(events(18, 2000))
    cluster.start_taskmanager()
    result = under_way.wait(300)
    assert result.code == 0, result
    assert stream.usage(front) == stream.backfilled()
