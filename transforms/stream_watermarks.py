"""Watermarks of the partitions of a split, as far as this process has seen them.

The watermark of a partition is the greatest min(event time, record time) less the
allowed disorder, so that a sender's clock that runs ahead makes nobody late. A partition
that is read to its end goes on with the clock, from where its last message was: what
comes next was not recorded earlier. A partition that has never had a message says
nothing and holds nobody up.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from transforms.kafka_messages import Messages

Int64s = npt.NDArray[np.int64]


class SplitWatermark:
    """The watermark of one split; times are microseconds, UTC."""

    def __init__(self, disorder_us: int) -> None:
        self._disorder = disorder_us
        self._seen: dict[int, tuple[int, int]] = {}
        self.clock = 0

    def update(self, partitions: Int64s, events: Int64s, recorded: Int64s) -> None:
        """Take in decoded events: their partitions, event times and record times."""
        bound = np.minimum(events, recorded)
        for partition in np.unique(partitions).tolist():
            here = partitions == partition
            before = self._seen.get(partition, (0, 0))
            last = max(before[1], int(recorded[here].max()))
            self._seen[partition] = max(before[0], int(bound[here].max())), last
            self.clock = max(self.clock, last)

    def at(self, messages: Messages) -> int | None:
        """The watermark after `messages`; None where no partition has had any."""
        found = []
        for partition, (bound, last) in self._seen.items():
            waited = messages.now - last if partition in messages.at_end else 0
            found.append(bound + max(0, waited - self._disorder))
        return min(found) - self._disorder if found else None


class _Watermarks:
    """The watermarks of this process, by job and split."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], SplitWatermark] = {}
        self._guard = threading.Lock()

    def of(self, job: str, split: int, disorder_us: int) -> SplitWatermark:
        """That of one split."""
        with self._guard:
            return self._found.setdefault((job, split), SplitWatermark(disorder_us))


WATERMARKS = _Watermarks()
"""Of this process. Another one begins anew and is careful until it has seen messages."""
