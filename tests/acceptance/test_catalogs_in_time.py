"""Backfill, usage and bills over the instant at which another catalog takes effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.acceptance.samples import catalog, event, plan, subscription
from tests.cli import Row, Site, run

FEE = {"model": "percentage", "rate": "0", "free_events": 1, "fixed_amount": "1"}
BY_PERIOD = {"model": "unit", "unit_amount": "1"}


def of(kind: str) -> Row:
    """A catalog whose meter takes events of one kind."""
    meter = {"id": "m", "event_name": "call", "aggregation": "sum", "property": "v"}
    charges = ({"id": "single", "price": FEE}, {"id": "sum", "price": BY_PERIOD})
    return catalog(
        {"acme": "Asia/Kathmandu"},
        (subscription("s", "acme", "p", "2026-02-28T18:15:00Z"),),
        (plan("p", *({**charge, "meter": "m"} for charge in charges)),),
        ({**meter, "filters": {"kind": [kind]}},),
    )


def events() -> list[Row]:
    rows = []
    for hour in range(24):
        for kind, value in (("a", 10), ("b", 1000)):
            row = event(f"{hour} {kind}", "acme", f"2026-03-04T{hour:02}:05:00Z", value)
            row["properties"]["kind"] = kind
            rows.append(row)
    return rows


def test_each_hour_is_metered_and_billed_by_its_catalog(module_site: Callable[..., Site]) -> None:
    site = module_site(of("b"), "times")
    old = site.folder / "old.yaml"
    site.write_catalog(of("a"))
    (site.folder / "catalog.yaml").rename(old)
    site.write_catalog(of("b"))
    where = ("--catalog", site.folder / "catalog.yaml", "--clickhouse", site.url)
    options = ("--from", "2026-03-04T12:00:00Z", "--replaces", old, "--format", "json")
    announced: list[dict[str, Any]] = run("catalog", "announce", *where, *options).json
    assert [row["from"] for row in announced] == [None, "2026-03-04T12:00:00Z"]

    assert site.backfill(site.write("events.jsonl", events()))["accepted"] == 48
    # Hours in Kathmandu start at a quarter past, so 12:05 is of an hour that began before.
    (row,) = site.usage("period")
    assert (row["value"], row["events"]) == (str(13 * 10 + 11 * 1000), 24)
    (invoice,) = site.bill("2026-04-01T00:00:00Z", "--preview")
    amounts = {line["charge"]: line["amount"] for line in invoice["lines"]}
    assert amounts == {"single": "23.00", "sum": "11130.00"}
