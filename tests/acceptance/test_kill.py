"""A backfill that is killed and started again leaves what an undisturbed one leaves."""

from __future__ import annotations

import random
import signal

import pytest

from tests.acceptance.samples import catalog, event, plan, subscription, unit
from tests.cli import comparable, start

UNIQUE = {"id": "users", "event_name": "call", "aggregation": "unique_count", "property": "u"}
CUSTOMERS = [f"c{number}" for number in range(20)]


def build(module_site):
    meters = (
        {"id": "calls", "event_name": "call", "aggregation": "count", "group_by": ["g"]},
        {"id": "tokens", "event_name": "call", "aggregation": "sum", "property": "v"},
        {"id": "last", "event_name": "call", "aggregation": "latest", "property": "v"},
        UNIQUE,
    )
    site = module_site(
        catalog(
            dict.fromkeys(CUSTOMERS, "Europe/Berlin"),
            plans=(plan("p", unit("c", "calls")),),
            subscriptions=tuple(
                subscription(f"s{name}", name, "p", "2026-02-10T11:30:00Z")
                for name in CUSTOMERS[::2]
            ),
            meters=meters,
        )
    )
    r = random.Random(7)
    for number in range(6):
        events = []
        for _ in range(4_000):
            date = f"2026-0{r.randint(1, 4)}-{r.randint(1, 28):02}"
            clock = f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:00"
            made = event(
                f"{r.randint(0, 80_000)}",
                r.choice(CUSTOMERS),
                f"{date}T{clock}Z",
                r.randint(0, 1000),
                ingested_at=f"2026-09-01T00:00:00.{r.randint(0, 999_999):06}Z",
            )
            made["properties"] |= {"u": r.randint(0, 500), "g": r.choice("xyz")}
            events.append(made if r.random() > 0.01 else {**made, "event_id": ""})
        site.write(f"{number}.{'parquet' if number % 2 else 'jsonl'}", events)
    return site


def state(site):
    """Everything that has to be the same, usage as printed and the raw tables."""
    return {
        "hour": comparable(site.usage("hour")),
        "tables": site.query(
            "SELECT count(), sum(cityHash64(external_customer_id, event_id, timestamp,"
            " ingested_at, properties)) FROM {events} FINAL",
            "SELECT count(), sum(cityHash64(origin_row, reason, meter, field, payload))"
            " FROM {quarantine} FINAL",
            "SELECT countIf(events > 0), sum(events) FROM {usage} FINAL",
        ),
    }


@pytest.fixture(scope="module")
def undisturbed(module_site):
    site = build(module_site)
    done = start(*site.args("backfill", "--input", site.folder / "input/*")).wait()
    return site, done.json, state(site), done.seconds


@pytest.mark.parametrize(
    ("before", "parts"),
    [((), (0.35, 0.6, 0.8)), (("input/[0-2].*",), (0.3, 0.7))],
    ids=["into nothing", "upon an earlier backfill"],
)
def test_sigkill_and_a_restart_leave_the_same_rows(module_site, undisturbed, before, parts):
    origin, counts, expected, seconds = undisturbed
    site = module_site(origin.catalog)
    for pattern in before:
        site.backfill(origin.folder / pattern)
    args = site.args("backfill", "--input", origin.folder / "input/*")
    killed = [start(*args).wait(seconds * part).code for part in parts]
    assert -signal.SIGKILL in killed, "every run was done before its kill"
    assert start(*args).wait().json == counts
    assert state(site) == expected
