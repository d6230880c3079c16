"""Events to Kafka: an idempotent producer, acknowledged by all replicas in sync.

The producer is polled by the event loop itself, so a request costs no change of threads.
A broker that is slow or away shows in the age of the oldest request: while that one waits
longer than a stall, others are refused at once, and when it is over the next one tries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from service.settings import Limits
from service.sinks import Record, Written
from transforms.kafka_client import KafkaSettings
from transforms.kafka_messages import TRACED
from warehouse.tracing import current

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 0.002
_STALL_SECONDS = 2.0
_LINGER_MS = 3


class _Request:
    """Records of one request on their way to the broker."""

    __slots__ = ("began", "future", "left", "written")

    def __init__(self, size: int, future: asyncio.Future[Written], now: float) -> None:
        self.left = size
        self.future = future
        self.began = now
        self.written = Written()


class KafkaSink:
    """One producer for one topic."""

    def __init__(self, settings: KafkaSettings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._fatal = False
        self._producer = self._connect()
        self._open: dict[_Request, None] = {}
        self._unsent: list[dict[str, Any]] = []
        self._done: list[_Request] = []
        self._traced = False
        self._waiting = 0
        self._busy = asyncio.Event()
        self._pump: asyncio.Task[None] | None = None

    def _connect(self) -> Producer:
        config: dict[str, Any] = {
            "linger.ms": _LINGER_MS,
            "compression.type": "lz4",
            # As Java's producers do it, so that all copies of an event share a partition.
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 2 * self._limits.waiting,
            **self._settings.client(),
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(self._limits.patience * 1000),
            "message.max.bytes": self._limits.event + 64 * 1024,
            "log_level": 2,
            "error_cb": self._failed,
        }
        return Producer(config, logger=_LOG)

    def _failed(self, error: KafkaError) -> None:
        self._fatal = self._fatal or error.fatal()

    async def start(self) -> None:
        """Begin to poll."""
        self._pump = asyncio.create_task(self._poll())

    def refusal(self, count: int) -> str | None:
        """Too much waits, or the broker has not answered for a while."""
        if self._waiting + count > self._limits.waiting:
            return f"{self._waiting} events wait for the broker already"
        oldest = next(iter(self._open), None)
        if oldest is not None and time.monotonic() - oldest.began > _STALL_SECONDS:
            return "the broker does not answer"
        return None

    def write(self, records: Sequence[Record], _at: int) -> asyncio.Future[Written]:
        """Hand the records to the producer; the future is done when all are settled.

        The time of receipt is in the records; Kafka's own is that of sending. What comes at
        the same time is handed over at once, which costs the producer less.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Written] = loop.create_future()
        request = _Request(len(records), future, time.monotonic())
        settled = self._settled
        if not self._unsent:
            loop.call_soon(self._send)
        self._unsent += [
            {"key": key, "value": value, "callback": partial(settled, request, place)}
            for place, (key, value) in enumerate(records)
        ]
        if (traced := current()) is not None:
            self._unsent[-len(records)]["headers"] = {TRACED: traced.encode()}
            self._traced = True
        self._open[request] = None
        self._waiting += len(records)
        self._busy.set()
        return future

    def _send(self) -> None:
        messages, self._unsent = self._unsent, []
        if self._traced:
            self._traced = False
            # A batch takes no headers: what has some goes by itself, in its place.
            for _, run in groupby(messages, lambda message: message.get("headers")):
                self._hand_over(list(run))
        else:
            self._hand_over(messages)

    def _hand_over(self, messages: list[dict[str, Any]]) -> None:
        if "headers" in messages[0]:
            for message in messages:
                callback = message.pop("callback")
                try:
                    self._producer.produce(self._settings.topic, on_delivery=callback, **message)
                except (KafkaException, BufferError) as error:
                    callback(error, None)
            return
        try:
            queued = self._producer.produce_batch(self._settings.topic, messages)
        except (KafkaException, BufferError) as error:
            for message in messages:
                message["callback"](error, None)
            return
        if queued < len(messages):
            for message in messages:
                if (refused := message.get("_error")) is not None:
                    message["callback"](refused, None)

    def _settled(self, request: _Request, place: int, error: object, _message: object) -> None:
        """One record is durable, or is not known to be."""
        if error is not None:
            request.written.failed.append(place)
            request.written.reason = error.str() if isinstance(error, KafkaError) else str(error)
        self._waiting -= 1
        request.left -= 1
        if not request.left:
            self._done.append(request)

    async def close(self) -> None:
        """Wait for the answers of the broker, at most as long as one may take."""
        until = time.monotonic() + self._limits.patience + 1
        while self._open and time.monotonic() < until:
            await asyncio.sleep(_POLL_SECONDS)
        if self._pump is not None:
            self._pump.cancel()
        self._producer.flush(1)

    async def _poll(self) -> None:
        while True:
            if not self._open:
                self._busy.clear()
                await self._busy.wait()
            if self._producer.poll(0):
                self._settle()
                await asyncio.sleep(0)
            else:
                self._settle()
                await asyncio.sleep(_POLL_SECONDS)

    def _settle(self) -> None:
        done, self._done = self._done, []
        for request in done:
            del self._open[request]
            request.written.failed.sort()
            if not request.future.done():
                request.future.set_result(request.written)
        if self._fatal:
            self._renew()

    def _renew(self) -> None:
        """A producer that has lost its place for good makes way for another one."""
        if not self._open:
            _LOG.warning("Kafka: a new producer takes over after a fatal error")
            self._producer = self._connect()
            self._fatal = False
