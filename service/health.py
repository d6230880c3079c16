"""Whether the pipeline works: told from what it leaves behind, not from what it says.

    ready = the warehouse answers, and no stream stands still
    a stream stands still where a shard that owns buckets has not said so for `patience`,
    or where an event has waited for as long and none was read meanwhile

A tenant whose usage comes from files alone has no stream and is ready. Nothing is
remembered from look to look, so a command that looks once says the same as a server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from confluent_kafka import KafkaException

from meters.errors import BeammeterError
from meters.timestamps import format_instant
from service.outcomes import Outcomes, share
from transforms.kafka_client import KafkaSettings, Waiting, waiting
from warehouse.client import Warehouse
from warehouse.condition import Condition, Delay, read_condition

PATIENCE = timedelta(seconds=60)
"""How long a stream may say nothing; it does so every ten seconds."""

WINDOW = timedelta(minutes=5)
"""How far counts go back."""

_FRESH_SECONDS = 2.0


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """The condition of a tenant's pipeline; None where the warehouse does not answer.

    `lag` is how many events wait to be read, None where nobody knows.
    """

    at: datetime
    checks: tuple[Check, ...]
    condition: Condition | None
    lag: int | None

    def readiness(self) -> dict[str, object]:
        """What `/readyz` says to everybody: which checks hold, without what was found."""
        checks = [{"name": check.name, "ok": check.ok} for check in self.checks]
        return {"status": "ok" if self.ok else "failing", "checks": checks}

    @property
    def silent_seconds(self) -> float | None:
        """Since the shard that was heard first of all was heard; None without a stream."""
        return self._behind("seen_at")

    @property
    def watermark_lag_seconds(self) -> float | None:
        """How far the watermark is behind the clock; None where no stream can tell."""
        return self._behind("watermark")

    @property
    def closed_lag_seconds(self) -> float | None:
        """How far closed buckets are behind: the watermark's lag and the allowed lateness."""
        return self._behind("closed_until")

    def _behind(self, name: str) -> float | None:
        shards = self.condition.shards if self.condition else ()
        times = [at for shard in shards if (at := getattr(shard, name)) is not None]
        return (self.at - min(times)).total_seconds() if times else None

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(check.ok for check in self.checks)

    def to_dict(self, outcomes: Outcomes | None = None) -> dict[str, Any]:
        """The report as JSON, with the outcomes of what was sent to this server lately."""
        found = self.condition
        sent = None if outcomes is None else outcomes.recent
        body: dict[str, Any] = {
            "status": "ok" if self.ok else "failing",
            "at": format_instant(self.at),
            "checks": [
                {"name": each.name, "ok": each.ok, "detail": each.detail} for each in self.checks
            ],
            "lag": self.lag,
            "sent": None if sent is None else dict(sent),
            "delivery_rate": None if sent is None else share(sent["accepted"], sent["failed"]),
            "refused_requests": None if outcomes is None else outcomes.recent_refused_requests,
        }
        if found is None:
            return body
        closed = [shard.closed_until for shard in found.shards]
        return {
            **body,
            "since": format_instant(found.since),
            "counts": dict(found.counts),
            "success_rate": success_rate(found),
            "last_batch": None if found.last_batch is None else format_instant(found.last_batch),
            "shards": len(found.shards),
            "silent_seconds": _rounded(self.silent_seconds),
            "watermark_lag_seconds": _rounded(self.watermark_lag_seconds),
            "closed_until": format_instant(min(closed)) if closed else None,
            "dirty": dict(found.dirty),
            "dirty_since": (
                None if found.dirty_since is None else format_instant(found.dirty_since)
            ),
            "quarantined": dict(found.quarantined),
            "delay_seconds": {"events": found.stored.number, **_delay(found.stored)},
            "usage_delay_seconds": {"flushes": found.usage.number, **_delay(found.usage)},
            "sink": {"rows": found.sink_rows, "retries": found.sink_retries},
        }


def _rounded(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def _delay(found: Delay) -> dict[str, float]:
    return {"median": found.median, "p95": found.p95, "most": found.most}


def success_rate(condition: Condition) -> str | None:
    """The share of the events read that were not refused, with four places."""
    read, refused = condition.counts["read"], condition.counts["quarantined"]
    return share(max(0, read - refused), min(refused, read))


class Monitor:
    """Looks at the pipeline, at most every two seconds, for all who ask.

    `waiting` says which events wait to be read, where that can be known, and whether any of
    them came before an instant; it may raise BeammeterError.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        tenant: str,
        *,
        clock: Callable[[], datetime],
        waiting: Callable[[datetime], Waiting | None] = lambda _: None,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._warehouse = warehouse
        self._tenant = tenant
        self._clock = clock
        self._waiting = waiting
        self._patience = patience
        self._guard = threading.Lock()
        self._last: tuple[float, Report] | None = None

    def report(self) -> Report:
        """The report of now, or of a moment ago."""
        with self._guard:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > _FRESH_SECONDS:
                self._last = now, self._look()
            return self._last[1]

    def _look(self) -> Report:
        at = self._clock()
        try:
            found = read_condition(self._warehouse, self._tenant, at=at, since=at - WINDOW)
        except BeammeterError as error:
            return Report(at, (Check("warehouse", False, str(error)),), None, None)
        checks = [Check("warehouse", True, "answers"), self._heartbeat(found)]
        try:
            waiting = self._waiting(at - self._patience)
        except BeammeterError as error:
            checks.append(Check("lag", False, str(error)))
            return Report(at, tuple(checks), found, None)
        checks.append(self._reading(found, waiting))
        return Report(at, tuple(checks), found, None if waiting is None else waiting.events)

    def _heartbeat(self, found: Condition) -> Check:
        if not found.shards:
            return Check("stream", True, "no stream owns buckets")
        silent = found.at - min(shard.seen_at for shard in found.shards)
        seconds = max(0, round(silent.total_seconds()))
        if silent > self._patience:
            return Check("stream", False, f"a shard has been silent for {seconds} s")
        number = len(found.shards)
        shards = "1 shard" if number == 1 else f"{number} shards"
        return Check("stream", True, f"{shards}, heard {seconds} s ago")

    def _reading(self, found: Condition, waiting: Waiting | None) -> Check:
        """Whether something was read while something waited."""
        if waiting is None:
            return Check("lag", True, "not known here")
        if not waiting.events:
            return Check("lag", True, "nothing waits")
        read_lately = found.last_batch is not None and found.at - found.last_batch < self._patience
        if read_lately or not waiting.overdue:
            return Check("lag", True, f"{waiting.events} events wait")
        seconds = round(self._patience.total_seconds())
        detail = f"{waiting.events} events wait, and none was read for {seconds} s"
        return Check("lag", False, detail)


def waiting_in_kafka(settings: KafkaSettings) -> Callable[[datetime], Waiting]:
    """What a stream has not read, by its consumer group."""

    def asked(before: datetime) -> Waiting:
        try:
            return waiting(settings, before)
        except KafkaException as error:
            raise BeammeterError(f"the broker does not answer ({error.args[0].str()})") from None

    return asked
