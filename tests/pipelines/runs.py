"""Pipelines in this process, and what they leave in the warehouse."""

from __future__ import annotations

import csv
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meters.catalog import Catalog
from meters.mapping import Mapping
from meters.usage import from_stored
from pipelines.backfill import Backfill
from runners import launch
from tests.generators import Row, write
from tests.meters.chain import Usage, as_usage
from transforms.sources import match_files
from warehouse import affected
from warehouse.client import Warehouse
from warehouse.queries import quarantine_rows, usage_rows, values_of


@dataclass
class Tenant:
    """One tenant of the embedded warehouse: its catalog, its files and its runs."""

    warehouse: Warehouse
    url: str
    name: str
    catalog: Catalog
    folder: Path

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
            catalog=self.catalog,
            tenant=self.name,
            warehouse=self.url,
            mapping=Mapping(),
            summary=str(self.folder / f"{uuid.uuid4().hex}.json"),
            span=span,
            run_id=uuid.uuid4().hex if found else None,
        )
        launch.run(job.build, launch.options("direct", options))
        counts: dict[str, int] = json.loads(Path(job.summary).read_text())
        return counts

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
