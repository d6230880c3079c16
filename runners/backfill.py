"""The command `backfill`: files in object storage become usage rows."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from meters.mapping import Mapping
from meters.numbers import PLACES
from meters.timestamps import format_instant
from meters.touched import first_owned_hour
from meters.zones import from_microseconds, microseconds
from runners import tables
from runners.catalogs import timeline_for
from runners.commands import Url, check_span, open_warehouse, remember, report_overlaps
from runners.output import Format, notice
from warehouse.affected import events_exist
from warehouse.leases import exclusive
from warehouse.ownership import Owners, read_owners
from warehouse.touched import drop_touched


def run_backfill(
    path: str,
    url: Url,
    *,
    inputs: Sequence[str],
    maps: Sequence[str],
    constants: Sequence[str],
    time_format: str | None,
    time_zone: str | None,
    from_time: datetime | None,
    to_time: datetime | None,
    tenant: str,
    runner: str,
    beam_options: Sequence[str],
    form: Format,
) -> None:
    """Object storage -> usage rows; prints the counts of the input."""
    catalog = load_catalog(path)
    mapping = Mapping.parse(maps, constants, time_format, time_zone)
    check_span(from_time, to_time)
    report_overlaps(catalog)
    counts = backfill_counts(
        catalog,
        url,
        inputs=inputs,
        mapping=mapping,
        tenant=tenant,
        runner=runner,
        beam_options=beam_options,
        span=(from_time, to_time),
    )
    tables.show_facts(counts, form)


def backfill_counts(
    catalog: Catalog,
    url: Url,
    *,
    inputs: Sequence[str],
    mapping: Mapping,
    tenant: str,
    runner: str = "direct",
    beam_options: Sequence[str] = (),
    span: tuple[datetime | None, datetime | None] = (None, None),
) -> dict[str, int]:
    """Run a backfill and return its counts."""
    from pipelines.backfill import Backfill, FindOwned
    from runners import launch
    from transforms.counts import ROUNDED
    from transforms.sources import match_files

    options = launch.options(runner, beam_options)
    splits = match_files(inputs, options)
    us = (_us(span[0]), _us(span[1]))
    with (
        open_warehouse(url) as warehouse,
        tempfile.TemporaryDirectory() as folder,
        exclusive(warehouse, tenant),
    ):
        timeline = timeline_for(warehouse, tenant, catalog)
        if owners := read_owners(warehouse, tenant):
            summary = str(Path(folder) / "owned.json")
            find = FindOwned(splits, timeline.everything, owners, mapping, us, summary)
            notice("looking for events that the stream owns")
            launch.run(find.build, options)
            _refuse(json.loads(Path(summary).read_bytes()), owners, timeline.everything)
        remember(warehouse, tenant, catalog)
        run_id = uuid.uuid4().hex if events_exist(warehouse, tenant) else None
        spill = Path(folder) / "spill"
        spill.mkdir()
        job = Backfill(
            splits=splits,
            timeline=timeline,
            tenant=tenant,
            warehouse=url[0],
            mapping=mapping,
            summary=str(Path(folder) / "summary.json"),
            span=us,
            run_id=run_id,
            spill=str(spill),
        )
        files = len({split.path for split in splits})
        notice(f"reading {files} file{'s' if files > 1 else ''}")
        try:
            with (
                launch.reported(("read", "stored", "quarantined")),
                warehouse.loading("events", "touched", "usage", "usage_values"),
            ):
                launch.run(job.build, options)
        finally:
            if run_id is not None:
                drop_touched(warehouse, tenant, run_id)
        counts: dict[str, int] = json.loads(Path(job.summary).read_bytes())
        if rounded := counts.pop(ROUNDED, 0):
            notice(
                f"{rounded} number{'s' if rounded > 1 else ''} with more than {PLACES} decimals: "
                "rounded half-even"
            )
        return counts


def _refuse(found: Sequence[Sequence[Any]], owners: Owners, catalog: Catalog) -> None:
    """Raises ConfigurationError where an event lies in an hour that the stream owns."""
    if not found:
        return
    origin, row, customer, at, closed = min(map(tuple, found))
    zones = {entry.time_zone for entry in catalog.customers}
    before = first_owned_hour((row.closed_until for row in owners.rows if row.owned), zones)
    raise ConfigurationError(
        f"{origin}: row {row}: timestamp must be in an hour that the stream has closed "
        f"(got {_shown(at)} of customer {customer!r}, closed until {_shown(closed)}); "
        f"give --to {_shown(before)}, or stop the stream with a drain"
    )


def _shown(us: int) -> str:
    return format_instant(from_microseconds(us))


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else microseconds(instant)
