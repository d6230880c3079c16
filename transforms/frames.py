"""Slim frames between two stages: cut by customer, and large ones by identity as well.

    slim --customer--> shard --identity--> slice

A shard that does not fit in memory is aggregated in passes, each over some of the
identities. A pass reads only its own slices of what is cut into slices already, and its
own rows of everything else, so that a large shard is not read once for each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import polars as pl
import pyarrow as pa

from transforms.narrow import narrow, widen
from transforms.spill import Spill

Frame = tuple[int, int, bytes]
"""The rows of a frame, its slice (`WHOLE`: of all identities), and what it is
fetched by (`transforms.spill`)."""

WHOLE = -1
SLICES = 8
SLICED_ROWS = 8_192
"""Frames with fewer rows than this are not worth cutting."""


def frames_of(slim: pl.DataFrame, shards: int, spill: Spill) -> list[tuple[int, Frame]]:
    """The frames of a batch with their shards, put aside.

    Cut by customer (an unknown one: by identity), so that copies meet.
    """
    if slim.is_empty():
        return []
    key = pl.coalesce(pl.col("customer").cast(pl.UInt64), pl.col("identity"))
    low = pl.col("identity_low")
    placed = slim.select(owner=(key % shards).cast(pl.Int64), slice=(low % SLICES).cast(pl.Int64))
    owner = placed["owner"].to_numpy()
    large = np.bincount(owner, minlength=shards) >= SLICED_ROWS
    # One number for shard and slice, 0 for all identities: each row is moved but once.
    places = owner * (SLICES + 1) + np.where(large[owner], placed["slice"].to_numpy() + 1, 0)
    # Integers of 16 bits are sorted by counting them.
    small = np.min_scalar_type(shards * (SLICES + 1))
    order = np.argsort(places.astype(small), kind="stable")
    sizes = np.bincount(places)
    used = np.flatnonzero(sizes).tolist()
    rows = sizes[used].tolist()
    tokens = spill.put(narrow(slim[order]), rows)
    return [
        (place // (SLICES + 1), (count, place % (SLICES + 1) - 1, token))
        for place, count, token in zip(used, rows, tokens, strict=True)
    ]


def passes_for(frames: Iterable[Frame], rows_per_pass: int) -> int:
    """How many passes a shard takes: a power of two, so that slices fit into passes."""
    needed: int = -(-sum(rows for rows, _, _ in frames) // rows_per_pass)
    return 1 << (needed - 1).bit_length() if needed else 0


def read_pass(
    frames: Iterable[Frame], number: int, passes: int, fetch: Callable[[bytes], pa.Table]
) -> pl.DataFrame:
    """The rows of one pass: those whose identity, modulo `passes`, is `number`."""
    parts: list[pa.Table] = []
    for _, part_slice, token in frames:
        if part_slice == WHOLE:
            inside = passes == 1
        elif part_slice % passes != number % SLICES:
            continue
        else:
            inside = passes <= SLICES
        part = fetch(token)
        if not inside:
            low = part.column("identity_low").to_numpy()
            part = part.filter(pa.array(low % passes == number))
        parts.append(part)
    return widen(parts)
