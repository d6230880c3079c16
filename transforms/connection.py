"""The warehouse of a worker."""

from __future__ import annotations

import time

from transforms.stream_counts import STATS
from warehouse.client import Warehouse
from warehouse.failures import Retries

_PATIENCE_SECONDS = 900.0


def patience(job: str) -> Retries:
    """A quarter of an hour: a stream stalls while the warehouse is away, and counts it.

    Pauses stay short: a stream that waits long goes on late once the warehouse is back.
    """

    def pause(seconds: float) -> None:
        STATS.worked(job, retries=1)
        time.sleep(seconds)

    return Retries(
        attempts=10_000, first_pause=0.2, longest_pause=2.0, seconds=_PATIENCE_SECONDS, sleep=pause
    )


def connect(url: str) -> Warehouse:
    """Connect to the warehouse that the launching command has checked already.

    Cheap where this process is connected: the engine behind it is shared.
    """
    return Warehouse.connect(url, from_environment=True)


def connect_patiently(url: str, job: str) -> Warehouse:
    """As `connect`, for a stream: an outage of minutes stalls it and fails nothing."""
    return Warehouse.connect(url, from_environment=True, retries=patience(job))
