"""Pipelines in this process, and what they leave in the warehouse."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from meters.catalog import Catalog
from meters.mapping import Mapping
from meters.timeline import Timeline
from meters.timestamps import format_instant, parse_timestamp
from meters.touched import with_hours
from meters.usage import from_stored
from meters.zones import microseconds
from pipelines.backfill import Backfill
from runners import launch
from runners.repair import repair_counts
from tests.generators import Row, write
from tests.meters.chain import Usage, as_usage, decoded
from transforms.counts import ROUNDED
from transforms.kafka_messages import MessageReader
from transforms.sources import match_files
from warehouse import affected
from warehouse.client import Warehouse
from warehouse.ownership import Progress, dirty_marks, mark_dirty, write_progress
from warehouse.queries import quarantine_rows, usage_rows, values_of
from warehouse.writes import insert_events


@dataclass
class Tenant:
    """One tenant of the embedded warehouse: its catalog, its files and its runs."""

    warehouse: Warehouse
    url: str
    name: str
    catalog: Catalog
    folder: Path
    rounded: int = 0
    """Numbers that lost digits in the last backfill."""
    timeline: Timeline | None = None
    """The catalogs in time, where there are several."""

    def backfill(
        self,
        *files: Sequence[Row] | Path,
        options: Sequence[str] = (),
        span: tuple[int | None, int | None] = (None, None),
        suffix: str = "jsonl",
    ) -> dict[str, int]:
        """Backfill files, or events that are written to new ones, in one run."""
        paths = [file if isinstance(file, Path) else self.file(file, suffix) for file in files]
        found = affected.events_exist(self.warehouse, self.name)
        job = Backfill(
            splits=match_files([str(path) for path in paths]),
            timeline=self.timeline or Timeline.of(self.catalog),
            tenant=self.name,
            warehouse=self.url,
            mapping=Mapping(),
            summary=str(self.folder / f"{uuid.uuid4().hex}.json"),
            span=span,
            run_id=uuid.uuid4().hex if found else None,
        )
        launch.run(job.build, launch.options("direct", options))
        counts: dict[str, int] = json.loads(Path(job.summary).read_text())
        self.rounded = counts.pop(ROUNDED, 0)
        return counts

    def repair(
        self, customer: str | None = None, span: tuple[datetime, datetime] | None = None
    ) -> dict[str, int]:
        """Repair as the command does."""
        return repair_counts(
            self.catalog, (self.url, False), tenant=self.name, customer=customer, span=span
        )

    def store(self, events: Sequence[Row], topic: str = "events") -> pa.Table:
        """Raw rows, as the stream writes them; returns them."""
        origin = f"{MessageReader(topic, self.name).origin(0)}/{uuid.uuid4().hex}"
        table = decoded(events, origin).events
        column = table.schema.get_field_index("tenant_id")
        table = table.set_column(column, "tenant_id", [[self.name] * table.num_rows])
        insert_events(self.warehouse, table)
        return table

    def mark(self, events: pa.Table, reason: str = "late") -> None:
        """Mark stored events dirty, as the stream does."""
        frame = pl.DataFrame(
            pl.from_arrow(events.select(["external_customer_id", "timestamp", "identity_hash"]))
        )
        zones = {entry.id: entry.time_zone for entry in self.catalog.customers}
        marks = (
            with_hours(frame, "timestamp", zones)
            .rename({"hour": "bucket_start"})
            .with_columns(pl.lit(reason).alias("reason"))
        )
        mark_dirty(self.warehouse, self.name, marks.to_arrow())

    def own(self, closed_until: str, *, owned: bool = True) -> None:
        """The stream, with one shard, owns all buckets that end later."""
        at = microseconds(parse_timestamp(closed_until))
        write_progress(self.warehouse, self.name, [Progress(1, 0, at, owned)])

    def dirty(self) -> set[tuple[str, str, str]]:
        """(customer, bucket, reason) of the marks that are open."""
        rows = dirty_marks(self.warehouse, self.name).to_pylist()
        return {
            (row["external_customer_id"], format_instant(row["bucket_start"]), row["reason"])
            for row in rows
        }

    def file(self, events: Sequence[Row], suffix: str = "jsonl") -> Path:
        """Write events to a new file."""
        return write(self.folder / f"{uuid.uuid4().hex}.{suffix}", list(events))

    def verbatim(self, events: Sequence[Row]) -> Path:
        """Write events whose properties are texts, which stay as they are."""
        path = self.folder / f"{uuid.uuid4().hex}.csv"
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(events[0]))
            table.writeheader()
            table.writerows(events)
        return path

    def usage(self) -> Usage:
        """The stored usage."""
        rows = from_stored(usage_rows(self.warehouse, self.name))
        return as_usage(rows, from_stored(values_of(self.warehouse, self.name)))

    def revisions(self) -> list[int]:
        """The revision of every stored row."""
        found: list[int] = usage_rows(self.warehouse, self.name)["revision"].to_pylist()
        return found

    def refused(self) -> list[Row]:
        """What is in quarantine, by where it stood and without when it was written."""
        rows: list[Row] = quarantine_rows(self.warehouse, self.name).to_pylist()
        for row in rows:
            del row["quarantined_at"]
        return sorted(rows, key=lambda row: (row["origin_row"], str(row)))

    def written(self, table: str) -> int:
        """How many rows were ever written, as far as they are not merged away."""
        sql = f"SELECT count() AS n FROM {table} WHERE tenant_id = {{tenant:String}}"
        [row] = self.warehouse.query_rows(sql, {"tenant": self.name})
        count: Any = row["n"]
        return int(count)
