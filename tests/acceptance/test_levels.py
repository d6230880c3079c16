"""Levels, percentiles and recurring meters: bills of random worlds are what the oracle says."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tests.generators import worlds
from tests.oracle import Oracle
from tests.oracle_spans import looks_beyond
from tests.oracle_times import instant


@pytest.fixture(scope="module")
def known(module_site):
    catalog, events = worlds(range(300, 312))
    site = module_site(catalog)
    site.backfill(site.write("all.jsonl", events))
    return site, Oracle(catalog, events)


def test_each_line_has_the_quantity_that_the_oracle_walks_to(known):
    site, oracle = known
    special = {meter["id"]: meter for meter in oracle.catalog["meters"] if looks_beyond(meter)}
    seen: set[tuple[str, bool]] = set()
    until = max(event.timestamp for event in oracle.effective)
    for bill in site.bill(until.isoformat()):
        for line in bill["lines"]:
            if line["meter"] not in special:
                continue
            start = instant(line["service_start"])
            quantity, events = oracle.quantity(line["subscription"], line["meter"], start)
            assert Fraction(line["quantity"]) == quantity, line
            seen.add((special[line["meter"]]["aggregation"], bool(events)))
    kinds = {"sum", "unique_count", "weighted_sum", "percentile"}
    # A recurring meter is billed in periods without an event, too.
    assert {kind for kind, _ in seen} == kinds
    assert ("weighted_sum", False) in seen


def test_a_late_event_in_an_earlier_period_changes_the_bills_after_it(new_site):
    from tests.acceptance.samples import catalog, event, plan, subscription, unit

    meter = {
        "id": "gb",
        "event_name": "call",
        "aggregation": "weighted_sum",
        "property": "v",
        "recurring": True,
    }
    site = new_site(
        catalog(
            {"c": "UTC"},
            plans=(plan("p", unit("gb", "gb")),),
            subscriptions=(subscription("s", "c", "p", "2026-01-01T00:00:00Z"),),
            meters=(meter,),
        )
    )
    site.backfill(site.write("one.jsonl", [event("1", "c", "2026-01-16T12:00:00Z", 10)]))
    asked = "2026-03-01T00:00:00Z"
    assert [bill["total"] for bill in site.bill(asked)] == ["5.00", "10.00"]
    site.backfill(site.write("two.jsonl", [event("2", "c", "2026-01-01T00:00:00Z", -4)]))
    assert [bill["total"] for bill in site.bill(asked)] == ["1.00", "6.00"]
