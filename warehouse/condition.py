"""The condition of a tenant's pipeline, as the warehouse knows it.

A stream writes `progress` about every ten seconds while it owns its buckets, also when
nothing comes. So progress that grows old says that a stream has died or stands still,
whatever it says itself.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

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
from warehouse.queries import IS_STREAMED
from warehouse.stats import SINK

_DIRTY = """
SELECT toString(reason) AS reason, count() AS marks, min(marked_at) AS oldest
FROM dirty FINAL WHERE tenant_id = {tenant:String} AND cleared = 0 GROUP BY reason
"""

_STORED = f"""
SELECT count() AS number, quantileExact(0.5)(seconds) AS median,
    quantileExact(0.95)(seconds) AS p95, max(seconds) AS most
FROM (
    SELECT toFloat64(dateDiff('second', ingested_at, stored_at)) AS seconds FROM events
    WHERE tenant_id = {{tenant:String}} AND stored_at >= {{since:DateTime64(6, 'UTC')}}
        AND {IS_STREAMED}
)
"""

_SINK = f"""
SELECT sum(sink_rows) AS rows, sum(sink_retries) AS retries, count(seconds) AS number,
    quantileExact(0.5)(seconds) AS median, quantileExact(0.95)(seconds) AS p95,
    max(seconds) AS most
FROM (
    SELECT sink_rows, sink_retries, usage_delay_ms / 1000 AS seconds FROM ingest_stats FINAL
    WHERE tenant_id = {{tenant:String}} AND recorded_at >= {{since:DateTime64(6, 'UTC')}}
        AND startsWith(origin, '{SINK}')
)
"""


@dataclass(frozen=True)
class ShardProgress:
    """One shard of the stream that owns buckets: how far it has closed, and when it said so.

    It expects no more events from before `watermark`; None where it cannot tell.
    """

    shard: int
    closed_until: datetime
    seen_at: datetime
    watermark: datetime | None


@dataclass(frozen=True)
class Delay:
    """Seconds that something took lately; of `number` measurements, which may be 0."""

    number: int
    median: float
    p95: float
    most: float


@dataclass(frozen=True)
class Condition:
    """A tenant's pipeline at one instant.

    `counts` are the sums of `warehouse.pulse.COUNTS` since `since`, the `batches` and the
    `rounded` numbers, `last_batch` when the last batch was stored in that time. `dirty` and
    `quarantined` are what is there now, by reason. `stored` is the delay from `ingested_at`
    to the raw row, event by event in whole seconds, of what a stream has read: a file may
    be as old as it likes. `usage` is that to the usage row, each flush by the event that
    waited longest. `sink_rows` were handed to the warehouse since then, and `sink_retries`
    counts the statements that were tried again.
    """

    at: datetime
    since: datetime
    shards: tuple[ShardProgress, ...]
    counts: Mapping[str, int]
    last_batch: datetime | None
    dirty: Mapping[str, int]
    dirty_since: datetime | None
    quarantined: Mapping[str, int]
    stored: Delay
    usage: Delay
    sink_rows: int
    sink_retries: int


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
    [sink] = warehouse.query_rows(_SINK, {"tenant": tenant, "since": since})
    marked = [row["oldest"] for row in dirty if isinstance(row["oldest"], datetime)]
    return Condition(
        at=at,
        since=since,
        shards=tuple(
            ShardProgress(
                row.shard,
                from_microseconds(row.closed_until),
                from_microseconds(row.updated_at),
                None if row.watermark is None else from_microseconds(row.watermark),
            )
            for row in read_progress(warehouse, tenant)
            if row.owned
        ),
        counts={name: _whole(value) for name, value in sums.items()},
        last_batch=last if isinstance(last, datetime) else None,
        dirty={str(row["reason"]): _whole(row["marks"]) for row in dirty},
        dirty_since=min(marked, default=None),
        quarantined=dict(refused),
        stored=_delay(stored),
        usage=_delay(sink),
        sink_rows=_whole(sink["rows"]),
        sink_retries=_whole(sink["retries"]),
    )


def _delay(row: Mapping[str, object]) -> Delay:
    number = _whole(row["number"])
    if not number:
        return Delay(0, 0.0, 0.0, 0.0)
    return Delay(number, *(float(str(row[name])) for name in ("median", "p95", "most")))


def _whole(value: object) -> int:
    return int(str(value)) if value is not None else 0
