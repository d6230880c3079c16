"""What became of the events that were sent to this server: the rate of delivery.

    accepted   durable, as the answer said
    refused    the event was wrong, as the answer said
    failed     not known to be durable: the sender sends it again

A request that is turned away unread, because too much waits, counts as one event that
failed. Used by one event loop, read by any thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

OUTCOMES = ("accepted", "refused", "failed")

_WINDOW_SECONDS = 300
_PLACES = Decimal("0.0001")


class Outcomes:
    """Counts since the start, and of the last five minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._totals = _Counts()
        self._seconds: deque[_Counts] = deque()

    def count(self, *, accepted: int = 0, refused: int = 0, failed: int = 0) -> None:
        """One request's events."""
        now = int(self._clock())
        if not self._seconds or self._seconds[-1].second != now:
            self._seconds.append(_Counts(now))
            while self._seconds[0].second <= now - _WINDOW_SECONDS:
                self._seconds.popleft()
        for counts in (self._totals, self._seconds[-1]):
            counts.accepted += accepted
            counts.refused += refused
            counts.failed += failed

    @property
    def totals(self) -> Mapping[str, int]:
        """Since the start."""
        return _sums([self._totals])

    @property
    def recent(self) -> Mapping[str, int]:
        """Of the last five minutes."""
        since = int(self._clock()) - _WINDOW_SECONDS
        return _sums([counts for counts in list(self._seconds) if counts.second > since])


@dataclass(slots=True)
class _Counts:
    """The counts of one second."""

    second: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0


def _sums(found: Sequence[_Counts]) -> dict[str, int]:
    return {name: sum(getattr(counts, name) for counts in found) for name in OUTCOMES}


def share(good: int, bad: int) -> str | None:
    """The share of the good as a decimal with four places, rounded down; None of nothing."""
    if not good + bad:
        return None
    return str((Decimal(good) / (good + bad)).quantize(_PLACES, ROUND_DOWN))
