"""What ClickHouse's errors mean: worth another try, or final.

A failure becomes a `WarehouseError` with one line of text, `WarehouseUnavailable`
where another try may help. Every statement of the warehouse may be repeated, since
writes are idempotent, so `Retries` repeats whatever is worth it, with growing,
jittered pauses.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from meters.errors import WarehouseError, WarehouseUnavailable

T = TypeVar("T")

TRANSIENT = {
    95: "CANNOT_READ_FROM_SOCKET",
    96: "CANNOT_WRITE_TO_SOCKET",
    159: "TIMEOUT_EXCEEDED",
    198: "DNS_ERROR",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    203: "NO_FREE_CONNECTION",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    225: "NO_ZOOKEEPER",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    252: "TOO_MANY_PARTS",
    254: "NO_ACTIVE_REPLICAS",
    279: "ALL_CONNECTION_TRIES_FAILED",
    285: "TOO_FEW_LIVE_REPLICAS",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    290: "LIMIT_EXCEEDED",
    319: "UNKNOWN_STATUS_OF_INSERT",
    473: "DEADLOCK_AVOIDED",
    733: "TABLE_IS_BEING_RESTARTED",
    999: "KEEPER_EXCEPTION",
}
"""Codes of ClickHouse that another try may heal; all others are final."""

UNKNOWN_DATABASE = 81
AUTHENTICATION_FAILED = 516

_CODE = re.compile(r"\bCode: (\d+)\.? *")
_NOISE = re.compile(
    r"\bDB::(?:Exception|NetException|ParsingException): |,? ?\(version [^()]*(?:\([^()]*\))?\)"
    r"|,? Stack trace.*|\. Expected one of: .*?(?=\. \([A-Z_]+\)|$)|\(for url .*\)"
)
_BUSY = re.compile(r"HTTP status (?:429|502|503|504)\b")
_SCOPE = re.compile(r" ?In scope .*?(?=\. \([A-Z_]+\)|$)")
_MAX_TEXT = 300


def code_of(text: str) -> int | None:
    """The code of ClickHouse in an error message, None where it has none."""
    found = _CODE.findall(text)
    return int(found[-1]) if found else None


def one_line(text: str) -> str:
    """An error message of ClickHouse on one line, without stack trace, query and version."""
    start = text.find("Code: ")
    line = " ".join(text[max(start, 0) :].split())
    line = _SCOPE.sub("", _NOISE.sub("", line))
    line = re.sub(r"\.+ \(", " (", _CODE.sub("", line).strip())
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "..."


def translate(error: Exception, place: str) -> WarehouseError:
    """The answer `error` of ClickHouse as a user sees it; `place` is the warehouse's URL."""
    text = str(error)
    code = code_of(text)
    if code in TRANSIENT or (code is None and _BUSY.search(text)):
        return WarehouseUnavailable(f"warehouse {place} is not available: {one_line(text)}")
    if code == AUTHENTICATION_FAILED:
        return WarehouseError(f"warehouse {place} refused user or password")
    return WarehouseError(f"warehouse {place} refused a statement: {one_line(text)}")


def no_answer(error: BaseException, place: str) -> WarehouseUnavailable:
    """A failure of the transport, told by the system's own words for its deepest cause."""
    reason = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            reason = cause.strerror or str(cause) or type(cause).__name__
        inner = getattr(cause, "reason", None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__
    return WarehouseUnavailable(f"warehouse {place} is not available: {one_line(reason)}")


@dataclass(frozen=True)
class Retries:
    """How often a statement is tried, and how long the pauses are (seconds).

    With `seconds` none is tried again so long after the first one began.
    """

    attempts: int = 7
    first_pause: float = 0.2
    longest_pause: float = 10.0
    seconds: float = math.inf
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def run(self, action: Callable[[], T]) -> T:
        """The result of `action`, repeated while it raises WarehouseUnavailable."""
        until = self.clock() + self.seconds
        for attempt in range(1, self.attempts):
            try:
                return action()
            except WarehouseUnavailable:
                if self.clock() >= until:
                    raise
                pause = min(self.longest_pause, self.first_pause * 2 ** (attempt - 1))
                self.sleep(pause * random.uniform(0.5, 1.0))
        return action()


ONCE = Retries(attempts=1)
"""No second try."""
