"""Whether the pipeline works: told from what it leaves behind, not from what it says.

    ready = the warehouse answers, and no stream stands still
    a stream stands still where a shard that owns buckets has not said so for `patience`,
    or where events wait and none was read for as long

A tenant whose usage comes from files alone has no stream and is ready.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from meters.errors import BeammeterError
from meters.timestamps import format_instant
from service.answers import shown
from warehouse.client import Warehouse
from warehouse.condition import Condition, read_condition

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

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        found = self.condition
        body: dict[str, Any] = {
            "status": "ok" if self.ok else "failing",
            "at": format_instant(self.at),
            "checks": [
                {"name": each.name, "ok": each.ok, "detail": each.detail} for each in self.checks
            ],
            "lag": self.lag,
        }
        if found is None:
            return body
        seen = [self.at - shard.seen_at for shard in found.shards]
        closed = [shard.closed_until for shard in found.shards]
        return {
            **body,
            "since": format_instant(found.since),
            "counts": dict(found.counts),
            "success_rate": success_rate(found),
            "last_batch": None if found.last_batch is None else format_instant(found.last_batch),
            "shards": len(found.shards),
            "silent_seconds": round(max(seen).total_seconds()) if seen else None,
            "closed_until": format_instant(min(closed)) if closed else None,
            "dirty": dict(found.dirty),
            "dirty_since": (
                None if found.dirty_since is None else format_instant(found.dirty_since)
            ),
            "quarantined": dict(found.quarantined),
            "delay_seconds": shown(vars(found.delay)),
        }


def success_rate(condition: Condition) -> str | None:
    """The share of the events read that were not refused, with four places."""
    read, refused = condition.counts["read"], condition.counts["quarantined"]
    return None if not read else f"{(read - min(refused, read)) * 10_000 // read / 10_000:.4f}"


class Monitor:
    """Looks at the pipeline, at most every two seconds, for all who ask.

    `lag` says how many events wait to be read, where this server can know it; it may raise.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        tenant: str,
        *,
        clock: Callable[[], datetime],
        lag: Callable[[], int | None] = lambda: None,
        patience: timedelta = PATIENCE,
    ) -> None:
        self._warehouse = warehouse
        self._tenant = tenant
        self._clock = clock
        self._lag = lag
        self._patience = patience
        self._guard = threading.Lock()
        self._last: tuple[float, Report] | None = None
        self._waiting_since: datetime | None = None
        self._seen_batch: datetime | None = None

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
            lag = self._lag()
        except BeammeterError as error:
            checks.append(Check("broker", False, str(error)))
            return Report(at, tuple(checks), found, None)
        checks.append(self._reading(found, lag))
        return Report(at, tuple(checks), found, lag)

    def _heartbeat(self, found: Condition) -> Check:
        if not found.shards:
            return Check("stream", True, "no stream owns buckets")
        silent = found.at - min(shard.seen_at for shard in found.shards)
        seconds = max(0, round(silent.total_seconds()))
        if silent > self._patience:
            return Check("stream", False, f"a shard has been silent for {seconds} s")
        return Check("stream", True, f"{len(found.shards)} shards, heard {seconds} s ago")

    def _reading(self, found: Condition, lag: int | None) -> Check:
        """Whether something is read while something waits."""
        if not lag:
            self._waiting_since = None
            return Check("lag", True, "nothing waits" if lag == 0 else "not known here")
        if self._waiting_since is None or found.last_batch != self._seen_batch:
            self._waiting_since, self._seen_batch = found.at, found.last_batch
        waited = found.at - self._waiting_since
        seconds = round(waited.total_seconds())
        detail = f"{lag} events wait, nothing was read for {seconds} s"
        return Check("lag", waited <= self._patience, detail)
