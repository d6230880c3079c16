"""Deduplication: of all copies of an event, one counts.

Identity is (customer, event_id) within the tenant. The copy with the smallest
(ingested_at, content hash) counts, so the outcome does not depend on the order in
which copies are read. Works on the slim columns of `meters.projection`, which must
hold all copies of every identity in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

IDENTITY = ["customer", "unknown", "identity", "identity_low"]


@dataclass(frozen=True)
class Deduplicated:
    """One row for each identity, and how many copies there were beside it.

    `differing` has all copies of the identities that came with more than one content
    hash, the one that counts first; `conflicts` tells which of them say something else.
    """

    events: pl.DataFrame
    duplicates: int
    differing: pl.DataFrame


def deduplicate(slim: pl.DataFrame) -> Deduplicated:
    """Keep the copy of each event that counts."""
    # One word of the hash finds nearly all unique rows; only the rest is compared in full.
    repeated = slim["identity"].is_duplicated()
    if not repeated.any():
        return Deduplicated(slim, 0, slim.select([*IDENTITY, "content"]).clear())
    copies = slim.filter(repeated).sort(["ingested_at", "content"])
    contents = pl.col("content").n_unique().over(IDENTITY)
    winners = copies.unique(subset=IDENTITY, keep="first", maintain_order=True)
    kept = pl.concat([slim.filter(~repeated), winners], rechunk=False)
    differing = copies.filter(contents > 1).select([*IDENTITY, "content"])
    return Deduplicated(kept, slim.height - kept.height, differing)


def conflicts(
    differing: pl.DataFrame, canonical: dict[bytes, str], event: Sequence[str] = IDENTITY
) -> pl.DataFrame:
    """The copies of `differing` that say something else than the one that counts.

    `canonical` maps the first half of a content hash to the canonical text of that
    content: a retry that only writes its JSON in another way is no conflict. `event` are
    the columns that name an event.
    """
    said = [canonical[word.to_bytes(8, "big")] for word in differing["content"].to_list()]
    first = pl.col("said").first().over(event)
    return differing.with_columns(pl.Series("said", said, dtype=pl.String)).filter(
        pl.col("said") != first
    )
