"""Sessions of browsers: a key is given once, and a cookie stands for it afterwards.

    POST /dashboard/login {"key": ...} -> cookie (HttpOnly, SameSite=Strict) -> the key

The cookie is a random word that only this process knows; the key stays here, in memory, and
is looked up for every request, so a revoked key ends its sessions. They end as well after
twelve hours, and when the server does.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

COOKIE = "beammeter_session"
SECONDS = 12 * 3600
_MOST = 10_000


@dataclass(frozen=True)
class _Session:
    key: str
    ends: float


class Sessions:
    """The sessions of one server; safe for use by several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._open: dict[str, _Session] = {}

    def open(self, key: str) -> str:
        """A new session for a key; gives the word of its cookie."""
        word = secrets.token_urlsafe(32)
        now = self._clock()
        with self._guard:
            self._open = {at: each for at, each in self._open.items() if each.ends > now}
            while len(self._open) >= _MOST:
                del self._open[next(iter(self._open))]
            self._open[_hash(word)] = _Session(key, now + SECONDS)
        return word

    def key(self, word: str) -> str | None:
        """The key of an open session."""
        found = self._open.get(_hash(word))
        return found.key if found is not None and found.ends > self._clock() else None

    def close(self, word: str) -> None:
        """End a session; an unknown one is none."""
        with self._guard:
            self._open.pop(_hash(word), None)


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode(errors="surrogateescape")).hexdigest()
