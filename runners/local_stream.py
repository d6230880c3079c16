"""The pipeline inside `beammeter serve`: the local log -> usage, round by round, in a thread.

The chain is that of `beammeter stream`; only its source is the log of this process. A round
begins when an event arrives, so that usage shows it a moment later.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from datetime import datetime

from meters.catalog import Catalog
from meters.errors import BeammeterError
from meters.zones import microseconds
from pipelines.streaming import StreamingRound
from runners.catalogs import begin
from runners.launch import options as launch_options
from runners.launch import run
from transforms.catalogs import CATALOGS
from transforms.event_log import EventLog
from transforms.kafka_client import Waiting
from transforms.kafka_source import CONSUMERS
from transforms.log_source import LOGS, log_settings
from transforms.shard_memory import MEMORY
from transforms.stream_options import StreamOptions
from warehouse.client import Warehouse
from warehouse.leases import exclusive
from warehouse.ownership import take_over
from warehouse.recovery import newest

_LOG = logging.getLogger(__name__)
_FLUSH_SECONDS = 0.5
_BUSY_SECONDS = 3 * _FLUSH_SECONDS
_ROUND_SECONDS = 0.1
_IDLE_SECONDS = 10.0
_SLICE = 0.25
_PAUSE = 5.0
_LAST_ROUNDS = 20
_STOP_SECONDS = 5.0
"""For a round, once it shall stop: who stops a service mostly kills it after ten seconds."""


class LocalStream:
    """Reads one log into one warehouse until it is stopped.

    `problem` says why it does not go on, and is None while it does.
    """

    def __init__(
        self, log: EventLog, warehouse: Warehouse, url: str, tenant: str, catalog: Catalog
    ) -> None:
        self._log = log
        self._warehouse = warehouse
        self._url = url
        self._tenant = tenant
        self._catalog = catalog
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="local-stream", daemon=True)
        self._rounds = 0
        self._is_done = False
        self.problem: str | None = None

    def start(self) -> None:
        """Take the tenant's open buckets over and begin to read."""
        LOGS.put(self._log)
        self._thread.start()

    def waiting(self, before: datetime) -> Waiting:
        """The events of the log that are not durable in the warehouse yet.

        Overdue are those that were appended before an instant. Raises BeammeterError where
        the pipeline has stopped.
        """
        if (problem := self.problem) is not None:
            raise BeammeterError(f"the pipeline stopped and tries again: {problem}")
        events = self._log.end - self._log.committed
        oldest = self._log.oldest if events else None
        return Waiting(events, oldest is not None and oldest < microseconds(before))

    def stop(self) -> bool:
        """Read what is in the log, give the buckets away, and end; whether all that was done.

        Not where the last rounds fail, as then nothing is tried again.
        Where no round comes to its end, as while a large warehouse is loaded, it is not waited
        for: the process may end as one that is killed, since all that was acknowledged is in
        the log or in the warehouse. `has_ended` says whether anything still runs.
        """
        self._stop.set()
        rounds = -1
        while self._thread.is_alive() and rounds < self._rounds:
            rounds = self._rounds
            self._thread.join(_STOP_SECONDS)
        return self.has_ended and self._is_done

    @property
    def has_ended(self) -> bool:
        """Whether nothing reads or writes any more."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            job = uuid.uuid4().hex
            try:
                self._read(job)
            except Exception as error:
                self.problem = str(error) or type(error).__name__
                further = "" if self._stop.is_set() else "; trying again"
                _LOG.warning("the pipeline stopped: %s%s", self.problem, further)
            finally:
                CONSUMERS.close(job)
                MEMORY.drop(job)
                LOGS.forget(job)
                CATALOGS.drop(job)
            if self._stop.wait(_PAUSE if self.problem else 0):
                return

    def _read(self, job: str) -> None:
        options = StreamOptions(
            job=job,
            tenant=self._tenant,
            warehouse=self._url,
            kafka=log_settings(),
            shards=1,
            flush_seconds=_FLUSH_SECONDS,
            bundle_seconds=_ROUND_SECONDS,
            idle_seconds=_IDLE_SECONDS,
        )
        with exclusive(self._warehouse, self._tenant):
            first = max(0, newest(self._warehouse, self._tenant).timestamp - options.lateness_us)
            timeline = begin(self._warehouse, self._tenant, self._catalog)
            take_over(self._warehouse, self._tenant, options.shards, first, _now())
        rounds = StreamingRound(options, timeline, log=str(self._log.folder))
        consumer = LOGS.consumer(job, self._log.folder)
        busy_until = 0.0
        while not self._stop.is_set():
            if self._arrived(consumer.reader.offset, busy_until):
                busy_until = time.monotonic() + _BUSY_SECONDS
            run(rounds.build, launch_options("direct"))
            self._rounds += 1
            self.problem = None
        consumer.drained = True
        for _ in range(_LAST_ROUNDS):
            is_read = consumer.reader.offset >= self._log.end
            consumer.ticked = 0.0
            run(rounds.build, launch_options("direct"))
            self._rounds += 1
            if is_read:
                self._is_done = True
                break
            time.sleep(_FLUSH_SECONDS)

    def _arrived(self, offset: int, busy_until: float) -> bool:
        """Whether there is something to read; waits a while where nothing is to be flushed."""
        if time.monotonic() < busy_until:
            return self._log.end > offset
        until = time.monotonic() + _IDLE_SECONDS
        while not self._stop.is_set() and time.monotonic() < until:
            if self._log.wait(offset, _SLICE):
                return True
        return False


def _now() -> int:
    return time.time_ns() // 1000
