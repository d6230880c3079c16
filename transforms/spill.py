"""Where packed frames wait between two stages: with the runner, or in files.

The DirectRunner keeps what is shuffled in memory, several times over. With a folder,
frames wait there and only their names are shuffled; a runner that shuffles on disk by
itself (Flink, Dataflow) is given the frames.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spill:
    """Puts packed frames aside in `folder`, which all workers see; None: nowhere.

    A bundle that is tried again leaves files that nobody refers to; the folder is
    removed as a whole after the run.
    """

    folder: str | None = None

    def put(self, packed: bytes) -> bytes:
        """What to shuffle in place of `packed`."""
        if self.folder is None:
            return packed
        path = Path(self.folder) / uuid.uuid4().hex
        path.write_bytes(packed)
        return str(path).encode()

    def get(self, token: bytes) -> bytes:
        """What was put."""
        return token if self.folder is None else Path(token.decode()).read_bytes()


IN_MEMORY = Spill()
"""Frames stay with the runner."""
