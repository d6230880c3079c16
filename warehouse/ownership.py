"""Who owns a bucket, and which buckets must be recomputed.

    progress.owned  closed_until |-------- owned by the stream --------> later buckets
         1          <-- repair and backfill --|
         0          <-------------- repair and backfill alone ------------------------>

While `owned` is 1, the stream owns every bucket of the shard's customers that ends
after `closed_until`. What it cannot settle alone it marks dirty, by identity, and
`repair` recomputes it from the raw events. Source of the rules: "One owner at a time"
and "Repair" of the design, told in docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pyarrow as pa

from meters.shards import shard_of
from meters.zones import from_microseconds, microseconds
from warehouse.client import Warehouse
from warehouse.writes import with_constants, with_time

OWNER = "xxh3(concat(tenant_id, '\\0', external_customer_id))"
"""`meters.shards.owner_hash` as an expression over the columns of a table."""

SHARD_OF = f"{OWNER} % {{shards:UInt32}}"
"""`meters.shards.shard_of`, likewise."""

WHOLE_BUCKET = bytes(16)
"""The `identity_hash` of a mark that stands for its whole bucket."""

_MARK = ["external_customer_id", "bucket_start", "reason", "identity_hash"]

_PROGRESS = """
SELECT shards, shard, closed_until, owned, watermark, updated_at FROM progress FINAL
WHERE tenant_id = {tenant:String} ORDER BY shards, shard
"""

_DIRTY = """
SELECT external_customer_id, bucket_start, toString(reason) AS reason, identity_hash, marked_at
FROM dirty FINAL
WHERE tenant_id = {tenant:String} AND cleared = 0
    AND ({customer:Nullable(String)} IS NULL OR external_customer_id = {customer:Nullable(String)})
ORDER BY external_customer_id, bucket_start, reason, identity_hash
"""


@dataclass(frozen=True)
class Progress:
    """How far one shard of the stream has come; times are microseconds, UTC.

    `updated_at` 0 stands for the time of writing. `watermark` is None where the shard
    cannot tell it.
    """

    shards: int
    shard: int
    closed_until: int
    owned: bool
    updated_at: int = 0
    watermark: int | None = None


@dataclass(frozen=True)
class Owners:
    """Which buckets of a tenant the stream owns.

    Rows of several numbers of shards may be there, left by a stream that was started
    with another one: a bucket is owned if any of them says so.
    """

    tenant: str
    rows: tuple[Progress, ...]

    def __bool__(self) -> bool:
        """Whether the stream owns anything at all."""
        return any(row.owned for row in self.rows)

    def closed_until(self, customer: str) -> int | None:
        """The stream owns the customer's buckets that end later; None: it owns none."""
        found = [
            row.closed_until
            for row in self.rows
            if row.owned and row.shard == shard_of(self.tenant, customer, row.shards)
        ]
        return min(found, default=None)

    def through(self, later: Owners) -> Owners:
        """Which buckets the stream may have owned from then until `later`, if only for a moment.

        A shard that was released takes its buckets back where another event comes, and says so
        before it counts.
        """
        changed = [replace(row, owned=True) for row in self.rows if row not in later.rows]
        return Owners(self.tenant, (*self.rows, *later.rows, *changed))


def read_owners(warehouse: Warehouse, tenant: str) -> Owners:
    """Who owns the tenant's buckets now."""
    return Owners(tenant, tuple(read_progress(warehouse, tenant)))


def read_progress(warehouse: Warehouse, tenant: str) -> list[Progress]:
    """The progress of every shard, by number of shards and shard.

    `owned` is what was written last; `closed_until` the maximum ever written.
    """
    return [
        Progress(
            shards=row["shards"],
            shard=row["shard"],
            closed_until=microseconds(row["closed_until"]),
            owned=bool(row["owned"]),
            updated_at=microseconds(row["updated_at"]),
            watermark=None if row["watermark"] is None else microseconds(row["watermark"]),
        )
        for row in warehouse.query_arrow(_PROGRESS, {"tenant": tenant}).to_pylist()
    ]


def write_progress(warehouse: Warehouse, tenant: str, rows: Sequence[Progress]) -> None:
    """Notes the progress of some shards, each of which has one writer at a time.

    `closed_until` never goes back: the greater of the given and the stored one is
    written. `owned` of a row that is older than the stored one is not taken.
    """
    stored = {(row.shards, row.shard): row for row in read_progress(warehouse, tenant)}
    now = microseconds(datetime.now(UTC))
    for row in rows:
        key = row.shards, row.shard
        given = replace(row, updated_at=row.updated_at or now)
        stored[key] = _later(stored[key], given) if key in stored else given
    keys = dict.fromkeys((row.shards, row.shard) for row in rows)
    warehouse.insert_rows(
        "progress",
        [
            {
                "tenant_id": tenant,
                "shards": row.shards,
                "shard": row.shard,
                "closed_until": from_microseconds(row.closed_until),
                "owned": int(row.owned),
                "watermark": None if row.watermark is None else from_microseconds(row.watermark),
                "updated_at": from_microseconds(row.updated_at),
            }
            for row in map(stored.__getitem__, keys)
        ],
    )


def _later(stored: Progress, given: Progress) -> Progress:
    last = given if given.updated_at >= stored.updated_at else stored
    return replace(last, closed_until=max(stored.closed_until, given.closed_until))


def mark_dirty(warehouse: Warehouse, tenant: str, marks: pa.Table) -> None:
    """Marks what `repair` must recompute.

    `marks` has `external_customer_id`, `bucket_start`, `reason` (`late`, `conflict`,
    ...) and `identity_hash` (`WHOLE_BUCKET`: whatever lies in the bucket). The same mark
    twice is one. The warehouse's clock says when, so that a mark made again after it was
    cleared is later, whoever makes it. Raw events are stored before they are marked.
    """
    table = with_time(marks.select(_MARK), "updated_at")
    table = table.append_column("cleared", pa.repeat(pa.scalar(0, pa.uint8()), table.num_rows))
    warehouse.insert("dirty", with_constants(table, tenant_id=tenant))


def dirty_marks(warehouse: Warehouse, tenant: str, customer: str | None = None) -> pa.Table:
    """The marks that are not cleared: the columns of `mark_dirty` and `marked_at`."""
    return warehouse.query_arrow(_DIRTY, {"tenant": tenant, "customer": customer})


def clear_marks(warehouse: Warehouse, tenant: str, marks: pa.Table) -> None:
    """Clears exactly these marks, as `dirty_marks` gave them; later ones stay dirty."""
    table = with_time(marks.select([*_MARK, "marked_at"]), "updated_at")
    table = table.append_column("cleared", pa.repeat(pa.scalar(1, pa.uint8()), table.num_rows))
    warehouse.insert("dirty", with_constants(table, tenant_id=tenant))


def take_over(warehouse: Warehouse, tenant: str, shards: int, closed_until: int, now: int) -> None:
    """Makes a stream of `shards` shards the owner, before it loads anything.

    Nothing that is closed is opened again; at the very first start `closed_until` holds.
    Rows of another number of shards are released, and what they may not have counted
    stays known: the new rows are as old as the oldest of them. To be called under
    `warehouse.leases.exclusive`, so that no repair is under way.
    """
    rows = read_progress(warehouse, tenant)
    mine = {row.shard: row for row in rows if row.shards == shards}
    others = [row for row in rows if row.owned and row.shards != shards]
    closed = max([row.closed_until for row in rows], default=closed_until)
    since = min([row.updated_at for row in others], default=now)
    taken = []
    for shard in range(shards):
        known = mine.get(shard)
        if known is None or not known.owned:
            at = max(since, known.updated_at) if known else since
            taken.append(Progress(shards, shard, closed, owned=True, updated_at=at))
    released = [replace(row, owned=False, updated_at=max(now, row.updated_at)) for row in others]
    write_progress(warehouse, tenant, [*taken, *released])
