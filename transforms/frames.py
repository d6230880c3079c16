"""Slim frames between two stages: cut by customer, and large ones by identity as well.

    slim --customer--> shard --identity--> slice

A shard that does not fit in memory is aggregated in passes, each over some of the
identities. A pass reads only its own slices of what is cut into slices already, and its
own rows of everything else, so that a large shard is not read once for each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import polars as pl

from meters.texts import compact
from transforms.batches import unpack

Frame = tuple[int, int, bytes]
"""The rows of a packed frame, its slice (`WHOLE`: of all identities), and what it is
fetched by (`transforms.spill`)."""

WHOLE = -1
SLICES = 8
SLICED_ROWS = 8_192
"""Frames with fewer rows than this are not worth cutting."""


def cut(slim: pl.DataFrame, shards: int) -> Iterator[tuple[int, int, pl.DataFrame]]:
    """(shard, slice, rows): by customer (an unknown one: by identity), so that copies meet."""
    owner = pl.coalesce(pl.col("customer").cast(pl.UInt64), pl.col("identity")) % shards
    placed = slim.with_columns(owner.alias("place"))
    sizes = placed["place"].value_counts()
    large = sizes.filter(pl.col("count") >= SLICED_ROWS)["place"]
    # One number for shard and slice, 0 for all identities: each row is moved but once.
    is_large = pl.col("place").is_in(large.implode())
    part_slice = pl.when(is_large).then(pl.col("identity_low") % SLICES + 1).otherwise(0)
    placed = placed.with_columns(pl.col("place") * (SLICES + 1) + part_slice)
    for (place,), part in placed.partition_by("place", as_dict=True, include_key=False).items():
        shard, number = divmod(int(place), SLICES + 1)
        yield shard, number - 1 if number else WHOLE, part


def passes_for(frames: Iterable[Frame], rows_per_pass: int) -> int:
    """How many passes a shard takes: a power of two, so that slices fit into passes."""
    needed: int = -(-sum(rows for rows, _, _ in frames) // rows_per_pass)
    return 1 << (needed - 1).bit_length() if needed else 0


def read_pass(
    frames: Iterable[Frame], number: int, passes: int, fetch: Callable[[bytes], bytes]
) -> pl.DataFrame:
    """The rows of one pass: those whose identity, modulo `passes`, is `number`."""
    mine = pl.col("identity_low") % passes == number
    parts: list[pl.DataFrame] = []
    for _, part_slice, token in frames:
        if part_slice == WHOLE:
            inside = passes == 1
        elif part_slice % passes != number % SLICES:
            continue
        else:
            inside = passes <= SLICES
        part = unpack(fetch(token))
        parts.append(part if inside else compact(part.filter(mine)))
    return pl.concat(parts, rechunk=False) if parts else pl.DataFrame()
