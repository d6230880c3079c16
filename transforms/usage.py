"""Usage rows: merged cells are written, idempotently, with their revision.

Where the warehouse held no events, rows are written as the first revision. Elsewhere
a bucket is recomputed: its rows are compared with what is stored, equal ones are not
written again, changed ones are written above every revision of the bucket, and a key
that no longer results gets a tombstone (`events` 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import polars as pl
import pyarrow as pa

from meters.buckets import hours_columnar
from meters.catalog import Catalog
from meters.deduplicate import deduplicate
from meters.measure import Cells, Measurement
from meters.projection import Projection
from meters.revisions import changes, first_revision
from meters.usage import INSTANT, USAGE, USAGE_VALUES, from_stored, usage_rows
from transforms.aggregate import CellKey
from transforms.background import Background
from transforms.conflicts import Conflicts
from transforms.connection import connect
from transforms.counts import Counts
from warehouse.affected import affected_events, mark_touched_hours, touched_times
from warehouse.client import Warehouse
from warehouse.queries import CustomerSpan, usage_rows_for, usage_values_for
from warehouse.writes import insert_usage, insert_usage_values

INSERT_ROWS = 500_000

HOUR = ["external_customer_id", "hour"]


class CountRows(beam.DoFn):  # type: ignore[misc]
    """Merged cells -> `Counts` of the usage rows that they make."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def process(self, element: tuple[CellKey, Cells]) -> Iterator[Counts]:
        """Count without building the rows."""
        members = [name for name in element[1].rows.columns if name.startswith("events:")]
        filled = element[1].rows.select((pl.col(name) > 0).sum() for name in members)
        yield {"rows": sum(filled.row(0))}


class WriteFirstRevision(beam.DoFn):  # type: ignore[misc]
    """Merged cells -> usage rows at revision 1, where there was nothing before.

    Rows are written while the next shard is aggregated; the bundle ends when all are.
    """

    def __init__(self, catalog: Catalog, *, tenant: str, warehouse: str) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse

    def setup(self) -> None:
        """Open the warehouse once a worker."""
        self._warehouse = connect(self._url)
        self._measurement = Measurement(self._catalog)
        self._writer = Background()

    def teardown(self) -> None:
        """Stop the thread."""
        self._writer.close()

    def process(self, element: tuple[CellKey, Cells]) -> None:
        """Values first: a usage row never stands without them."""
        self._writer.submit(lambda: self._first(element[1]))

    def finish_bundle(self) -> None:
        """All rows are written."""
        self._writer.finish()

    def _first(self, cells: Cells) -> None:
        rows, values = usage_rows(self._measurement, cells)
        _write(self._warehouse, self._tenant, first_revision(rows), first_revision(values))


class MarkTouchedHours(beam.DoFn):  # type: ignore[misc]
    """Once all raw rows of the run are stored: note which hours it touched."""

    def __init__(self, *, tenant: str, warehouse: str, run_id: str) -> None:
        self._tenant = tenant
        self._url = warehouse
        self._run_id = run_id

    def process(self, shards: int, _ready: object) -> Iterator[int]:
        """Hand on the number of shards when they may be read."""
        mark_touched_hours(connect(self._url), self._tenant, self._run_id, shards)
        yield shards


@beam.typehints.with_output_types(tuple[tuple[int, int], Cells])
class RecomputeShard(beam.DoFn):  # type: ignore[misc]
    """Shard number -> cells of all buckets that the run touched, from the raw events.

    Conflicts with copies that earlier runs stored go to quarantine.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        tenant: str,
        warehouse: str,
        run_id: str,
        shards: int,
        writers: int,
    ) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse
        self._run_id = run_id
        self._shards = shards
        self._writers = writers

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._url)
        self._projection = Projection(self._catalog)
        self._measurement = Measurement(self._catalog)
        self._conflicts = Conflicts(self._warehouse, self._tenant, self._catalog)

    def process(self, shard: int) -> Iterator[tuple[CellKey, Cells]]:
        """All stored copies of this shard's identities, deduplicated and measured."""
        batches = affected_events(
            self._warehouse, self._tenant, self._run_id, shard=shard, shards=self._shards
        )
        frames = [
            self._projection.project(pa.Table.from_batches([batch]), report=False).slim
            for batch in batches
        ]
        if not frames:
            return
        unique = deduplicate(pl.concat(frames))
        self._conflicts.quarantine(unique)
        measured = self._measurement.measure(unique.events)
        for cells in measured.cells:
            for writer, part in self._measurement.split(cells, self._writers):
                yield (writer, cells.family), part


class ReconcileUsage(beam.DoFn):  # type: ignore[misc]
    """(writer, merged cells of all families) -> changed rows and tombstones.

    Only whole local hours that the run touched are compared: exactly for those the
    recomputation has seen every event.
    """

    def __init__(
        self, catalog: Catalog, *, tenant: str, warehouse: str, run_id: str, writers: int
    ) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse
        self._run_id = run_id
        self._writers = writers

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._url)
        self._measurement = Measurement(self._catalog)
        self._zones = {c.id: c.time_zone for c in self._catalog.customers}
        self._position = {c.id: i for i, c in enumerate(self._catalog.customers)}

    def process(self, element: tuple[int, Iterable[Cells | None]], _ready: object = None) -> None:
        """Compare and write one shard of customers."""
        writer, found = element
        hours = self._touched_hours(writer)
        if hours.is_empty():
            return
        made = [usage_rows(self._measurement, cells) for cells in found if cells is not None]
        rows = self._touched(pl.concat([USAGE.to_frame(), *(rows for rows, _ in made)]), hours)
        values = self._touched(
            pl.concat([USAGE_VALUES.to_frame(), *(values for _, values in made)]), hours
        )
        stored = self._stored(hours)
        kept = self._values(hours)
        changed, changed_values = changes(rows, values, stored, kept)
        _write(self._warehouse, self._tenant, changed, changed_values)

    def _touched_hours(self, writer: int) -> pl.DataFrame:
        times = pl.DataFrame(
            pl.from_arrow(touched_times(self._warehouse, self._tenant, self._run_id))
        )
        mine = [
            customer
            for customer, position in self._position.items()
            if position % self._writers == writer
        ]
        times = times.filter(pl.col("external_customer_id").is_in(mine))
        return self._with_hours(times, "timestamp").select(*HOUR, "hour_end").unique()

    def _with_hours(self, frame: pl.DataFrame, column: str) -> pl.DataFrame:
        """Add the whole local hour around `column` for each customer."""
        zones = pl.Series(list(self._zones.values()), dtype=pl.String)
        ids = pl.Series(list(self._zones), dtype=pl.String)
        frame = frame.with_columns(
            pl.col("external_customer_id").replace_strict(ids, zones, default=None).alias("zone")
        )
        parts = [
            frame.clear().with_columns(hour=pl.lit(None, INSTANT), hour_end=pl.lit(None, INSTANT))
        ]
        for (zone,), part in frame.partition_by("zone", as_dict=True).items():
            at = part[column].cast(pl.Int64).to_numpy()
            start, end = hours_columnar(at, zone)
            parts.append(
                part.with_columns(
                    pl.Series("hour", start).cast(INSTANT), pl.Series("hour_end", end).cast(INSTANT)
                )
            )
        return pl.concat(parts).drop("zone")

    def _touched(self, frame: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
        located = self._with_hours(frame, "bucket_start")
        return located.join(hours.select(HOUR), on=HOUR, how="semi").drop("hour", "hour_end")

    def _stored(self, hours: pl.DataFrame) -> pl.DataFrame:
        table = usage_rows_for(self._warehouse, self._tenant, _spans(hours))
        meters = [meter.id for meter in self._catalog.meters]
        frame = from_stored(table).filter(pl.col("meter").is_in(meters))
        return self._touched(frame, hours)

    def _values(self, hours: pl.DataFrame) -> pl.DataFrame:
        table = usage_values_for(self._warehouse, self._tenant, _spans(hours))
        return self._touched(from_stored(table), hours)


def _spans(hours: pl.DataFrame) -> list[CustomerSpan]:
    return list(hours.select(*HOUR, "hour_end").iter_rows())


def _write(warehouse: Warehouse, tenant: str, rows: pl.DataFrame, values: pl.DataFrame) -> None:
    """Values first: a usage row never stands without them."""
    for part in values.iter_slices(INSERT_ROWS):
        insert_usage_values(warehouse, tenant, part.to_arrow())
    for part in rows.iter_slices(INSERT_ROWS):
        insert_usage(warehouse, tenant, part.to_arrow())
