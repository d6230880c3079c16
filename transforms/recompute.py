"""Recomputation: the hours that a run touched, from all raw events.

    shards --> affected events --> deduplicate, measure --> by customer --> compare
                     |                                                        |
                 conflicts                                    changed rows, tombstones

A bucket's rows are compared with what is stored: equal ones are not written again,
changed ones are written above every revision of the bucket, and a key that no longer
results gets a tombstone (`events` 0). Hours that the stream owns are left alone,
and events that have copies in them are marked dirty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import PCollection

from meters.deduplicate import Deduplicated, deduplicate
from meters.differences import differences
from meters.measure import Cells
from meters.revisions import changes
from meters.timeline import Timeline
from meters.touched import with_hours
from meters.usage import USAGE, USAGE_VALUES, from_stored, usage_rows
from meters.versions import measurement_of, projection_of
from transforms.aggregate import CellKey, MergeCells
from transforms.conflicts import Conflicts
from transforms.connection import connect
from transforms.counts import Counts
from transforms.usage import write_usage
from warehouse.affected import affected_count, affected_events
from warehouse.client import Warehouse
from warehouse.ownership import mark_dirty, read_owners
from warehouse.queries import CustomerSpan, usage_rows_for, usage_values_for
from warehouse.touched import hours_of_run, left_identities, mark_touched_hours

LEFT = "left"
"""The reason of a mark for an event whose hours, or some of them, were left to the stream."""

HOUR = ["external_customer_id", "hour"]

HOURS_AT_A_TIME = 50_000
"""Hours of customers that are compared with what is stored at a time."""

EVENTS_AT_A_TIME = 1_000_000
"""About so many affected events are read at a time."""

Part = tuple[int, int]
"""The number of a part of the affected events, by identity, and how many parts there are."""


def parts(count: int) -> list[Part]:
    """All parts of `count`."""
    return [(number, count) for number in range(count)]


@dataclass(frozen=True)
class Run:
    """A run that has touched identities: whose, where, and into how many parts it is cut.

    Events are cut into `shards` by identity; one of `writers` writes all rows of a
    customer.
    """

    tenant: str
    warehouse: str
    run_id: str
    shards: int
    writers: int


class MarkTouchedHours(beam.DoFn):  # type: ignore[misc]
    """Once all raw rows of the run are stored: note which hours it touched."""

    def __init__(self, timeline: Timeline, run: Run) -> None:
        self._timeline = timeline
        self._run = run

    def process(self, _: object, _ready: object) -> Iterator[Part]:
        """Hand on the parts of the affected events when they may be read."""
        run, warehouse = self._run, connect(self._run.warehouse)
        owners = read_owners(warehouse, run.tenant)
        mark_touched_hours(
            warehouse, run.tenant, run.run_id, run.shards, self._timeline.everything, owners
        )
        if owners:
            found = left_identities(warehouse, run.tenant, run.run_id, run.shards, split=False)
            mark_left(warehouse, run.tenant, found)
        # What was stored before may be far more than what the run has read.
        affected = affected_count(warehouse, run.tenant, run.run_id)
        yield from parts(max(run.shards, -(-affected // EVENTS_AT_A_TIME)))


def mark_left(warehouse: Warehouse, tenant: str, found: pa.Table) -> None:
    """Mark what `warehouse.touched.left_identities` has found."""
    reason = pa.repeat(pa.scalar(LEFT), found.num_rows)
    mark_dirty(warehouse, tenant, found.append_column("reason", reason))


@beam.typehints.with_output_types(Counts)
class RecomputeUsage(beam.PTransform):  # type: ignore[misc]
    """The `parts` of a run whose hours are marked -> `Counts` of what was written.

    `rows` were changed or new, `tombstones` are keys that no longer result, `customers`
    had touched hours.
    """

    def __init__(self, timeline: Timeline, run: Run) -> None:
        super().__init__()
        self._timeline = timeline
        self._run = run

    def expand(self, numbers: PCollection) -> PCollection:
        """All cells of a writer meet, also none, before it compares."""
        cells = _by_writer(numbers, self._timeline, self._run, RecomputeShard)
        return cells | "Reconcile" >> beam.ParDo(ReconcileUsage(self._timeline, self._run))


@beam.typehints.with_output_types(dict[str, object])
class CompareUsage(beam.PTransform):  # type: ignore[misc]
    """The `parts` of a run whose hours are marked -> where usage is not the raw events'.

    Writes nothing. Emits `meters.differences.Difference`s.
    """

    def __init__(self, timeline: Timeline, run: Run) -> None:
        super().__init__()
        self._timeline = timeline
        self._run = run

    def expand(self, numbers: PCollection) -> PCollection:
        """The recomputation of `RecomputeUsage`, and another end."""
        cells = _by_writer(numbers, self._timeline, self._run, SilentShard)
        return cells | "Differences" >> beam.ParDo(FindDifferences(self._timeline, self._run))


def _by_writer(
    numbers: PCollection, timeline: Timeline, run: Run, shard: type[RecomputeShard]
) -> PCollection:
    """(writer, merged cells of all families) for every writer."""
    cells = (
        numbers
        | "SpreadShards" >> beam.Reshuffle()
        | "Recompute" >> beam.ParDo(shard(timeline, run))
        | "MergeRecomputed" >> beam.CombinePerKey(MergeCells(timeline))
        | "ByWriter" >> beam.MapTuple(lambda key, merged: (key[0], merged))
    )
    every = numbers.pipeline | "Writers" >> beam.Create([(n, None) for n in range(run.writers)])
    return (cells, every) | "AllWriters" >> beam.Flatten() | "ByCustomers" >> beam.GroupByKey()


@beam.typehints.with_output_types(tuple[tuple[int, int], Cells])
class RecomputeShard(beam.DoFn):  # type: ignore[misc]
    """`Part` -> cells of all buckets that the run touched, from the raw events.

    Conflicts with copies that earlier runs stored go to quarantine.
    """

    def __init__(self, timeline: Timeline, run: Run) -> None:
        self._timeline = timeline
        self._run = run

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._run.warehouse)
        self._projection = projection_of(self._timeline)
        self._measurement = measurement_of(self._timeline)
        self._conflicts = Conflicts(self._warehouse, self._run.tenant)

    def process(self, part: Part) -> Iterator[tuple[CellKey, Cells]]:
        """All stored copies of this part's identities, deduplicated and measured."""
        shard, shards = part
        batches = affected_events(
            self._warehouse,
            self._run.tenant,
            self._run.run_id,
            shard=shard,
            shards=shards,
        )
        frames = [
            self._projection.project(pa.Table.from_batches([batch]), report=False).slim
            for batch in batches
        ]
        if not frames:
            return
        unique = deduplicate(pl.concat(frames))
        self._report(unique)
        measured = self._measurement.measure(unique.events)
        for cells in measured.cells:
            for writer, mine in self._measurement.split(cells, self._run.writers):
                yield (writer, cells.family), mine

    def _report(self, unique: Deduplicated) -> None:
        self._conflicts.quarantine(unique, self._timeline.everything)


class SilentShard(RecomputeShard):
    """The same, for a run that writes nothing."""

    def _report(self, unique: Deduplicated) -> None:
        pass


class ComparingUsage(beam.DoFn):  # type: ignore[misc]
    """What is done with (writer, merged cells of all families).

    Only whole local hours that the run touched are compared: exactly for those the
    recomputation has seen every event.
    """

    def __init__(self, timeline: Timeline, run: Run) -> None:
        self._timeline = timeline
        self._run = run

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._run.warehouse)
        self._measurement = measurement_of(self._timeline)
        self._zones = {c.id: c.time_zone for c in self._timeline.everything.customers}

    def _compared(
        self, hours: pl.DataFrame, found: Iterable[Cells | None]
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]]:
        """Recomputed rows and values, and the stored ones, some hours at a time."""
        made = [usage_rows(self._measurement, cells) for cells in found if cells is not None]
        rows = self._located([USAGE.to_frame(), *(rows for rows, _ in made)])
        values = self._located([USAGE_VALUES.to_frame(), *(values for _, values in made)])
        for some in hours.sort(HOUR).iter_slices(HOURS_AT_A_TIME):
            wanted = _within(rows, some), _within(values, some)
            yield *wanted, self._stored(some), self._values(some)

    def _hours(self, writer: int) -> pl.DataFrame:
        mine = [
            customer.id
            for position, customer in enumerate(self._timeline.everything.customers)
            if position % self._run.writers == writer
        ]
        return hours_of_run(self._warehouse, self._run.tenant, self._run.run_id, mine)

    def _located(self, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
        return with_hours(pl.concat(frames), "bucket_start", self._zones)

    def _stored(self, hours: pl.DataFrame) -> pl.DataFrame:
        table = usage_rows_for(self._warehouse, self._run.tenant, _spans(hours))
        meters = [meter.id for meter in self._timeline.everything.meters]
        frame = from_stored(table).filter(pl.col("meter").is_in(meters))
        return _within(self._located([frame]), hours)

    def _values(self, hours: pl.DataFrame) -> pl.DataFrame:
        table = usage_values_for(self._warehouse, self._run.tenant, _spans(hours))
        return _within(self._located([from_stored(table)]), hours)


class ReconcileUsage(ComparingUsage):
    """(writer, merged cells of all families) -> changed rows and tombstones.

    Emits `Counts`, as `RecomputeUsage` does.
    """

    def process(self, element: tuple[int, Iterable[Cells | None]]) -> Iterator[Counts]:
        """Compare and write one shard of customers."""
        writer, found = element
        hours = self._hours(writer)
        if hours.is_empty():
            return
        written = tombstones = 0
        for frames in self._compared(hours, found):
            changed, changed_values = changes(*frames)
            write_usage(self._warehouse, self._run.tenant, changed, changed_values)
            kept = changed.filter(pl.col("events") > 0).height
            written += kept
            tombstones += changed.height - kept
        yield {
            "rows": written,
            "tombstones": tombstones,
            "customers": hours["external_customer_id"].n_unique(),
        }


class FindDifferences(ComparingUsage):
    """(writer, merged cells of all families) -> where stored usage is not the recomputed one."""

    def process(self, element: tuple[int, Iterable[Cells | None]]) -> Iterator[dict[str, object]]:
        """Compare one shard of customers."""
        writer, found = element
        hours = self._hours(writer)
        if hours.is_empty():
            return
        for frames in self._compared(hours, found):
            yield from differences(self._timeline.everything.meters_by_id, *frames)


def _within(located: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
    """The rows whose bucket starts in one of the hours."""
    return located.join(hours.select(HOUR), on=HOUR, how="semi").drop("hour", "hour_end")


def _spans(hours: pl.DataFrame) -> list[CustomerSpan]:
    return list(hours.select(*HOUR, "hour_end").iter_rows())
