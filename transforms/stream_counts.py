"""Counts of a stream that wait to be stored, in this process.

A write has costs of its own, however few rows it has. So what batches and flushes
amount to is gathered here and stored with the next tick. A process that is killed
loses the counts of about a second; no bill depends on them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from warehouse.stats import SINK, Stats

_ORIGIN = f"{SINK}{secrets.token_hex(4)}"
"""Names this process, so that workers do not replace each other's counts."""

_SELDOM = 0.5


@dataclass
class _Work:
    """What the writes of one job amount to since they were stored last."""

    rows: int = 0
    retries: int = 0
    delay_ms: int | None = None


class _Waiting:
    """The counts that wait, by job."""

    def __init__(self) -> None:
        self._found: dict[str, list[Stats]] = {}
        self._work: dict[str, _Work] = {}
        self._taken: dict[str, float] = {}
        self._guard = threading.Lock()

    def add(self, job: str, entries: Iterable[Stats]) -> None:
        """Let these wait."""
        with self._guard:
            self._found.setdefault(job, []).extend(entries)

    def worked(
        self, job: str, *, rows: int = 0, retries: int = 0, delay_ms: int | None = None
    ) -> None:
        """Rows that were handed to the warehouse, second tries, and how late usage became."""
        if not rows and not retries and delay_ms is None:
            return
        with self._guard:
            work = self._work.setdefault(job, _Work())
            work.rows += rows
            work.retries += retries
            if delay_ms is not None:
                work.delay_ms = max(delay_ms, work.delay_ms or 0)

    def take_seldom(self, job: str) -> list[Stats]:
        """As `take`; none where others were taken a moment ago."""
        with self._guard:
            is_due = time.monotonic() - self._taken.get(job, 0.0) >= _SELDOM
        return self.take(job) if is_due else []

    def take(self, job: str) -> list[Stats]:
        """All that wait; they are the caller's to store."""
        with self._guard:
            self._taken[job] = time.monotonic()
            found = self._found.pop(job, [])
            work = self._work.pop(job, None)
        if work is None:
            return found
        now = time.time_ns() // 1000
        mine = Stats(
            origin=_ORIGIN,
            row=now,
            at=now,
            sink_rows=work.rows,
            sink_retries=work.retries,
            usage_delay_ms=work.delay_ms,
        )
        return [*found, mine]


STATS = _Waiting()
"""Of this process; DoFn instances come and go."""
