"""Sums that are kept beside usage, so that questions about a whole tenant need not read every row.

    usage, usage_values --refresh, day by day--> usage_hours   of all customers together
                                                 usage_days    of each customer
                                                 usage_kept    which days, up to which block

A kept sum is never trusted for its age but for what it was made of. ClickHouse numbers the
blocks that are inserted into a table, one after the other, and gives a number only as it makes
the block visible; every row remembers the number of its block (`_block_number`), also through
merges. A day that was summed when all blocks up to N could be read is as good as its rows as
long as no row of that day has a number above N. Whatever changes a row inserts one: a late
event, a new revision, a tombstone. So nobody who writes usage has to say so, and a refresh is
never needed for a right answer: what is not fresh is read from the hours.

Days are those of UTC, since the customers of a tenant live in many zones. Each refresh writes
partitions of its own (day and run) and names them in `usage_kept` when they are complete; two
refreshes at a time do not harm each other.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from meters.errors import WarehouseError
from warehouse.client import Warehouse
from warehouse.merging import HAS_LATEST, LATEST
from warehouse.parameters import Value, json_list
from warehouse.queries import KEY

DAY = "toYYYYMMDD(bucket_start)"
"""The UTC day of a bucket, as a number such as 20260131."""

_BATCH_ROWS = 2_000_000
_RUNS = 1 << 62
_NOTHING = 0
"""The run of days that have no usage: only tombstones."""

UNUSED_SECONDS = 600.0
"""How long sums stay after newer ones took their place: a reader may have begun with them."""

_LAST_BLOCKS = """
SELECT table, toInt64(max(max_block_number)) AS block FROM system.parts
WHERE database = currentDatabase() AND active AND table IN ('usage', 'usage_values')
GROUP BY table
"""

_ENGINES = """
SELECT count() AS tables FROM system.tables
WHERE database = currentDatabase() AND name IN ('usage', 'usage_values')
    AND engine = 'ReplacingMergeTree'
"""

_BLOCKS = f"SELECT {DAY} AS day, toInt64(max(_block_number)) AS block, count() AS rows FROM"

_ALL = f"{_BLOCKS} {{table}} GROUP BY day"

# A part is named PARTITION_FIRSTBLOCK_LASTBLOCK_..., and one without new blocks is not read.
_NEW = f"""
{_BLOCKS} {{table}} PREWHERE _block_number > {{{{seen:Int64}}}}
WHERE toInt64(splitByChar('_', _part)[3]) > {{{{seen:Int64}}}}
GROUP BY day
"""

# Sums that somebody emptied are not kept any more, whatever `usage_kept` says.
_KEPT = f"""
SELECT day, run, usage_block, values_block FROM usage_kept FINAL
WHERE run = {_NOTHING} OR concat('(', toString(day), ',', toString(run), ')') IN (
    SELECT partition FROM system.parts
    WHERE database = currentDatabase() AND active AND table IN ('usage_hours', 'usage_days')
    GROUP BY partition HAVING uniqExact(table) = 2
)
"""

_THESE_DAYS = f"{DAY} IN (SELECT arrayJoin(JSONExtract({{days:String}}, 'Array(UInt32)')))"

_STATE = f"""
    sum(w.events) AS events, sum(w.sum) AS sum, min(w.min) AS min, max(w.max) AS max,
    max(w.latest_at) AS latest_at, {LATEST}.2 AS latest_id,
    if({HAS_LATEST}, {LATEST}.3, NULL) AS latest_value
"""
_NAMES = "events, sum, min, max, latest_at, latest_id, latest_value"

# Nobody waits for sums, and others want the processors.
_BESIDE = "SETTINGS max_threads = 1"

_HOUR_KEYS = "tenant_id, meter, group_key, bucket_start"
_DAY_KEYS = "tenant_id, meter, external_customer_id, external_subscription_id, bucket_start"


def _sum(table: str, keys: str, start: str) -> str:
    """The statement that sums the winning rows of some days."""
    winners = keys.replace("bucket_start", f"{start} AS start")
    listed = keys.replace("bucket_start", "start")
    return f"""
INSERT INTO {table} (run, {keys}, {_NAMES})
SELECT {{run:UInt64}} AS run, {listed}, {_STATE}
FROM (
    SELECT {winners}, {_NAMES} FROM usage FINAL PREWHERE {_THESE_DAYS} WHERE events > 0
) AS w
GROUP BY {listed}
{_BESIDE}
"""


_SUM_HOURS = _sum("usage_hours", _HOUR_KEYS, "bucket_start")
# toStartOfDay ends in 2106.
_SUM_DAYS = _sum("usage_days", _DAY_KEYS, "toDateTime64(toDate32(bucket_start), 6, 'UTC')")

_SUM_VALUES = f"""
INSERT INTO usage_hours (run, {_HOUR_KEYS}, value_hashes)
SELECT {{run:UInt64}} AS run, {_HOUR_KEYS}, uniqExactState(value_hash) AS value_hashes
FROM usage_values
PREWHERE {_THESE_DAYS}
WHERE (tenant_id, {KEY}, revision) IN (
    SELECT tenant_id, {KEY}, revision FROM usage FINAL
    PREWHERE {_THESE_DAYS}
        AND meter IN (SELECT DISTINCT meter FROM usage_values PREWHERE {_THESE_DAYS})
    WHERE events > 0
)
GROUP BY {_HOUR_KEYS}
{_BESIDE}
"""

_WRITTEN = """
SELECT table, partition FROM system.parts
WHERE database = currentDatabase() AND active AND table IN ('usage_hours', 'usage_days')
    AND endsWith(partition, concat(',', toString({run:UInt64}), ')'))
GROUP BY table, partition
"""

_USED_DAYS = f"""
SELECT DISTINCT {DAY} AS day FROM usage FINAL PREWHERE {_THESE_DAYS} WHERE events > 0
{_BESIDE}
"""

_KEEP = """
INSERT INTO usage_kept (day, run, usage_block, values_block)
SELECT arrayJoin(JSONExtract({days:String}, 'Array(UInt32)')), {run:UInt64},
    {usage_block:Int64}, {values_block:Int64}
"""

_PARTITIONS = """
SELECT DISTINCT table, partition, partition_id FROM system.parts
WHERE database = currentDatabase() AND active AND table IN ('usage_hours', 'usage_days')
"""

Days = Sequence[tuple[int, int]]
"""Days with the run that summed them."""


@dataclass(frozen=True)
class Kept:
    """Of the days of a span that have usage: those that are summed, and those to be read."""

    summed: Days
    rest: Sequence[int]

    def whole(self, start: datetime | None, end: datetime | None) -> Kept:
        """The same where only days count as summed that lie within the span as a whole."""
        summed = [
            each
            for each in self.summed
            if (start is None or start <= day_start(each[0]))
            and (end is None or day_end(each[0]) <= end)
        ]
        cut = {day for day, _ in self.summed} - {day for day, _ in summed}
        return Kept(summed, sorted([*self.rest, *cut]))


@dataclass
class _Source:
    """What is known of a table: up to which block, and the last block of each day."""

    seen: int = -1
    blocks: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)


class Sums:
    """The kept sums of a warehouse; safe for use by several threads.

    Nothing is kept where the tables are of another engine than the schema's own: a cluster of
    replicas numbers its blocks before they can be read.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._sources = {name: _Source() for name in ("usage", "usage_values")}
        self._guard = threading.Lock()
        self._refreshing = threading.Lock()
        self._begun = False
        self._numbered: bool | None = None
        self._unused: dict[tuple[str, str], float] = {}

    def of(self, start: datetime | None, end: datetime | None) -> Kept | None:
        """The days of a span; None until the first `refresh` has looked at all rows.

        None also where blocks are numbered anew, until the next `refresh`.
        """
        if not self._begun:
            return None
        sources, kept = self._sources, self._kept()
        if self._look(kept) is None:
            return None
        first = 0 if start is None else day_of(start)
        last = None if end is None else day_of(end - timedelta(microseconds=1))
        summed, rest = [], []
        with self._guard:
            if sources is not self._sources:
                return None
            for day in sorted(self._sources["usage"].blocks):
                if day < first or (last is not None and day > last):
                    continue
                if self._is_fresh(day, kept.get(day)):
                    summed.append((day, kept[day][0]))
                else:
                    rest.append(day)
        return Kept(summed, rest)

    def refresh(
        self,
        stopped: Callable[[], bool] = lambda: False,
        *,
        unused_seconds: float = UNUSED_SECONDS,
    ) -> int:
        """Sum all days that have changed, and drop what nobody can be reading any more.

        Returns the number of days. Ends early where `stopped`. Runs that are killed leave
        nothing that is read. Days that cannot be summed do not hold up the others: their first
        error is raised when all else is done.
        """
        with self._refreshing:
            if not self._is_numbered():
                return 0
            days = 0
            failed: WarehouseError | None = None
            for batch in self._batches():
                if stopped():
                    break
                try:
                    self._sum(batch)
                    days += len(batch)
                except WarehouseError as error:
                    failed = failed or error
            self._drop_unused(unused_seconds)
            if failed:
                raise failed
            return days

    def _is_numbered(self) -> bool:
        if self._numbered is None:
            [found] = self._warehouse.query_rows(_ENGINES)
            self._numbered = found["tables"] == len(self._sources)
        return self._numbered

    def _kept(self) -> dict[int, tuple[int, int, int]]:
        rows = self._warehouse.query_arrow(_KEPT).to_pydict()
        if not rows:
            return {}
        numbers = zip(rows["run"], rows["usage_block"], rows["values_block"], strict=True)
        return dict(zip(rows["day"], numbers, strict=True))

    def _look(self, kept: Mapping[int, tuple[int, int, int]]) -> dict[str, int] | None:
        """Learn which days have new blocks; returns the last block of each table before that.

        `kept` was read before. Blocks only grow, so a number above a table's last is one of
        other parts, which were replaced: by a backup, for instance, whose parts are numbered
        anew. No number can be compared then: all that is kept is forgotten, and there is None.
        """
        with self._guard:
            found = self._warehouse.query_rows(_LAST_BLOCKS)
            last = dict.fromkeys(self._sources, 0)
            last |= {str(row["table"]): int(str(row["block"])) for row in found}
            for place, (name, source) in enumerate(self._sources.items(), start=1):
                if last[name] < max([source.seen, *(each[place] for each in kept.values())]):
                    self._warehouse.command("TRUNCATE TABLE usage_kept")
                    self._sources = {each: _Source() for each in self._sources}
                    self._begun = False
                    return None
            for name, source in self._sources.items():
                block = last[name]
                if block == source.seen:
                    continue
                sql = (_ALL if source.seen < 0 else _NEW).format(table=name)
                for row in self._warehouse.query_rows(sql, {"seen": source.seen}):
                    day, newest = int(str(row["day"])), int(str(row["block"]))
                    source.blocks[day] = max(newest, source.blocks.get(day, 0))
                    source.rows[day] = source.rows.get(day, 0) + int(str(row["rows"]))
                source.seen = block
            self._begun = True
            return last

    def _is_fresh(self, day: int, kept: tuple[int, int, int] | None) -> bool:
        if kept is None:
            return False
        usage, values = (self._sources[name].blocks.get(day, -1) for name in self._sources)
        return usage <= kept[1] and values <= kept[2]

    def _batches(self) -> Iterator[list[int]]:
        """Days that have to be summed, the latest first, so many at a time as fit into memory."""
        kept = self._kept()
        if self._look(kept) is None:
            kept = {}
            self._look(kept)
        with self._guard:
            usage, values = self._sources["usage"], self._sources["usage_values"]
            rows = {
                day: usage.rows[day] + values.rows.get(day, 0)
                for day in sorted(usage.blocks, reverse=True)
                if not self._is_fresh(day, kept.get(day))
            }
        batch: list[int] = []
        size = 0
        for day, count in rows.items():
            if batch and size + count > _BATCH_ROWS:
                yield batch
                batch, size = [], 0
            batch.append(day)
            size += count
        if batch:
            yield batch

    def _sum(self, days: Sequence[int]) -> None:
        # What is read from here on has all blocks up to these.
        last = self._look({})
        if last is None:
            return
        run, begun = random.randrange(1, _RUNS), time.time()
        given: dict[str, Value] = {"days": json_list(list(days)), "run": run}
        for statement in (_SUM_HOURS, _SUM_VALUES, _SUM_DAYS):
            self._warehouse.command(statement, given)
        # Another process may have dropped by now what nobody named.
        if time.time() - begun > UNUSED_SECONDS / 2:
            return
        blocks: dict[str, Value] = {
            "usage_block": last["usage"],
            "values_block": last["usage_values"],
        }
        unwritten = self._unwritten(days, run)
        for those, of in (
            ([day for day in days if day not in unwritten], run),
            (self._unused_of(unwritten), _NOTHING),
        ):
            if those:
                self._warehouse.command(_KEEP, {"days": json_list(those), "run": of, **blocks})

    def _unwritten(self, days: Sequence[int], run: int) -> list[int]:
        """The days of a run that have no sums."""
        rows = self._warehouse.query_rows(_WRITTEN, {"run": run})
        written = Counter(row["partition"] for row in rows)
        return [day for day in days if written[f"({day},{run})"] < 2]

    def _unused_of(self, days: Sequence[int]) -> list[int]:
        """Those of some days that have no usage."""
        if not days:
            return []
        rows = self._warehouse.query_rows(_USED_DAYS, {"days": json_list(list(days))})
        used = {int(str(row["day"])) for row in rows}
        return [day for day in days if day not in used]

    def _drop_unused(self, after: float) -> None:
        used = {f"({day},{kept[0]})" for day, kept in self._kept().items()}
        now = time.monotonic()
        unused = {}
        for row in self._warehouse.query_rows(_PARTITIONS):
            if row["partition"] in used:
                continue
            key = str(row["table"]), str(row["partition_id"])
            unused[key] = self._unused.get(key, now)
            if now - unused[key] >= after:
                table, partition = key
                sql = f"ALTER TABLE {table} DROP PARTITION ID {{partition:String}}"
                self._warehouse.command(sql, {"partition": partition})
        self._unused = unused


def day_of(at: datetime) -> int:
    """The UTC day of an instant, as `DAY` numbers it."""
    here = at.astimezone(UTC)
    return here.year * 10_000 + here.month * 100 + here.day


def day_start(day: int) -> datetime:
    """The first instant of a UTC day."""
    return datetime(day // 10_000, day // 100 % 100, day % 100, tzinfo=UTC)


def day_end(day: int) -> datetime:
    """The first instant of the day after it."""
    return day_start(day) + timedelta(days=1)
