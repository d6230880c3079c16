"""The warehouse of a worker."""

from __future__ import annotations

from warehouse.client import Warehouse


def connect(url: str) -> Warehouse:
    """Connect to the warehouse that the launching command has checked already.

    Cheap where this process is connected: the engine behind it is shared.
    """
    return Warehouse.connect(url, from_environment=True)
