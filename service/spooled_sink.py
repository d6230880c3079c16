"""Kafka with the spool behind it: while the broker is slow or away, events wait on disk.

    request -> Kafka --did not acknowledge--> spool --in order--> Kafka
            `--------- while the spool is not empty ------^

Once something is in the spool, all that comes goes there, so that the order is kept until it is
empty again. An event that the broker may have taken although it did not say so comes twice
and counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from service.kafka_sink import KafkaSink
from service.log_sink import LogSink
from service.sinks import Record, Written
from transforms.event_log import EventLog

_LOG = logging.getLogger(__name__)
_CHUNK = 5_000
_PAUSE = 0.5


class SpooledSink:
    """A `KafkaSink` that hands on to a log what the broker does not take."""

    def __init__(self, kafka: KafkaSink, spool: LogSink, log: EventLog) -> None:
        self._kafka = kafka
        self._spool = spool
        self._log = log
        self._drainer: asyncio.Task[None] | None = None
        self._closing = False
        self._coming = 0

    @property
    def waiting(self) -> int:
        """How many events are in the spool."""
        return self._log.end - self._log.committed

    async def start(self) -> None:
        """Begin to drain what an earlier run has left."""
        await self._kafka.start()
        if self.waiting:
            self._drain()

    def refusal(self, count: int) -> str | None:
        """Only what the spool itself cannot take."""
        return self._spool.refusal(count)

    def write(self, records: Sequence[Record], at: int) -> asyncio.Future[Written]:
        """To the broker, else to the spool."""
        if self._drainer is not None or self._kafka.refusal(len(records)) is not None:
            return self._spooled(records, at)
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()

        def settled(done: asyncio.Future[Written]) -> None:
            failed = done.result().failed
            if not failed:
                future.set_result(Written())
                return
            rest = [records[place] for place in failed]
            self._spooled(rest, at).add_done_callback(lambda again: kept(failed, again.result()))

        def kept(failed: list[int], again: Written) -> None:
            lost = [failed[place] for place in again.failed]
            future.set_result(Written(lost, again.reason))

        self._kafka.write(records, at).add_done_callback(settled)
        return future

    async def close(self) -> None:
        """End once all is settled; what is in the spool stays for the next start."""
        self._closing = True
        await self._kafka.close()
        await self._spool.close()
        if self._drainer is not None:
            self._drainer.cancel()

    def _spooled(self, records: Sequence[Record], at: int) -> asyncio.Future[Written]:
        self._coming += 1

        def arrived(_: object) -> None:
            self._coming -= 1
            self._drain()

        future = self._spool.write(records, at)
        future.add_done_callback(arrived)
        return future

    def _drain(self) -> None:
        if self._drainer is None and not self._closing:
            _LOG.warning("the broker does not take events: they wait in %s", self._log.folder)
            self._drainer = asyncio.create_task(self._drained())

    async def _drained(self) -> None:
        """Hand the spool on, frame by frame, until it is empty."""
        reader = self._log.reader(self._log.committed)
        while self.waiting or self._coming:
            frames = reader.read(_CHUNK)
            if not frames:
                await asyncio.sleep(_PAUSE / 50)
            for frame in frames:
                left: Sequence[Record] = frame.messages
                while left:
                    if self._kafka.refusal(len(left)) is not None:
                        await asyncio.sleep(_PAUSE)
                        continue
                    written = await self._kafka.write(left, frame.at)
                    left = [left[place] for place in written.failed]
                self._log.commit(frame.first + len(frame.messages))
        self._drainer = None
        _LOG.warning("the broker takes events again, and has those of %s", self._log.folder)
