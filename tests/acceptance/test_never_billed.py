"""Usage that no invoice will ever have is listed by `reconcile`, and all other is billed.

One site goes through all of it, in the order of the tests.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.acceptance.samples import COUNT, SUM, Row, catalog, event, plan, subscription, unit
from tests.cli import Site, run

JANUARY, MARCH = "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"
SPAN = ("--from", "2025-12-01T00:00:00Z", "--to", "2026-07-01T00:00:00Z")
SHOWN = {"id": "size", "event_name": "call", "aggregation": "max", "property": "v"}
PEAKS = {
    "id": "peaks",
    "event_name": "peak",
    "aggregation": "max",
    "property": "v",
    "bucket": "day",
}
SEATS = {
    "id": "seats",
    "event_name": "seat",
    "aggregation": "sum",
    "property": "v",
    "recurring": True,
}
Q = {
    "id": "q",
    "currency": "EUR",
    "versions": [
        {"version": "v1", "from": JANUARY, "charges": [unit("calls", "calls")]},
        {"version": "v2", "from": MARCH, "charges": [unit("tokens", "tokens")]},
    ],
}
START = "2026-01-10T09:30:00Z"


def world(**more: Any) -> Row:
    made = catalog(
        {"acme": "UTC", "globex": "Europe/Berlin", "free": "UTC"},
        subscriptions=(
            subscription("s1", "acme", "p", START, "2026-02-10T09:30:00Z"),
            {**subscription("s2", "globex", "q", JANUARY), "pin_version": "v1"},
            subscription("s3", "globex", "q", JANUARY, "2026-05-01T00:00:00Z"),
        ),
        plans=(
            plan("p", unit("calls", "calls"), unit("peaks", "peaks"), unit("seats", "seats")),
            Q,
        ),
        meters=(COUNT, SUM, SHOWN, PEAKS, SEATS),
    )
    return {**made, **more}


def named(key: str, customer: str, at: str, owner: str, value: int = 1, name: str = "call") -> Row:
    return event(key, customer, at, value, external_subscription_id=owner, event_name=name)


EVENTS = [
    # Billed: within the dates, from the very start on, and what is carried into them.
    event("b1", "acme", "2026-01-10T09:30:00Z"),
    named("b2", "acme", "2026-02-10T09:29:59Z", "s1"),
    named("b3", "acme", "2025-12-05T10:00:00Z", "s1", 3, "seat"),
    event("b4", "globex", "2026-02-01T10:00:00Z"),
    named("b5", "globex", "2026-02-02T10:00:00Z", "s3"),
    # Will be billed: its period goes on.
    named("b6", "globex", "2026-06-02T10:00:00Z", "s2"),
    # Names s1 beside its dates, within the hours that they cut.
    named("n1", "acme", "2026-01-10T09:29:59Z", "s1"),
    named("n2", "acme", "2026-02-10T09:30:00Z", "s1"),
    named("n3", "acme", "2026-04-01T10:00:00Z", "s1"),
    named("n4", "acme", "2026-02-11T10:00:00Z", "s1", 4, "peak"),
    named("n5", "acme", "2026-02-11T12:00:00Z", "s1", 7, "peak"),
    named("n6", "acme", "2026-02-12T12:00:00Z", "s1", 2, "peak"),
    # Names one that acme does not have, when s1 would have been charged and when not.
    named("n7", "acme", "2026-01-20T10:00:00Z", "s-1"),
    named("n8", "acme", "2026-03-20T10:00:00Z", "s2"),
    # Names a subscription whose plan has no charge for calls any more.
    named("n9", "globex", "2026-03-05T10:00:00Z", "s3"),
    named("n10", "globex", "2026-05-05T10:00:00Z", "s3"),
    # Nobody pays for it at all.
    event("n11", "free", "2026-03-05T10:00:00Z"),
    event("n12", "free", "2026-04-05T10:00:00Z"),
    event("n13", "stranger", "2026-04-05T10:00:00Z"),
    event("n14", "stranger", "2026-04-06T10:00:00Z"),
    event("other", "stranger", "2026-04-06T10:00:00Z", event_name="no meter has it"),
]

# Customer, subscription, meter, reason, value, events.
CALLS = [
    ("acme", "s1", "calls", "before_start", "1", 1),
    ("acme", None, "calls", "unknown_subscription", "1", 1),
    ("acme", "s1", "calls", "after_end", "2", 2),
    ("acme", None, "calls", "no_subscription", "1", 1),
    ("free", None, "calls", "no_subscription", "2", 2),
    ("globex", "s3", "calls", "not_charged", "1", 1),
    ("globex", "s3", "calls", "after_end", "1", 1),
]
PEAK = ("acme", "s1", "peaks", "after_end", "9", 3)
STRANGER = ("stranger", None, None, "unknown_customer", None, 2)


@pytest.fixture(scope="module")
def site(module_site: Callable[..., Site]) -> Site:
    made = module_site(world())
    made.backfill(made.write("a.jsonl", EVENTS))
    return made


def found(site: Site, *more: object) -> list[Row]:
    rows: list[Row] = site.run("reconcile", *SPAN, *more).json
    assert {row["finding"] for row in rows} <= {"never_billed"}
    return rows


def facts(rows: list[Row]) -> list[tuple[Any, ...]]:
    names = ("customer", "subscription", "meter", "reason", "stored", "events")
    return [tuple(row[name] for name in names) for row in rows]


def of(rows: list[Row], meter: str | None) -> list[tuple[Any, ...]]:
    return facts([row for row in rows if row["meter"] == meter])


def test_what_is_never_billed_is_listed_with_the_reason(site: Site) -> None:
    rows = found(site)
    assert of(rows, "calls") == CALLS
    assert of(rows, "peaks") == [PEAK]
    assert of(rows, None) == [STRANGER]
    assert {row["meter"] for row in rows} == {"calls", "tokens", "peaks", None}
    by_reason = {
        (row["subscription"], row["reason"]): row for row in rows if row["meter"] == "calls"
    }
    assert by_reason["s1", "after_end"]["start"] == "2026-02-10T09:30:00Z"
    assert by_reason["s1", "after_end"]["end"] == "2026-04-01T11:00:00Z"
    assert by_reason["s1", "before_start"]["end"] == START
    assert by_reason[None, "unknown_subscription"]["detail"].endswith("events name 's-1', 's2'")
    assert by_reason["s3", "not_charged"]["raw"] is None


def test_all_usage_is_billed_or_listed(site: Site) -> None:
    """The law: no call is both, and none is neither."""
    invoices = site.bill("2026-08-01T00:00:00Z")
    for meter in ("calls", "tokens"):
        billed = sum(
            Decimal(line["quantity"])
            for invoice in invoices
            for line in invoice["lines"]
            if line["meter"] == meter
        )
        listed = [row for row in found(site) if row["meter"] == meter]
        used = sum(row["events"] for row in site.usage("period", "--meter", meter))
        assert used == billed + sum(row["events"] for row in listed), meter
    [seats] = {
        line["quantity"]
        for invoice in invoices
        for line in invoice["lines"]
        if line["meter"] == "seats"
    }
    assert seats == "3"


def test_customer_and_span_choose(site: Site) -> None:
    assert facts(found(site, "--customer", "free"))[:1] == [CALLS[4]]
    assert {row["customer"] for row in found(site, "--customer", "free")} == {"free"}
    rows = site.run("reconcile", "--from", "2026-04-01T10:00:00Z", "--to", "2026-04-05T10:00:00Z")
    assert of(rows.json, "calls") == [("acme", "s1", "calls", "after_end", "1", 1)]
    assert of(rows.json, None) == []


def test_it_is_shown_as_csv_and_as_a_table(site: Site) -> None:
    words = list(site.args("reconcile", *SPAN, "--customer", "free"))
    words[words.index("json")] = "csv"
    shown = run(*words)
    assert shown.code == 0
    [row, *_] = csv.DictReader(io.StringIO(shown.stdout))
    assert (row["finding"], row["reason"], row["events"]) == (
        "never_billed",
        "no_subscription",
        "2",
    )
    words[words.index("csv")] = "table"
    table = run(*words)
    assert table.code == 0
    assert "never_billed" in table.stdout


def test_what_is_on_a_final_invoice_is_billed_whatever_the_catalog_says_later(site: Site) -> None:
    before = found(site)
    site.bill(
        "2026-03-01T00:00:00Z", "--finalize", "--issue-date", "2026-03-02", "--customer", "acme"
    )
    assert found(site) == before
    # The customer leaves the catalog, with the subscription: its usage stands on the invoice.
    kept = world()
    site.write_catalog(
        world(
            customers=[each for each in kept["customers"] if each["id"] != "acme"],
            subscriptions=[each for each in kept["subscriptions"] if each["customer"] != "acme"],
        )
    )
    rows = [row for row in found(site) if row["customer"] == "acme"]
    assert of(rows, None) == []
    assert of(rows, "calls") == [
        ("acme", "s1", "calls", "unknown_customer", "1", 1),
        ("acme", None, "calls", "unknown_customer", "2", 2),
        ("acme", "s1", "calls", "unknown_customer", "2", 2),
    ]
    # Made void, it bills nothing any more.
    common = ("--clickhouse", site.url, "--format", "json")
    final = run("invoice", "list", *common, "--status", "finalized").json
    for document in reversed(final):
        void = run("invoice", "void", *common, document["invoice_id"], "--reason", "wrong")
        assert void.code == 0, void
    rows = [row for row in found(site) if row["customer"] == "acme" and row["subscription"]]
    assert of(rows, "calls") == [("acme", "s1", "calls", "unknown_customer", "5", 5)]
