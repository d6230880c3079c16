"""Where accepted events go: Kafka, the spool on disk, or Kafka with the spool behind it.

    Record = (key `tenant/customer`, value: one JSON object)

A sink takes the records of one request and tells, by a future, which of them are not
durable. Nothing waits without bound: what a sink cannot take it refuses at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

Record = tuple[bytes, bytes]


@dataclass
class Written:
    """What became of the records of one request: `failed` has the places of those that are
    not known to be durable, and `reason` why.
    """

    failed: list[int] = field(default_factory=list)
    reason: str = ""


class Sink(Protocol):
    """Takes records until it is closed. All of it is called by one event loop."""

    async def start(self) -> None:
        """Get ready."""

    def refusal(self, count: int) -> str | None:
        """Why `count` more records cannot be taken now; None where they can."""

    def write(self, records: Sequence[Record], at: int, /) -> asyncio.Future[Written]:
        """Make records durable; `at` is the time of receipt in microseconds."""

    async def close(self) -> None:
        """End once all that was written is durable, or is known to have failed."""
