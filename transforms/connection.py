"""The warehouse of a worker."""

from __future__ import annotations

from warehouse.client import Warehouse
from warehouse.failures import Retries

PATIENT = Retries(attempts=100, first_pause=0.2, longest_pause=10.0)
"""About a quarter of an hour: a stream stalls while the warehouse is away."""


def connect(url: str) -> Warehouse:
    """Connect to the warehouse that the launching command has checked already.

    Cheap where this process is connected: the engine behind it is shared.
    """
    return Warehouse.connect(url, from_environment=True)


def connect_patiently(url: str) -> Warehouse:
    """As `connect`, for a stream: an outage of minutes stalls it and fails nothing."""
    return Warehouse.connect(url, from_environment=True, retries=PATIENT)
