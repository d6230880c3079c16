"""The memory of a shard: a mirror of its keyed state in this process.

Reading a shard's state back in each bundle would cost its whole size. So the state is
kept in memory as well, under a nonce that is written to the keyed state with every
change: where both are equal, the memory is the state. Otherwise (another worker, a
bundle that failed, a restore) the state is read again. A nonce is random, as two
futures of one state could share a counter.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from meters.stream_state import ShardState
from transforms.deliveries import Packed
from warehouse.tracing import Traced


@dataclass
class Shard:
    """A shard as its worker knows it, beside what the rules need (`ShardState`).

    `pending` are deliveries that came since the last flush, `traced` the spans behind them.
    `watermarks`, `sent` and `drained` are the last word of each split, `watermark` is the
    least one once all have spoken. `logged` counts the rows in the log of partial cells.
    Events that were sent before `loaded_at` may have been loaded as raw rows, so they tell
    nothing about duplicates. A shard that was `released` has given its buckets away and
    loads them again before it goes on.
    """

    state: ShardState
    pending: list[Packed] = field(default_factory=list)
    traced: list[Traced] = field(default_factory=list)
    watermarks: dict[int, int] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    drained: dict[int, bool] = field(default_factory=dict)
    watermark: int | None = None
    clock: int = 0
    logged: int = 0
    released: bool = False
    load_begun_at: int = 0
    loaded_at: int = 0
    counts_duplicates: bool = True
    flushed_at: float = 0.0
    progressed_at: float = 0.0

    def counted_until(self, splits: int) -> int:
        """Until when all that the splits have stored is counted.

        What was there when the shard was loaded is: a split that has not spoken, or spoke
        before, may have stored no more than that.
        """
        spoken = min(self.sent.values()) if len(self.sent) == splits else 0
        return max(self.load_begun_at, spoken)

    @property
    def pending_rows(self) -> int:
        """How many events wait for the next flush."""
        return sum(rows for _, rows, _ in self.pending)


class _Memory:
    """The shards of this process, outside of DoFn instances: bundles of one key may meet
    different ones.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], tuple[bytes, Shard]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def lock(self, job: str) -> threading.Lock:
        """Held by whoever works on the shards of a job, where no runner sees to that."""
        with self._guard:
            return self._locks.setdefault(job, threading.Lock())

    def take(self, job: str, shard: int, nonce: bytes | None) -> Shard | None:
        """The shard, if the nonce of its state is that of the memory. It is out, then."""
        with self._guard:
            held, found = self._found.pop((job, shard), (b"", None))
        return found if nonce and nonce == held else None

    def put(self, job: str, shard: int, nonce: bytes, found: Shard) -> None:
        """Keep the shard, after its state and this nonce were written."""
        with self._guard:
            self._found[job, shard] = nonce, found

    def drop(self, job: str) -> None:
        """Forget the shards of a job that has ended."""
        with self._guard:
            for key in [key for key in self._found if key[0] == job]:
                del self._found[key]
            self._locks.pop(job, None)


MEMORY = _Memory()
"""Of this process."""
