"""Ingest: splits of files -> raw rows in the warehouse, slim columns onwards.

    split -> read -> decode -> project --> slim frames by shard of the identity
                        |         |    \\-> counts of what was read and refused
                        v         v
                     events   quarantine

Raw rows are written in the stage that reads them, before anything is shuffled, so
wide properties never travel, and all raw rows are durable before the next stage
starts. The warehouse inserts on a thread of its own while the next batch is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import apache_beam as beam
import numpy as np
import polars as pl
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from meters.catalog import Catalog
from meters.decode import decode
from meters.event import QUARANTINE_SCHEMA
from meters.mapping import Mapping
from meters.projection import Projection
from transforms import progress
from transforms.connection import connect
from transforms.sources import BadRow, FileSplit, RawBatch, read_split
from warehouse.writes import insert_events, insert_quarantine, insert_touched

COUNTS = "counts"

INSERT_ROWS = 400_000
"""Raw rows gathered for one insert: few parts to merge, bounded memory."""


class IngestSplits(beam.DoFn):  # type: ignore[misc]
    """`FileSplit` -> (shard, slim frame), and `Counts` under the tag `COUNTS`.

    Only events within [`from_us`, `to_us`) are read at all, where bounds are given.
    With `run_id` the identities are noted in the warehouse as touched by this run.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        tenant: str,
        warehouse: str,
        mapping: Mapping,
        shards: int,
        span: tuple[int | None, int | None] = (None, None),
        run_id: str | None = None,
    ) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse
        self._mapping = mapping
        self._shards = shards
        self._span = span
        self._run_id = run_id

    def setup(self) -> None:
        """Open the warehouse and compile the projection once a worker."""
        self._warehouse = connect(self._url)
        self._projection = Projection(self._catalog)
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._pending: list[Future[None]] = []
        self._buffer: list[pa.Table] = []

    def teardown(self) -> None:
        """Stop the writer thread."""
        self._writer.shutdown()

    def process(self, split: FileSplit) -> Iterator[object]:
        """Read one split."""
        counts = {"read": 0, "quarantined": 0}
        for batch in read_split(split, self._mapping):
            yield from self._ingest(batch, counts)
        yield TaggedOutput(COUNTS, counts)

    def finish_bundle(self) -> None:
        """Nothing is passed on before all raw rows of the bundle are written."""
        self._flush()
        self._wait(0)

    def _ingest(
        self, batch: RawBatch, counts: dict[str, int]
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        decoded = decode(batch.columns, self._tenant, batch.origin, batch.rows)
        events = self._within(decoded.events)
        projected = self._projection.project(events)
        if projected.valid is not None:
            events = events.filter(projected.valid)
        outside = decoded.events.num_rows - events.num_rows - projected.broken.num_rows
        refused = pa.concat_tables(
            [_bad_rows(batch.bad, self._tenant), decoded.quarantine, projected.broken]
        )
        read = batch.columns.num_rows + len(batch.bad) - outside
        counts["read"] += read
        counts["quarantined"] += refused.num_rows
        progress.advance("read", read)
        progress.advance("quarantined", refused.num_rows)
        self._quarantine(pa.concat_tables([refused, projected.refused]))
        if events.num_rows:
            self._store(events)
            yield from _by_shard(projected.slim, self._shards)

    def _within(self, events: pa.Table) -> pa.Table:
        first, last = self._span
        if first is None and last is None:
            return events
        at = events.column("timestamp").cast(pa.int64()).to_numpy()
        keep = np.ones(len(at), dtype=bool)
        if first is not None:
            keep &= at >= first
        if last is not None:
            keep &= at < last
        return events.filter(pa.array(keep)).combine_chunks()

    def _quarantine(self, rows: pa.Table) -> None:
        if rows.num_rows:
            self._submit(lambda: insert_quarantine(self._warehouse, rows))

    def _store(self, events: pa.Table) -> None:
        self._buffer.append(events)
        if sum(table.num_rows for table in self._buffer) >= INSERT_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        events = pa.concat_tables(self._buffer)
        self._buffer = []

        def write() -> None:
            insert_events(self._warehouse, events)
            if self._run_id is not None:
                insert_touched(self._warehouse, self._tenant, self._run_id, events)
            progress.advance("stored", events.num_rows)

        self._submit(write)

    def _submit(self, write: object) -> None:
        self._wait(1)
        self._pending.append(self._writer.submit(write))  # type: ignore[arg-type]

    def _wait(self, left: int) -> None:
        while len(self._pending) > left:
            self._pending.pop(0).result()


def _by_shard(slim: pl.DataFrame, shards: int) -> Iterator[tuple[int, pl.DataFrame]]:
    """Split by identity, so that all copies of an event meet and no customer is too large."""
    if shards == 1:
        yield 0, slim
        return
    numbered = slim.with_columns((pl.col("identity") % shards).alias("shard"))
    for key, part in numbered.partition_by("shard", as_dict=True, include_key=False).items():
        yield int(key[0]), part


def _bad_rows(rows: list[BadRow], tenant: str) -> pa.Table:
    entries = [
        {
            "tenant_id": tenant,
            "origin": row.origin,
            "origin_row": row.row,
            "reason": row.reason,
            "meter": "",
            "field": row.field,
            "detail": row.detail,
            "event_id": "",
            "external_customer_id": "",
            "payload": row.payload,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(entries, QUARANTINE_SCHEMA)
