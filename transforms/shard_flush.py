"""A flush of shards: what was delivered becomes usage rows, marks and progress.

    deliveries -> deduplicate, measure, merge -> usage rows of changed cells, of all shards at once
                                              -> late, conflicting, perhaps forgotten events
                                                 marked dirty
                                              -> progress

Everything that is written may be written again: rows win by (revision, events), which
only grow. So writing before the state is saved loses nothing and doubles nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl
import pyarrow as pa

from meters.buckets import HOUR_US
from meters.identities import Keys
from meters.measure import Cells, Measurement
from meters.stream_state import ShardState, Step, slice_of, stamped
from meters.timeline import ALWAYS, Timeline, first_difference
from meters.usage import INSTANT, usage_rows
from transforms import progress
from transforms.batches import unpack
from transforms.catalogs import CATALOGS
from transforms.conflicts import Conflicts
from transforms.connection import patience
from transforms.deliveries import Delivery
from transforms.shard_load import load
from transforms.shard_memory import Shard
from transforms.stream_counts import STATS
from transforms.stream_options import StreamOptions
from warehouse.client import Warehouse
from warehouse.ownership import Progress, mark_dirty, write_progress
from warehouse.stats import SHARD, Stats, insert_stats
from warehouse.tracing import span
from warehouse.writes import insert_usage, insert_usage_values

MOST_PENDING = 100_000
"""Events that wait for a tick; more are flushed without one."""

_PROGRESS_SECONDS = 10.0
_BEHIND_SECONDS = 0.5
_CLOSE_EACH_US = 60_000_000


@dataclass
class Effects:
    """What a flush changes in the keyed state of a shard."""

    fresh: Keys | None = None
    cells: list[tuple[int, Cells]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)


Each = Callable[[Callable[[Shard], tuple[Step, int]], list[Shard]], Iterable[tuple[Step, int]]]
"""`map`, or another way to do the same for each shard."""


Load = Callable[[int, int | None], Shard]
"""Loads one shard: `ShardWork.load` of its number, and what its runner does beside."""


class ShardWork:
    """Does the work of shards in one process, for any runner."""

    def __init__(self, warehouse: Warehouse, options: StreamOptions, timeline: Timeline) -> None:
        self._warehouse = warehouse
        self._options = options
        self._patience = patience(options.job)
        self._conflicts = Conflicts(warehouse, options.tenant)
        self._catalogs = CATALOGS.of(options.job, options.tenant, timeline)

    @property
    def timeline(self) -> Timeline:
        """The catalogs that are in effect, or announced, now."""
        return self._catalogs.current(self._warehouse)

    def load(self, number: int, at_least: int = 0, changed_from: int | None = None) -> Shard:
        """A shard whose state is built from the raw events; takes its buckets over.

        `changed_from`: as `transforms.shard_load.load` says.
        """
        begun = time.time_ns() // 1000
        # What is read block by block cannot go on after a failure; the whole can begin anew.
        state = self._patience.run(
            lambda: load(
                self._warehouse, self._options, self.timeline, number, at_least, changed_from
            )
        )
        shard = Shard(state, load_begun_at=begun, loaded_at=time.time_ns() // 1000)
        self._progress(number, shard, owned=True, until=begun)
        return shard

    def ready(self, shard: Shard, delivery: Delivery, load: Load) -> tuple[Shard, Delivery]:
        """The shard that can take a delivery, and what it has to take of it.

        That is another one, from `load(at_least, changed_from)` as `load` here has them, where
        the catalogs are others or its buckets were given away.
        """
        since = self.outdated(shard, delivery)
        if since is not None:
            return load(shard.state.closed_until, since), delivery.without_frames()
        if shard.released and (delivery.frames or not delivery.drained):
            return load(shard.state.closed_until, None), delivery
        return shard, delivery

    def outdated(self, shard: Shard, delivery: Delivery) -> int | None:
        """From when on shard or delivery have events that other catalogs meter now, or None.

        Such a shard loads its state anew, and with it the events of the delivery. Any other
        one goes on under the catalogs of now: what they change is still to come.
        """
        state = shard.state
        timeline = self._catalogs.having(self._warehouse, delivery.signature)
        if state.timeline is not timeline:
            since = first_difference(state.timeline.names, timeline.names)
            if since is not None and state.newest >= since:
                return since
            state.go_on(timeline)
        if delivery.signature != timeline.signature and delivery.frames:
            made_by = self._catalogs.names(delivery.signature)
            since = ALWAYS if made_by is None else first_difference(made_by, timeline.names)
            if since is not None and delivery.newest >= since:
                return since
        return None

    def receive(self, shard: Shard, delivery: Delivery) -> bool:
        """Take a delivery in; whether a flush is due."""
        shard.state.newest = max(shard.state.newest, delivery.newest)
        split = delivery.split
        if delivery.watermark is not None:
            known = shard.watermarks.get(split, delivery.watermark)
            shard.watermarks[split] = max(known, delivery.watermark)
        shard.sent[split] = max(shard.sent.get(split, 0), delivery.sent)
        shard.clock = max(shard.clock, delivery.clock)
        shard.drained[split] = delivery.drained
        shard.pending += delivery.frames
        shard.traced += delivery.traced
        if delivery.frames and delivery.sent <= shard.loaded_at:
            shard.counts_duplicates = False
        if shard.pending_rows >= MOST_PENDING:
            return True
        waited = time.monotonic() - shard.flushed_at
        wait = self._options.flush_seconds
        if delivery.behind:
            wait = max(wait, _BEHIND_SECONDS)
        # A split that is drained may never tick again: its buckets are given away now.
        return delivery.tick and (delivery.drained or waited >= 0.8 * wait)

    def flush(
        self, due: Sequence[tuple[int, Shard]], splits: int, each: Each = map
    ) -> list[Effects]:
        """Count what is pending in these shards, write what changed, close what is over.

        A write has costs of its own, so the rows of all shards are written together.
        """
        began = time.monotonic()
        effects = []
        for _, shard in due:
            forgotten = shard.state.turn(slice_of(shard.clock, self._options.horizon_us))
            effects.append(Effects(forgotten=forgotten))
        pending = [at for at, (_, shard) in enumerate(due) if shard.pending]
        if pending:
            waiting = [due[at] for at in pending]
            about = {"beammeter.events": sum(shard.pending_rows for _, shard in waiting)}
            links = [traced for _, shard in waiting for traced in shard.traced]
            with span("flush", about, kind="consumer", links=links):
                counted = list(each(_count, [shard for _, shard in waiting]))
                steps = [step for step, _ in counted]
                self._write(waiting, steps)
            waited = time.time_ns() // 1_000 - min(oldest for _, oldest in counted)
            STATS.worked(self._options.job, delay_ms=max(0, waited) // 1_000)
            for at, (_, shard), step in zip(pending, waiting, steps, strict=True):
                effects[at].fresh, effects[at].cells = step.fresh, step.partial
                shard.pending = []
                shard.traced = []
                if len(shard.state.identities) > self._options.budget:
                    effects[at].forgotten += shard.state.shrink(self._options.budget)
        for number, shard in due:
            shard.flushed_at = began
            self._close(number, shard, splits)
        return effects

    def _write(self, shards: Sequence[tuple[int, Shard]], steps: Sequence[Step]) -> None:
        """Marks first, then values, then rows: a row never stands without its values."""
        options = self._options
        for (number, shard), step in zip(shards, steps, strict=True):
            self._mark(number, shard, step)
        made = _made([shard.state for _, shard in shards], steps)
        floors = pl.concat([shard.state.floors for _, shard in shards])
        values = [stamped(values, floors) for _, values in made if values.height]
        rows = [stamped(rows, floors) for rows, _ in made if rows.height]
        if values:
            insert_usage_values(self._warehouse, options.tenant, pl.concat(values).to_arrow())
        if rows:
            insert_usage(self._warehouse, options.tenant, pl.concat(rows).to_arrow())
        STATS.worked(options.job, rows=sum(frame.height for frame in (*values, *rows)))

    def _mark(self, number: int, shard: Shard, step: Step) -> None:
        """Mark what repair has to look at, and note what was late or repeated."""
        options = self._options
        conflicts = self._conflicts.settle(step.differing)
        marks = pl.concat(
            [
                step.late.with_columns(reason=pl.lit("late")),
                step.doubtful.with_columns(reason=pl.lit("forgotten")),
                conflicts.with_columns(reason=pl.lit("conflict")),
            ]
        )
        if marks.height:
            mark_dirty(self._warehouse, options.tenant, _marks(marks))
        sent = max(shard.sent.values(), default=0)
        duplicates = step.duplicates if shard.counts_duplicates else 0
        shard.counts_duplicates = True
        progress.advance("duplicates", duplicates)
        if duplicates or step.late.height:
            stats = Stats(
                origin=f"{SHARD}{number}",
                row=sent,
                at=sent,
                duplicate=duplicates,
                conflict=conflicts.height,
                late=step.late.height,
            )
            STATS.add(options.job, [stats])

    def _close(self, number: int, shard: Shard, splits: int) -> None:
        """Give buckets away that are over, or all of them once every split is drained."""
        state, options = shard.state, self._options
        moved = False
        if len(shard.watermarks) == splits:
            shard.watermark = min(shard.watermarks.values())
            until = shard.watermark - options.lateness_us
            if until - state.closed_until >= _CLOSE_EACH_US:
                moved = state.close(until)
        drained = len(shard.drained) == splits and all(shard.drained.values())
        until = shard.counted_until(splits)
        if drained:
            if not shard.released:
                self._progress(number, shard, owned=False, until=until)
                shard.released = True
        elif moved or time.monotonic() - shard.progressed_at >= _PROGRESS_SECONDS:
            self._progress(number, shard, owned=True, until=until)

    def _progress(self, number: int, shard: Shard, *, owned: bool, until: int) -> None:
        """Tell what the stream owns; what was stored `until` then is counted."""
        row = Progress(
            shards=self._options.shards,
            shard=number,
            closed_until=shard.state.closed_until,
            owned=owned,
            updated_at=until,
            watermark=shard.watermark,
        )
        # Where no split is read in this process, this is where its counts are stored.
        if stats := STATS.take(self._options.job):
            insert_stats(self._warehouse, self._options.tenant, stats)
        write_progress(self._warehouse, self._options.tenant, [row])
        shard.progressed_at = time.monotonic()


def _count(shard: Shard) -> tuple[Step, int]:
    """Take in what is pending; with the least time at which an event of it was received."""
    frames = [(version, unpack(packed)) for version, _, packed in shard.pending]
    oldest = min(int(frame["ingested_at"].to_numpy().min()) for _, frame in frames)
    return shard.state.step(frames), oldest


def _made(
    states: Sequence[ShardState], steps: Sequence[Step]
) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """Usage rows and values of what changed, made for all shards at once."""
    alike: dict[tuple[int, int], list[tuple[Measurement, Cells]]] = {}
    for state, step in zip(states, steps, strict=True):
        for version, cells in step.changed:
            measuring = state.timeline.measurements[version]
            alike.setdefault((id(measuring), cells.family), []).append((measuring, cells))
    made = []
    for found in alike.values():
        measuring, first = found[0]
        values = [cells.values for _, cells in found if cells.values is not None]
        every = Cells(
            first.family,
            pl.concat([cells.rows for _, cells in found]),
            pl.concat(values) if values else None,
        )
        made.append(usage_rows(measuring, every))
    return made


def _marks(found: pl.DataFrame) -> pa.Table:
    """Late and conflicting copies as `mark_dirty` takes them, by their UTC hour."""
    hour = pl.col("timestamp") // HOUR_US * HOUR_US
    hashes = [
        high.to_bytes(8, "big") + low.to_bytes(8, "big")
        for high, low in found.select("identity", "identity_low").iter_rows()
    ]
    return found.select(
        "external_customer_id",
        hour.cast(INSTANT).alias("bucket_start"),
        "reason",
        pl.Series("identity_hash", hashes, dtype=pl.Binary),
    ).to_arrow()
