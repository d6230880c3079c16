"""Repair and the owner rule as users meet them: commands, exit codes, and a kill."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.samples import COUNT, SUM, Row, catalog, event
from tests.cli import Running, Site, comparable, start
from tests.oracle import Oracle

CUSTOMERS = [f"c{number}" for number in range(12)]
UNIQUE = {"id": "users", "event_name": "call", "aggregation": "unique_count", "property": "u"}


def stream(site: Site, events: list[Row], closed_until: str = "") -> None:
    """The stream has stored these events too late to count them."""
    file = site.write("late.jsonl", events)
    words = (site.url, str(site.folder / "catalog.yaml"), str(file), closed_until)
    done = Running(words, {}, "tests.acceptance.stand_in").wait()
    assert done.code == 0, done
    file.unlink()


def made(count: int, seed: int) -> list[Row]:
    r = random.Random(seed)
    events = []
    for _ in range(count):
        at = f"2026-03-{r.randint(1, 28):02}T{r.randint(0, 23):02}:{r.randint(0, 59):02}:00Z"
        received = f"2026-09-01T00:00:00.{r.randint(0, 999_999):06}Z"
        row = event(f"{r.randint(0, 40_000)}", r.choice(CUSTOMERS), at, r.randint(0, 99))
        events.append({**row, "ingested_at": received})
        row["properties"]["u"] = r.randint(0, 500)
    return events


def state(site: Site) -> object:
    """Everything that has to be the same."""
    return comparable(site.usage()), site.query(
        "SELECT countIf(events > 0), sum(events) FROM {usage} FINAL",
        "SELECT count(), sum(cityHash64(origin_row, reason, event_id)) FROM {quarantine} FINAL",
        "SELECT countIf(cleared = 0) FROM {dirty} FINAL",
    )


def test_sigkill_half_way_and_a_second_run_leave_the_same_rows(
    module_site: Callable[..., Site],
) -> None:
    site = module_site(
        catalog(dict.fromkeys(CUSTOMERS, "Europe/Berlin"), meters=(COUNT, SUM, UNIQUE))
    )
    early, late = made(4_000, 1), made(12_000, 2)
    site.backfill(site.write("early.parquet", early))
    stream(site, late)
    disturbed = module_site(site.catalog, "disturbed")
    shutil.copytree(site.warehouse, disturbed.warehouse, symlinks=True)

    undisturbed = start(*site.args("repair")).wait()
    assert undisturbed.json["resolved"] == undisturbed.json["marks"] > 10_000
    assert comparable(site.usage()) == comparable(Oracle(site.catalog, early + late).usage("hour"))

    args = disturbed.args("repair")
    parts = (0.5, 0.65, 0.8, 0.9)
    killed = [start(*args).wait(undisturbed.seconds * part).code for part in parts]
    assert -signal.SIGKILL in killed, "every run was done before its kill"
    assert disturbed.run("repair").code == 0
    assert state(disturbed) == state(site)
    again = disturbed.run("repair").json
    assert again == dict.fromkeys(again, 0)


# Owners

EVENTS = [event(f"e{hour}", "c", f"2026-03-01T{hour:02}:30:00Z", hour) for hour in range(6)]


@pytest.fixture
def owned(new_site: Callable[..., Site]) -> Site:
    """The stream owns what ends after 03:00."""
    site = new_site(catalog({"c": "UTC"}))
    stream(site, [event("late", "c", "2026-03-01T01:10:00Z")], "2026-03-01T03:00:00Z")
    return site


def written(site: Site) -> list[list[list[int]]]:
    tables = ("events", "usage", "quarantine", "catalogs", "touched")
    return site.query(*(f"SELECT count() FROM {{{table}}}" for table in tables))


def test_a_backfill_of_what_the_stream_owns_writes_nothing(owned: Site) -> None:
    before = written(owned)
    file = owned.write("a.jsonl", [*EVENTS, event("x", "stranger", "2026-03-01T09:00:00Z")])
    for options in ((), ("--from", "2026-03-01T02:00:00Z")):
        result = owned.run("backfill", "--input", file, *options)
        assert result.code == 2
        assert result.stdout == ""
        assert (
            f"{file}: row 4: timestamp must be in an hour that the stream has closed "
            "(got 2026-03-01T03:30:00Z of customer 'c', closed until 2026-03-01T03:00:00Z); "
            "give --to 2026-03-01T03:00:00Z, or stop the stream with a drain"
        ) in result.stderr
    assert written(owned) == before


def test_what_it_says_to_do_works(owned: Site) -> None:
    file = owned.write("a.jsonl", EVENTS)
    counts = owned.backfill(file, options=("--to", "2026-03-01T03:00:00Z"))
    assert counts["accepted"] == 3
    hours = {row["start"]: row["events"] for row in owned.usage() if row["meter"] == "calls"}
    assert hours == {
        "2026-03-01T00:00:00Z": 1,
        "2026-03-01T01:00:00Z": 2,
        "2026-03-01T02:00:00Z": 1,
    }


def test_marks_in_hours_of_the_stream_stay_and_it_says_so(owned: Site) -> None:
    stream(owned, [event("open", "c", "2026-03-01T05:10:00Z")])
    result = owned.run("repair")
    assert result.json == {
        "marks": 2,
        "resolved": 1,
        "kept_open": 1,
        "customers": 1,
        "rows": 2,
        "tombstones": 0,
    }
    assert "marks that stay open: 1." in result.stderr
    assert [row["start"] for row in owned.usage()] == ["2026-03-01T01:00:00Z"] * 2


# Wrong usage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "2026-03-01T00:00:00Z"), "--from and --to must be given together"),
        (("--to", "2026-03-01T00:00:00Z"), "--from and --to must be given together"),
        (
            ("--from", "2026-03-01T00:00:00Z", "--to", "2026-03-01T00:00:00Z"),
            "--to must be after --from 2026-03-01T00:00:00Z",
        ),
        (("--customer", "d"), "--customer must be in the catalog (got 'd'"),
        (("--runner", "no such"), "--runner must be one of direct (got 'no such')"),
    ],
)
def test_wrong_options_are_told_apart(
    new_site: Callable[..., Site], options: tuple[str, ...], message: str
) -> None:
    result = new_site(catalog({"c": "UTC"})).run("repair", *options)
    assert (result.code, result.stdout) == (2, "")
    assert message in result.stderr


def test_nothing_dirty_is_done_at_once(new_site: Callable[..., Site], tmp_path: Path) -> None:
    counts = new_site(catalog({"c": "UTC"})).run("repair").json
    assert counts == dict.fromkeys(
        ("marks", "resolved", "kept_open", "customers", "rows", "tombstones"), 0
    )
