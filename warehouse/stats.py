"""What the pipeline has done, for operators: one row for each batch of an origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from meters.zones import from_microseconds
from warehouse.client import Warehouse

_MINUTE_US = 60_000_000


@dataclass(frozen=True)
class Stats:
    """Counts of one batch. `origin` and `row` name it: a batch that is read again by the
    same bounds replaces its row. `at` is when, in microseconds, UTC.
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
                "recorded_at": now,
            }
            for row in rows
        ],
    )
