"""Counts of a stream that wait to be stored, in this process.

A write has costs of its own, however few rows it has. So what batches and flushes
amount to is gathered here and stored with the next tick. A process that is killed
loses the counts of about a second; no bill depends on them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from warehouse.stats import Stats


class _Waiting:
    """The counts that wait, by job."""

    def __init__(self) -> None:
        self._found: dict[str, list[Stats]] = {}
        self._guard = threading.Lock()

    def add(self, job: str, entries: Iterable[Stats]) -> None:
        """Let these wait."""
        with self._guard:
            self._found.setdefault(job, []).extend(entries)

    def take(self, job: str) -> list[Stats]:
        """All that wait; they are the caller's to store."""
        with self._guard:
            return self._found.pop(job, [])


STATS = _Waiting()
"""Of this process; DoFn instances come and go."""
