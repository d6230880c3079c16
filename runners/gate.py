"""The gate before anything becomes final, and the command `reconcile`, which shows what it sees.

    spans of usage -> is the stream past them? -> dirty marks -> usage = raw events?

The comparison recomputes the usage of the spans from all raw events and all their copies,
so it also finds what the stream could not know: copies beyond its memory, events that it
never saw, rows that somebody changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from meters.scalars import parse_json
from meters.timeline import Timeline
from meters.touched import CUSTOMER, HOURS, with_hours
from meters.zones import from_microseconds, microseconds
from warehouse import ownership, touched
from warehouse.affected import affected_count
from warehouse.client import Warehouse
from warehouse.queries import CustomerSpan

USAGE_OPEN = "usage_open"
DIRTY = "dirty"
USAGE_DIFFERS = "usage_differs"


@dataclass(frozen=True)
class UsagePeriod:
    """The usage that one invoice is for: half-open, UTC."""

    customer: str
    subscription: str
    start: datetime
    end: datetime


@dataclass(frozen=True)
class Findings:
    """What speaks against spans of usage being final."""

    closed_until: dict[str, int] = field(default_factory=dict)
    """Of customers whose later buckets the stream owns; microseconds."""
    owned: pl.DataFrame = field(default_factory=lambda: HOURS.to_frame())
    """Hours that are left to the stream (`meters.touched.HOURS`)."""
    dirty: pl.DataFrame = field(default_factory=pl.DataFrame)
    """Dirty marks with the `hour` and `hour_end` around them."""
    differences: list[dict[str, Any]] = field(default_factory=list)
    """See `meters.differences`."""


def examine(
    timeline: Timeline,
    warehouse: Warehouse,
    url: str,
    tenant: str,
    spans: Sequence[CustomerSpan],
    runner: str = "direct",
    *,
    owners: ownership.Owners,
    whole: bool = True,
) -> Findings:
    """Looks at spans of customers, and compares those that the stream had closed.

    `owners` were read before the usage that is judged: what the stream has closed only since
    then it may have counted since then as well, which a comparison does not see.
    Without `whole`, also the closed part of spans that are open at their end.
    To be called under `warehouse.leases.exclusive`, so that no repair is under way.
    """
    closed = {name: owners.closed_until(name) for name in {customer for customer, _, _ in spans}}
    known = {name: at for name, at in closed.items() if at is not None}
    marks = pl.DataFrame(pl.from_arrow(ownership.dirty_marks(warehouse, tenant)))
    zones = {entry.id: entry.time_zone for entry in timeline.everything.customers}
    dirty = with_hours(marks.filter(pl.col(CUSTOMER).is_in(list(closed))), "bucket_start", zones)
    compared = []
    for name, start, end in spans:
        closed_until = known.get(name)
        if closed_until is not None and _is_open(closed_until, end):
            end = start if whole else from_microseconds(closed_until)
        if start < end:
            compared.append((name, start, end))
    if not compared:
        return Findings(closed_until=known, dirty=dirty)
    with touched.touching(warehouse, tenant) as run_id:
        touched.touch_spans(warehouse, tenant, run_id, compared)
        found = _compare(timeline, warehouse, url, tenant, run_id, owners, runner)
        owned = touched.owned_hours(warehouse, tenant, run_id)
    owners = owners.through(ownership.read_owners(warehouse, tenant))
    closed = {name: owners.closed_until(name) for name in closed}
    known = {name: at for name, at in closed.items() if at is not None}
    return Findings(known, owned, dirty, found)


def reasons(findings: Findings, periods: Sequence[UsagePeriod]) -> list[str | None]:
    """Why the usage of each period is not settled; None where it is."""
    owned = _hours_of(findings.owned)
    dirty = _hours_of(findings.dirty)
    different: dict[tuple[str, str | None], list[datetime]] = {}
    for each in findings.differences:
        at = datetime.fromisoformat(each["start"])
        different.setdefault((each["customer"], each["subscription"]), []).append(at)
    found: list[str | None] = []
    for period in periods:
        start, end = period.start, period.end
        if start >= end:
            found.append(None)
        elif _is_open(findings.closed_until.get(period.customer), end) or any(
            hour < end and start < hour_end for hour, hour_end in owned.get(period.customer, ())
        ):
            found.append(USAGE_OPEN)
        elif any(
            hour < end and start < hour_end for hour, hour_end in dirty.get(period.customer, ())
        ):
            found.append(DIRTY)
        elif any(
            start <= at < end for at in different.get((period.customer, period.subscription), ())
        ):
            found.append(USAGE_DIFFERS)
        else:
            found.append(None)
    return found


def _is_open(closed_until: int | None, end: datetime) -> bool:
    return closed_until is not None and closed_until < microseconds(end)


def _hours_of(frame: pl.DataFrame) -> dict[str, list[tuple[datetime, datetime]]]:
    found: dict[str, list[tuple[datetime, datetime]]] = {}
    if frame.height:
        for customer, hour, end in frame.select(CUSTOMER, "hour", "hour_end").unique().iter_rows():
            found.setdefault(customer, []).append((hour, end))
    return found


def _compare(
    timeline: Timeline,
    warehouse: Warehouse,
    url: str,
    tenant: str,
    run_id: str,
    owners: ownership.Owners,
    runner: str,
) -> list[dict[str, Any]]:
    from pipelines.backfill import shards_for, writers_for
    from pipelines.comparison import Comparison
    from runners import launch
    from transforms.recompute import Run

    marked = shards_for(touched.touched_count(warehouse, tenant, run_id))
    touched.mark_touched_hours(warehouse, tenant, run_id, marked, timeline.everything, owners)
    shards = shards_for(affected_count(warehouse, tenant, run_id))
    run = Run(tenant, url, run_id, shards, writers_for(shards, timeline.everything))
    with tempfile.TemporaryDirectory() as folder:
        job = Comparison(timeline, run, str(Path(folder) / "differences"))
        launch.run(job.build, launch.options(runner))
        found: list[dict[str, Any]] = [
            parse_json(line)  # type: ignore[misc]
            for file in sorted(Path(folder).glob("differences-*"))
            for line in file.read_bytes().splitlines()
        ]
    return sorted(
        found, key=lambda row: (row["customer"], row["start"], row["meter"], str(row["group"]))
    )
