"""Limits by key: a bucket that fills at a rate, holds two seconds, may go into debt.

A request that finds the bucket empty is refused with the time until it is not. A large bulk
may draw more than there is, so that no size is refused for ever; the next one waits longer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_BURST_SECONDS = 2.0
_MOST_KEYS = 10_000


class Rates:
    """The buckets of one process; times are seconds of `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._levels: dict[tuple[str, str], tuple[float, float]] = {}

    def wait(self, key: str, kind: str, rate: float | None) -> int:
        """0 where the key may go on, else the whole seconds after which it may."""
        if rate is None:
            return 0
        level = self._level(key, kind, rate)
        return 0 if level > 0 else max(1, math.ceil(-level / rate))

    def draw(self, key: str, kind: str, rate: float | None, amount: float = 1.0) -> None:
        """Take from the bucket what was used."""
        if rate is None:
            return
        level = self._level(key, kind, rate)
        self._levels[key, kind] = level - amount, self._clock()

    def _level(self, key: str, kind: str, rate: float) -> float:
        now = self._clock()
        most = max(1.0, rate * _BURST_SECONDS)
        found = self._levels.get((key, kind))
        if found is None:
            if len(self._levels) > _MOST_KEYS:
                self._levels.clear()
            return most
        level, at = found
        return min(most, level + (now - at) * rate)
