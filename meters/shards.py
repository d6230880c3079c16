"""Shards: which of a fixed number of shards a customer belongs to.

All events of a customer are in one shard, so that all copies of an event meet there.
The same rule stands as SQL in `warehouse.ownership`; a test holds the two equal.
"""

from __future__ import annotations

import xxhash


def owner_hash(tenant: str, customer: str) -> int:
    """A stable 64-bit number for a customer of a tenant: XXH3 of both ids."""
    return xxhash.xxh3_64_intdigest(f"{tenant}\0{customer}".encode())


def shard_of(tenant: str, customer: str, shards: int) -> int:
    """The shard of a customer, counted from 0: its `owner_hash` modulo `shards`.

    Raises ValueError where there is no shard at all.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1 (got {shards})")
    return owner_hash(tenant, customer) % shards
