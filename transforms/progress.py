"""Progress of a run inside one process: counters that a terminal can show.

Only for people who watch; results never depend on it. A retried bundle counts
twice here and once in the result.
"""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_counters: Counter[str] = Counter()


def advance(name: str, amount: int) -> None:
    """Add to a counter of this process."""
    with _lock:
        _counters[name] += amount


def snapshot() -> dict[str, int]:
    """All counters of this process."""
    with _lock:
        return dict(_counters)


def reset() -> None:
    """Start a new run at zero."""
    with _lock:
        _counters.clear()
