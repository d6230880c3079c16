"""A Flink cluster and its job server, which start once for all tests of this folder.

A test leaves the cluster with a TaskManager and without jobs.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import or_skip
from tests.services.flink import FlinkCluster, JobServer


@pytest.fixture(scope="session")
def flink_cluster() -> Iterator[FlinkCluster]:
    """The cluster, started when the first test asks for it."""
    started = FlinkCluster()
    or_skip(started.start)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def cluster_server(flink_cluster: FlinkCluster) -> Iterator[JobServer]:
    """The job server of the cluster."""
    with JobServer(cluster=flink_cluster) as started:
        yield started


@pytest.fixture
def cluster(flink_cluster: FlinkCluster) -> Iterator[FlinkCluster]:
    """The cluster, whose jobs end with the test."""
    yield flink_cluster
    flink_cluster.cancel_jobs()


@pytest.fixture
def server(cluster_server: JobServer) -> JobServer:
    """Its job server."""
    return cluster_server
