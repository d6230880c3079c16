"""The commands `quarantine` and `replay`: what was refused, and another try."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from meters.errors import ConfigurationError
from meters.scalars import canonical_json, parse_json
from meters.timestamps import format_instant
from runners import tables
from runners.catalogs import timeline_for
from runners.commands import Url, check_span, open_warehouse
from runners.output import Format, notice
from runners.repair import repair_counts
from transforms.replay import Place, Replay, Replayed
from warehouse.quarantine import Selection, open_counts, open_pages, open_rows

PAGE = 20_000
"""Rows that are replayed at a time."""

_ROWS = (
    "id",
    "quarantined_at",
    "reason",
    "meter",
    "field",
    "detail",
    "origin",
    "origin_row",
    "external_customer_id",
    "event_id",
    "payload",
)
_SHOWN = ("id", "quarantined_at", "reason", "meter", "origin", "origin_row", "detail")
_COUNTS = ("reason", "meter", "rows", "first", "last")
_TIMES = ("quarantined_at", "first", "last")
_REPAIRED = ("resolved", "kept_open", "rows", "tombstones")


def run_quarantine(
    url: Url, chosen: Selection, *, counts: bool, limit: int, tenant: str, form: Format
) -> None:
    """Show what was refused and is not settled: rows, or how many by reason and meter."""
    check_span(chosen.from_time, chosen.to_time)
    with open_warehouse(url) as warehouse:
        if counts:
            found = open_counts(warehouse, tenant, chosen)
        else:
            found = open_rows(warehouse, tenant, chosen, limit)
    rows = [_shown(row) for row in found.to_pylist()]
    if counts:
        tables.show_rows(rows, _COUNTS, form, right=("rows",), none="nothing is quarantined")
        return
    columns = _SHOWN if form == "table" else _ROWS
    tables.show_rows(rows, columns, form, right=("origin_row",), none="nothing is quarantined")
    if len(rows) == limit:
        notice(f"the last {limit:,} rows are shown; --limit shows more, --counts counts all")


def run_replay(
    path: str,
    url: Url,
    chosen: Selection,
    *,
    fix: str | None,
    runner: str,
    tenant: str,
    form: Format,
) -> None:
    """Send what was refused through the chain again, and count what is accepted now."""
    catalog = load_catalog(path)
    check_span(chosen.from_time, chosen.to_time)
    corrected = {} if fix is None else _corrections(fix)
    counts = replay_counts(catalog, url, chosen, corrected, tenant=tenant, runner=runner)
    if counts["kept_open"]:
        notice(
            f"marks that stay open: {counts['kept_open']:,}. The stream owns their hours: "
            "`beammeter repair` counts them when it has closed these"
        )
    tables.show_facts(counts, form)


def replay_counts(
    catalog: Catalog,
    url: Url,
    chosen: Selection,
    corrected: Mapping[Place, str],
    *,
    tenant: str,
    runner: str = "direct",
) -> dict[str, int]:
    """Replay what is selected, repair what it marks, and return the counts of both."""
    totals: Counter[str] = Counter(asdict(Replayed()))
    with open_warehouse(url) as warehouse:
        replay = Replay(warehouse, tenant, timeline_for(warehouse, tenant, catalog))
        for page in open_pages(warehouse, tenant, chosen, PAGE):
            totals.update(asdict(replay.replay(page, corrected)))
    repaired = repair_counts(catalog, url, tenant=tenant, runner=runner)
    return {**totals, **{name: repaired[name] for name in _REPAIRED}}


def _corrections(path: str) -> dict[Place, str]:
    """Payloads by origin and row, from a file as `beammeter quarantine --format json` prints.

    Raises ConfigurationError where the file holds something else.
    """
    try:
        rows = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise ConfigurationError(f"--fix must be a readable file (got {error})") from None
    except ValueError as error:
        raise ConfigurationError(f"--fix must be JSON (got {path}: {error})") from None
    if not isinstance(rows, list):
        raise ConfigurationError(f"--fix must be a JSON list of rows (got {path})")
    found: dict[Place, str] = {}
    for row in rows:
        if not isinstance(row, dict) or not {"origin", "origin_row", "payload"} <= set(row):
            raise ConfigurationError(
                "--fix must have origin, origin_row and payload in each row, as `beammeter "
                f"quarantine --format json` prints them (got {row!r})"
            )
        if row.get("meter"):
            raise ConfigurationError(
                "--fix must have rows that were refused as a whole: of others the event is stored "
                f"(got {row['origin']} row {row['origin_row']}, refused by meter {row['meter']!r})"
            )
        payload = row["payload"]
        text = payload if isinstance(payload, str) else canonical_json(payload)
        found[str(row["origin"]), int(row["origin_row"])] = text
    return found


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    times = {name: format_instant(row[name]) for name in _TIMES if name in row}
    return {**row, **times}
