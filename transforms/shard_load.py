"""A shard that starts without its state, or with one that does not fit, loads it.

progress -> closed_until
raw events -> identities of the horizon, accumulators of open buckets
usage rows -> compared with those, as after a repair; their revisions are the floor
"""

from __future__ import annotations

import time

import polars as pl
import pyarrow as pa

from meters.buckets import HOUR_US
from meters.identities import Keys
from meters.measure import Cells
from meters.projection import words
from meters.revisions import BUCKET, changes
from meters.stream_state import HORIZON_SLICES, ShardState, high_words, slice_of
from meters.timeline import Timeline
from meters.usage import USAGE, USAGE_VALUES, from_stored, usage_rows
from transforms.stream_counts import STATS
from transforms.stream_options import StreamOptions
from warehouse.client import Warehouse
from warehouse.ownership import mark_dirty, read_progress
from warehouse.recovery import Newest, ShardReader, newest
from warehouse.writes import insert_usage, insert_usage_values

_MARGIN_US = 60_000_000
"""How far the clocks of the stream and of the warehouse may differ."""


def load(
    warehouse: Warehouse,
    options: StreamOptions,
    timeline: Timeline,
    shard: int,
    at_least: int,
    changed_from: int | None = None,
) -> ShardState:
    """The state of a shard as the raw events have it; writes what its usage lacks.

    `at_least` is the `closed_until` of a state that is left behind, `changed_from` the
    instant from which it was metered by other catalogs: hours of those that are closed
    are marked dirty.
    """
    state = ShardState(timeline)
    found = newest(warehouse, options.tenant)
    reader = ShardReader(warehouse, options.tenant, shard, options.shards)
    state.closed_until = max(at_least, _closed_until(warehouse, options, shard, found))
    state.newest = found.timestamp
    _settle(warehouse, options, reader, state.closed_until)
    if changed_from is not None and changed_from < state.closed_until:
        marks = reader.changed(max(0, changed_from), state.closed_until)
        if marks.num_rows:
            mark_dirty(warehouse, options.tenant, marks)
    since = max(0, state.closed_until - HOUR_US)
    _identities(state, options, reader, found, since)
    values = _open_usage(state, options.tenant, reader, since)
    written = _reconcile(warehouse, options.tenant, state, reader, since, values)
    STATS.worked(options.job, rows=written)
    state.shrink(options.budget)
    return state


def _closed_until(warehouse: Warehouse, options: StreamOptions, shard: int, found: Newest) -> int:
    """What progress says; at a start without any, what is stored counts as seen."""
    rows = read_progress(warehouse, options.tenant)
    known = [row.closed_until for row in rows if (row.shards, row.shard) == (options.shards, shard)]
    return max(known, default=max(0, found.timestamp - options.lateness_us))


def _settle(
    warehouse: Warehouse, options: StreamOptions, reader: ShardReader, closed_until: int
) -> None:
    """Mark dirty what may have been stored and not counted when the stream was killed."""
    for row in read_progress(warehouse, options.tenant):
        if row.owned and (row.shards, row.shard) == (reader.shards, reader.shard):
            marks = reader.unsettled(row.updated_at - _MARGIN_US, closed_until)
            if marks.num_rows:
                mark_dirty(warehouse, options.tenant, marks)


def _identities(
    state: ShardState, options: StreamOptions, reader: ShardReader, found: Newest, since: int
) -> None:
    # Times of receipt may be those of senders, long before Kafka's record times. What is counted
    # here may still be on its way from Kafka, so it is remembered from now on.
    now = max(found.ingested_at, time.time_ns() // 1000)
    state.slice = slice_of(now, options.horizon_us)
    oldest = state.slice - HORIZON_SLICES
    for batch in reader.identities(found.ingested_at - options.horizon_us, since):
        table = pa.Table.from_batches([batch])
        identity = words(table.column("identity_hash"))
        owner, content, at, newest_at = (
            table.column(name).to_numpy() for name in ("owner", "content", "ingested_at", "newest")
        )
        width = max(1, options.horizon_us // HORIZON_SLICES)
        slices = (at // width).clip(max(0, oldest), state.slice)
        slices[newest_at >= since] = state.slice
        keys = Keys(high_words(identity[:, 0], owner), identity[:, 1], content)
        state.identities.add(keys, slices)


def _open_usage(
    state: ShardState, tenant: str, reader: ShardReader, since: int
) -> list[tuple[int, Cells]]:
    """Fill the accumulators; returns the parts with distinct values."""
    values = []
    for batch in reader.open_events(since):
        table = pa.Table.from_batches([batch])
        metered = state.timeline.meter(tenant, table, report=False)
        for version, cells in state.recount(metered.frames):
            state.accumulators(version).add([cells])
            if cells.values is not None:
                values.append((version, Cells(cells.family, cells.rows.clear(), cells.values)))
    return values


def _reconcile(
    warehouse: Warehouse,
    tenant: str,
    state: ShardState,
    reader: ShardReader,
    since: int,
    parts: list[tuple[int, Cells]],
) -> int:
    """Write what is stored otherwise, above every revision of its bucket; how many rows."""
    made = [
        usage_rows(state.timeline.measurements[version], cells)
        for version, usage in state.open.items()
        for cells in usage.cells()
    ]
    made += [usage_rows(state.timeline.measurements[v], cells) for v, cells in parts]
    rows = pl.concat([USAGE.to_frame(), *(rows for rows, _ in made)])
    values = pl.concat([USAGE_VALUES.to_frame(), *(values for _, values in made)]).unique()
    stored = state.still_open(from_stored(reader.open_rows(since)))
    kept = state.still_open(from_stored(reader.open_values(since)))
    rows, values = state.still_open(rows), state.still_open(values)
    changed, changed_values = changes(rows, values, stored, kept)
    if changed_values.height:
        insert_usage_values(warehouse, tenant, changed_values.to_arrow())
    if changed.height:
        insert_usage(warehouse, tenant, changed.to_arrow())
    floors = pl.concat([frame.select(*BUCKET, "revision") for frame in (stored, kept, changed)])
    state.floors = (
        floors.group_by(BUCKET).agg(pl.col("revision").max()).filter(pl.col("revision") > 1)
    )
    return changed.height + changed_values.height
