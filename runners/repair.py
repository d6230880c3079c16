"""The command `repair`: dirty marks, or a span, are resolved from the raw events.

lease -> marks -> touched hours -> recompute -> clear the marks that were seen
"""

from __future__ import annotations

import json
import tempfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa

from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from meters.timeline import Timeline
from meters.touched import kept_marks
from runners import tables
from runners.catalogs import timeline_for
from runners.commands import Url, check_names, check_span, open_warehouse, remember
from runners.output import Format, notice
from warehouse import ownership, touched
from warehouse.affected import affected_count
from warehouse.client import Warehouse
from warehouse.leases import exclusive
from warehouse.writes import insert_touched

Span = tuple[datetime, datetime]

_IDENTITY = ["external_customer_id", "identity_hash"]


def run_repair(
    path: str,
    url: Url,
    *,
    customer: str | None,
    from_time: datetime | None,
    to_time: datetime | None,
    tenant: str,
    runner: str,
    form: Format,
) -> None:
    """Recompute what is dirty, or a span; prints what was resolved and written."""
    catalog = load_catalog(path)
    check_names(catalog, customer=customer)
    if (from_time is None) != (to_time is None):
        raise ConfigurationError("--from and --to must be given together")
    check_span(from_time, to_time)
    span = (from_time, to_time) if from_time is not None and to_time is not None else None
    counts = repair_counts(catalog, url, customer=customer, span=span, tenant=tenant, runner=runner)
    if counts["kept_open"]:
        notice(
            f"marks that stay open: {counts['kept_open']:,}. The stream owns their hours: "
            "repair again when it has closed them, or stop the stream with a drain"
        )
    tables.show_facts(counts, form)


def repair_counts(
    catalog: Catalog,
    url: Url,
    *,
    tenant: str,
    customer: str | None = None,
    span: Span | None = None,
    runner: str = "direct",
) -> dict[str, int]:
    """Run a repair and return its counts."""
    from runners import launch

    launch.options(runner)
    with open_warehouse(url) as warehouse, exclusive(warehouse, tenant) as lease:
        marks = ownership.dirty_marks(warehouse, tenant, customer)
        if span is not None:
            marks = _within(marks, span)
        counts = {"marks": marks.num_rows, "resolved": 0, "kept_open": 0}
        if span is None and not marks.num_rows:
            return {**counts, "customers": 0, "rows": 0, "tombstones": 0}
        timeline = timeline_for(warehouse, tenant, catalog)
        remember(warehouse, tenant, catalog)
        with touched.touching(warehouse, tenant) as run_id:
            times = marks.column("bucket_start")
            insert_touched(warehouse, tenant, run_id, marks.append_column("timestamp", times))
            if span is not None:
                touched.touch_span(warehouse, tenant, run_id, *span, customer)
            kept = _mark_hours(warehouse, tenant, run_id, timeline.everything, marks)
            written = _recompute(warehouse, url, tenant, run_id, timeline, runner)
        lease.check()
        resolved = _frame(marks).join(kept, on=kept.columns, how="anti")
        ownership.clear_marks(warehouse, tenant, resolved.to_arrow())
        return {**counts, "resolved": resolved.height, "kept_open": kept.height, **written}


def _mark_hours(
    warehouse: Warehouse, tenant: str, run_id: str, catalog: Catalog, marks: pa.Table
) -> pl.DataFrame:
    """Find the hours to recompute; returns the marks that stay, since the stream owns theirs."""
    from pipelines.backfill import shards_for
    from transforms.recompute import mark_left

    shards = shards_for(touched.touched_count(warehouse, tenant, run_id))
    owners = ownership.read_owners(warehouse, tenant)
    touched.mark_touched_hours(warehouse, tenant, run_id, shards, catalog, owners)
    seen = _frame(marks)
    if not owners:
        return seen.clear()
    left = touched.left_identities(warehouse, tenant, run_id, shards, split=True)
    split = _frame(left)
    unmarked = split.join(seen, on=_IDENTITY, how="anti")
    mark_left(warehouse, tenant, unmarked.to_arrow())
    owned = touched.owned_hours(warehouse, tenant, run_id)
    if owned.height:
        notice(f"left to the stream: {owned.height:,} hours of customers, which it owns")
    zones = {entry.id: entry.time_zone for entry in catalog.customers}
    return kept_marks(seen, owned, split, zones)


def _recompute(
    warehouse: Warehouse, url: Url, tenant: str, run_id: str, timeline: Timeline, runner: str
) -> dict[str, int]:
    from pipelines.backfill import shards_for, writers_for
    from pipelines.repair import Repair
    from runners import launch
    from transforms.recompute import Run

    events = affected_count(warehouse, tenant, run_id)
    notice(f"recomputing the hours of {events:,} events")
    shards = shards_for(events)
    run = Run(tenant, url[0], run_id, shards, writers_for(shards, timeline.everything))
    with tempfile.TemporaryDirectory() as folder:
        summary = Path(folder) / "summary.json"
        with warehouse.loading("usage", "usage_values"):
            launch.run(Repair(timeline, run, str(summary)).build, launch.options(runner))
        counts: dict[str, int] = json.loads(summary.read_bytes())
        return counts


def _within(marks: pa.Table, span: Span) -> pa.Table:
    start, end = span
    inside = (pl.col("bucket_start") >= start) & (pl.col("bucket_start") < end)
    return _frame(marks).filter(inside).to_arrow()


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table))
