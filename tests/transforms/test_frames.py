"""Frames between ingest and aggregation: nothing is lost, and copies stay together."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from transforms import frames
from transforms.frames import frames_of, passes_for, read_pass
from transforms.spill import IN_MEMORY, Spill

CUSTOMERS = np.array([0, 0, 0, 0, 1, 2, None], dtype=object)


def slim(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "customer": pl.Series(rng.choice(CUSTOMERS, rows).tolist(), dtype=pl.Int32),
            "identity": pl.Series(rng.integers(0, 50, rows), dtype=pl.UInt64),
            "identity_low": pl.Series(rng.integers(0, 50, rows), dtype=pl.UInt64),
            "row": pl.Series(range(rows), dtype=pl.Int64) + rows * seed,
        }
    )


@pytest.mark.parametrize("rows_per_pass", [1, 7, 40, 1000])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("in_files", [True, False])
def test_passes_share_out_all_rows_of_a_shard_by_identity(
    shards, rows_per_pass, in_files, monkeypatch, tmp_path
):
    spill = Spill(str(tmp_path)) if in_files else IN_MEMORY
    monkeypatch.setattr(frames, "SLICED_ROWS", 20)
    batches = [slim(60, 0), slim(0, 1), slim(9, 2), slim(60, 3)]
    by_shard: dict[int, list[frames.Frame]] = {}
    for batch in batches:
        for shard, frame in frames_of(batch, shards, spill):
            by_shard.setdefault(shard, []).append(frame)
    assert {part_slice for found in by_shard.values() for _, part_slice, _ in found} > {-1, 0}
    found = []
    owners: dict[tuple[int | None, int], tuple[int, int]] = {}
    for shard, mine in by_shard.items():
        passes = passes_for(mine, rows_per_pass)
        for number in range(passes):
            rows = read_pass(mine, number, passes, spill.get)
            for customer, _, low, row in rows.iter_rows():
                found.append(row)
                if customer is not None:
                    assert owners.setdefault((customer, low), (shard, number)) == (shard, number)
    assert sorted(found) == sorted(pl.concat(batches)["row"].to_list())
