"""What the pipeline has done, for operators.

one row for each batch of an origin      events, by what became of them
one row for each flush of a worker       what its writes cost, and how late they were
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from meters.zones import from_microseconds
from warehouse.client import Warehouse

SINK = "sink/"
"""How origins begin that are a worker's own work, and SHARD those that are a shard's."""

SHARD = "shard/"

_MINUTE_US = 60_000_000


@dataclass(frozen=True)
class Stats:
    """Counts of one batch. `origin` and `row` name it: a batch that is read again by the
    same bounds replaces its row. `at` is when, in microseconds, UTC.

    `rounded` are numbers, not events: those that lost digits beyond the 12th place.
    `sink_rows` were handed to the warehouse, `sink_retries` says how often a statement was
    tried again, and `usage_delay_ms` is how long the event that had waited longest took from
    its `ingested_at` until its usage could be read; None where nothing was flushed.
    """

    origin: str
    row: int
    at: int
    read: int = 0
    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    quarantined: int = 0
    late: int = 0
    rounded: int = 0
    sink_rows: int = 0
    sink_retries: int = 0
    usage_delay_ms: int | None = None


def insert_stats(warehouse: Warehouse, tenant: str, rows: Sequence[Stats]) -> None:
    """Stores counts; they tell rates, and no bill depends on them."""
    now = datetime.now(UTC)
    warehouse.insert_rows(
        "ingest_stats",
        [
            {
                "tenant_id": tenant,
                "origin": row.origin,
                "origin_row": row.row,
                "minute": from_microseconds(row.at // _MINUTE_US * _MINUTE_US),
                "read": row.read,
                "accepted": row.accepted,
                "duplicate": row.duplicate,
                "conflict": row.conflict,
                "quarantined": row.quarantined,
                "late": row.late,
                "rounded": row.rounded,
                "sink_rows": row.sink_rows,
                "sink_retries": row.sink_retries,
                "usage_delay_ms": row.usage_delay_ms,
                "recorded_at": now,
            }
            for row in rows
        ],
    )
