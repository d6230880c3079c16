"""Shards: which of a fixed number of shards a customer belongs to.

All events of a customer are in one shard, so that all copies of an event meet there.
The same rule stands as SQL in `warehouse.ownership`; a test holds the two equal.
"""

from __future__ import annotations

import xxhash


def shard_of(tenant: str, customer: str, shards: int) -> int:
    """The shard of a customer, counted from 0: 64-bit XXH3 of both ids modulo `shards`.

    Raises ValueError where there is no shard at all.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1 (got {shards})")
    return xxhash.xxh3_64_intdigest(f"{tenant}\0{customer}".encode()) % shards
