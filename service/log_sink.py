"""Events to the local log: on disk before they are acknowledged, many requests with one fsync."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from service.settings import Limits
from service.sinks import Record, Written
from transforms.event_log import EventLog
from warehouse.tracing import Traced, current

_LOG = logging.getLogger(__name__)

_Request = tuple[Sequence[Record], int, asyncio.Future[Written], Traced | None]


class LogSink:
    """Appends to one log, in a thread of its own. `most` are the bytes the log may have."""

    def __init__(self, log: EventLog, limits: Limits, most: int) -> None:
        self._log = log
        self._limits = limits
        self._most = most
        self._waiting = 0
        self._pending: list[_Request] = []
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Nothing to get ready."""

    def refusal(self, count: int) -> str | None:
        """Too much waits for the disk, or for the pipeline that empties the log."""
        if self._waiting + count > self._limits.waiting:
            return f"{self._waiting} events wait for the disk already"
        if self._log.bytes > self._most:
            return f"the log on disk has its {self._most} bytes"
        return None

    def write(self, records: Sequence[Record], at: int) -> asyncio.Future[Written]:
        """Append the records with those of other requests that wait."""
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._waiting += len(records)
        self._pending.append((records, at, future, current()))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._drain())
        return future

    async def close(self) -> None:
        """End once everything is on disk."""
        if self._writer is not None:
            await self._writer
        self._thread.shutdown()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending, []
            together = [record for records, *_ in batch for record in records]
            traced = [span for *_, span in batch if span is not None]
            at = batch[0][1]
            reason = ""
            try:
                await loop.run_in_executor(self._thread, self._log.append, together, at, traced)
            except OSError as error:
                reason = f"the disk refuses: {error.strerror}"
                _LOG.error("the log in %s: %s", self._log.folder, error.strerror)
            for records, _, future, _ in batch:
                failed = list(range(len(records))) if reason else []
                if not future.done():
                    future.set_result(Written(failed, reason))
            self._waiting -= len(together)
