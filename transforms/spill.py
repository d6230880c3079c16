"""Where the rows of a batch wait between two stages: with the runner, or in a file.

The DirectRunner keeps what is shuffled in memory, several times over. With a folder, a
batch waits there as one file, and only the places of its frames are shuffled. The file is
not compressed: hashes and ids, which are most of it, would not get smaller. A runner that
shuffles on disk by itself (Flink, Dataflow) is given the frames, compressed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa

from transforms.batches import pack_table, unpack_table


@dataclass(frozen=True)
class Spill:
    """Puts batches aside in `folder`, which all workers see; None: nowhere.

    A bundle that is tried again leaves files that nobody refers to; the folder is
    removed as a whole after the run.
    """

    folder: str | None = None

    def put(self, batch: pa.Table, sizes: Sequence[int]) -> list[bytes]:
        """What to shuffle in place of each frame of a batch; `sizes` has the rows of each."""
        starts = accumulate(sizes, initial=0)
        frames = [batch.slice(start, rows) for start, rows in zip(starts, sizes, strict=False)]
        if self.folder is None:
            return [pack_table(frame) for frame in frames]
        path = str(Path(self.folder) / uuid.uuid4().hex)
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            for frame in frames:
                writer.write_table(frame)
        return [f"{number} {path}".encode() for number in range(len(frames))]

    def get(self, token: bytes) -> pa.Table:
        """The rows of a frame that was put."""
        if self.folder is None:
            return unpack_table(token)
        number, path = token.decode().split(" ", 1)
        with pa.OSFile(path) as file:
            return pa.Table.from_batches([pa.ipc.open_file(file).get_batch(int(number))])


IN_MEMORY = Spill()
"""Frames stay with the runner."""
