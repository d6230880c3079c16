"""What became of the events that were sent to this server: the rate of delivery.

    accepted   durable, as the answer said
    refused    the event was wrong, as the answer said
    failed     not known to be durable: the sender sends it again

A request that is turned away unread, because too much waits, counts as one event that failed.
One whose events nobody can know (no JSON, too large, too slow, beyond the rate of events) is
counted as a refused request, by the `code` of its answer: it has no share in the rate of events.
One beyond the rate of requests is refused before anything is counted. Used by one event loop,
read by any thread.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
        for counts in (self._totals, self._now()):
            counts.accepted += accepted
            counts.refused += refused
            counts.failed += failed

    def refuse(self, code: str) -> None:
        """A request whose events are not known; `code` is that of its answer."""
        for counts in (self._totals, self._now()):
            counts.requests[code] += 1

    @property
    def totals(self) -> Mapping[str, int]:
        """The events since the start."""
        return _sums([self._totals])

    @property
    def recent(self) -> Mapping[str, int]:
        """The events of the last five minutes."""
        return _sums(self._lately())

    @property
    def refused_requests(self) -> Mapping[str, int]:
        """The refused requests since the start, by code."""
        return _requests([self._totals])

    @property
    def recent_refused_requests(self) -> Mapping[str, int]:
        """The refused requests of the last five minutes, by code."""
        return _requests(self._lately())

    def _now(self) -> _Counts:
        now = int(self._clock())
        if not self._seconds or self._seconds[-1].second != now:
            self._seconds.append(_Counts(now))
            while self._seconds[0].second <= now - _WINDOW_SECONDS:
                self._seconds.popleft()
        return self._seconds[-1]

    def _lately(self) -> list[_Counts]:
        since = int(self._clock()) - _WINDOW_SECONDS
        return [counts for counts in list(self._seconds) if counts.second > since]


@dataclass(slots=True)
class _Counts:
    """The counts of one second."""

    second: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    requests: Counter[str] = field(default_factory=Counter)


def _requests(found: Sequence[_Counts]) -> dict[str, int]:
    numbers: Counter[str] = Counter()
    for counts in found:
        # A copy, as the event loop may add a code meanwhile.
        numbers.update(counts.requests.copy())
    return dict(sorted(numbers.items()))


def _sums(found: Sequence[_Counts]) -> dict[str, int]:
    return {name: sum(getattr(counts, name) for counts in found) for name in OUTCOMES}


def share(good: int, bad: int) -> str | None:
    """The share of the good as a decimal with four places, rounded down; None of nothing."""
    if not good + bad:
        return None
    return str((Decimal(good) / (good + bad)).quantize(_PLACES, ROUND_DOWN))
