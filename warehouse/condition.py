"""The condition of a tenant's pipeline, as the warehouse knows it.

A stream writes `progress` about every ten seconds while it owns its buckets, also when
nothing comes. So progress that grows old says that a stream has died or stands still,
whatever it says itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from meters.zones import from_microseconds
from warehouse.client import Warehouse
from warehouse.ownership import read_progress
from warehouse.pulse import totals
from warehouse.quarantine import Selection, open_counts

_DIRTY = """
SELECT toString(reason) AS reason, count() AS marks, min(marked_at) AS oldest
FROM dirty FINAL WHERE tenant_id = {tenant:String} AND cleared = 0 GROUP BY reason
"""

_STORED = """
SELECT count() AS events, quantileExact(0.5)(seconds) AS median,
    quantileExact(0.95)(seconds) AS p95, max(seconds) AS most
FROM (
    SELECT dateDiff('second', ingested_at, stored_at) AS seconds FROM events
    WHERE tenant_id = {tenant:String} AND stored_at >= {since:DateTime64(6, 'UTC')}
)
"""


@dataclass(frozen=True)
class ShardProgress:
    """One shard of the stream that owns buckets: how far it has closed, and when it said so."""

    shard: int
    closed_until: datetime
    seen_at: datetime


@dataclass(frozen=True)
class Delay:
    """Seconds from when events arrived until they were stored, of those stored lately."""

    events: int
    median: int
    p95: int
    most: int


@dataclass(frozen=True)
class Condition:
    """A tenant's pipeline at one instant.

    `counts` are the sums of `warehouse.pulse.COUNTS` since `since`, `last_batch` when the
    last batch was stored in that time. `dirty` and `quarantined` are what is there now, by
    reason.
    """

    at: datetime
    since: datetime
    shards: tuple[ShardProgress, ...]
    counts: Mapping[str, int]
    last_batch: datetime | None
    dirty: Mapping[str, int]
    dirty_since: datetime | None
    quarantined: Mapping[str, int]
    delay: Delay


def read_condition(
    warehouse: Warehouse, tenant: str, *, at: datetime, since: datetime
) -> Condition:
    """How the pipeline is; `at` is now."""
    sums = totals(warehouse, tenant, since)
    last = sums.pop("last")
    dirty = warehouse.query_rows(_DIRTY, {"tenant": tenant})
    refused: Counter[str] = Counter()
    for row in open_counts(warehouse, tenant, Selection()).to_pylist():
        refused[row["reason"]] += row["rows"]
    [stored] = warehouse.query_rows(_STORED, {"tenant": tenant, "since": since})
    marked = [row["oldest"] for row in dirty if isinstance(row["oldest"], datetime)]
    return Condition(
        at=at,
        since=since,
        shards=tuple(
            ShardProgress(
                row.shard, from_microseconds(row.closed_until), from_microseconds(row.updated_at)
            )
            for row in read_progress(warehouse, tenant)
            if row.owned
        ),
        counts={name: _whole(value) for name, value in sums.items()},
        last_batch=last if isinstance(last, datetime) else None,
        dirty={str(row["reason"]): _whole(row["marks"]) for row in dirty},
        dirty_since=min(marked, default=None),
        quarantined=dict(refused),
        delay=Delay(
            _whole(stored["events"]),
            _whole(stored["median"]),
            _whole(stored["p95"]),
            _whole(stored["most"]),
        ),
    )


def _whole(value: object) -> int:
    return int(str(value)) if value is not None and str(value) != "nan" else 0
