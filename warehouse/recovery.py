"""What a shard of the stream reads when it starts without its state.

Raw events are written before anything else, so whatever a shard knew can be found
again: the identities of recent events, the open buckets and what is stored of their
usage. What was raw but perhaps not counted when the stream was killed, in hours that
are closed, is found by when it was stored.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from meters.zones import from_microseconds, microseconds
from warehouse.affected import EVENT_COLUMNS
from warehouse.client import Warehouse
from warehouse.ownership import OWNER, SHARD_OF
from warehouse.parameters import Parameters
from warehouse.queries import IS_STREAMED, KEY, ROW

_MINE = f"tenant_id = {{tenant:String}} AND {SHARD_OF} = {{shard:UInt32}}"
_SINCE = "{since:DateTime64(6, 'UTC')}"

_NEWEST = """
SELECT max(timestamp) AS timestamp, max(ingested_at) AS ingested_at, count() AS events
FROM events WHERE tenant_id = {tenant:String}
"""

_IDENTITIES = f"""
SELECT owner, identity_hash, toUInt64(bitShiftRight(first, 64)) AS content,
    toInt64(bitShiftRight(first, 128)) AS ingested_at, newest
FROM (
    SELECT {OWNER} AS owner, identity_hash,
        min(bitOr(
            bitShiftLeft(toUInt256(toUnixTimestamp64Micro(e.ingested_at)), 128),
            toUInt256(reinterpretAsUInt128(reverse(content_hash)))
        )) AS first,
        max(toUnixTimestamp64Micro(timestamp)) AS newest
    FROM events AS e
    WHERE {_MINE} AND (e.ingested_at >= {{ingested:DateTime64(6, 'UTC')}} OR timestamp >= {_SINCE})
    GROUP BY owner, identity_hash
)
"""
# (ingested_at, content hash) as one number: the least of numbers costs half as much as of pairs.

_OPEN_EVENTS = f"""
SELECT {EVENT_COLUMNS} FROM events FINAL PREWHERE {_MINE} AND timestamp >= {_SINCE}
"""

_OPEN_ROWS = f"SELECT {ROW} FROM usage FINAL WHERE {_MINE} AND bucket_start >= {_SINCE}"

_OPEN_VALUES = f"""
SELECT DISTINCT {KEY}, revision, value_hash FROM usage_values
WHERE {_MINE} AND bucket_start >= {_SINCE}
"""

_UNSETTLED = f"""
SELECT DISTINCT external_customer_id, toDateTime64(toStartOfHour(timestamp), 6, 'UTC')
    AS bucket_start, 'restart' AS reason, identity_hash
FROM events
WHERE {_MINE} AND stored_at >= {{stored:DateTime64(6, 'UTC')}} AND timestamp < {_SINCE}
    AND {IS_STREAMED}
"""


_CHANGED = f"""
SELECT DISTINCT external_customer_id,
    toDateTime64(toStartOfInterval(timestamp, INTERVAL 15 MINUTE), 6, 'UTC') AS bucket_start,
    'catalog' AS reason, toFixedString('', 16) AS identity_hash
FROM events
WHERE {_MINE} AND timestamp >= {_SINCE} AND timestamp < {{until:DateTime64(6, 'UTC')}}
"""


@dataclass(frozen=True)
class Newest:
    """The greatest event time and time of receipt of a tenant's raw events, or 0."""

    timestamp: int
    ingested_at: int


def newest(warehouse: Warehouse, tenant: str) -> Newest:
    """How far the raw events go; microseconds, UTC."""
    row = warehouse.query_arrow(_NEWEST, {"tenant": tenant}).to_pylist()[0]
    if not row["events"]:
        return Newest(0, 0)
    return Newest(microseconds(row["timestamp"]), microseconds(row["ingested_at"]))


@dataclass(frozen=True)
class ShardReader:
    """Reads what belongs to one shard. Instants are microseconds, UTC."""

    warehouse: Warehouse
    tenant: str
    shard: int
    shards: int

    def identities(self, ingested: int, since: int) -> Iterator[pa.RecordBatch]:
        """Each identity received since `ingested`, or of an event since `since`, once.

        With the `owner` hash of its customer, the first word of the content hash and the
        `ingested_at` of the copy that counts, and the greatest time of any copy as `newest`.
        """
        return self.warehouse.iter_arrow(
            _IDENTITIES, self._with(since=since, ingested=from_microseconds(ingested))
        )

    def open_events(self, since: int) -> Iterator[pa.RecordBatch]:
        """Raw events from `since` on, one row for each identity and content."""
        return self.warehouse.iter_arrow(_OPEN_EVENTS, self._with(since=since))

    def open_rows(self, since: int) -> pa.Table:
        """The winning usage rows of buckets that start from `since` on, with tombstones."""
        return self.warehouse.query_arrow(_OPEN_ROWS, self._with(since=since))

    def open_values(self, since: int) -> pa.Table:
        """All stored distinct values of those buckets, with their revision."""
        return self.warehouse.query_arrow(_OPEN_VALUES, self._with(since=since))

    def unsettled(self, stored: int, until: int) -> pa.Table:
        """Marks for events before `until` that a stream has stored since `stored`.

        Whatever a file brought was counted by the backfill that read it.
        """
        moment = from_microseconds(stored)
        return self.warehouse.query_arrow(_UNSETTLED, self._with(since=until, stored=moment))

    def changed(self, since: int, until: int) -> pa.Table:
        """Marks for the quarter hours of all events in [since, until)."""
        parameters = self._with(since=since, until=from_microseconds(until))
        return self.warehouse.query_arrow(_CHANGED, parameters)

    def _with(self, *, since: int, **others: object) -> Parameters:
        return {
            "tenant": self.tenant,
            "shard": self.shard,
            "shards": self.shards,
            "since": from_microseconds(since),
            **others,  # type: ignore[dict-item]
        }
