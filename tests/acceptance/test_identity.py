"""Identity is (customer, event_id): whatever the file, the order or the timestamp."""

from __future__ import annotations

import pytest

from tests.acceptance.samples import LATE, catalog, event, found, plan, subscription, unit
from tests.cli import comparable

CATALOG = catalog(
    dict.fromkeys(("moved", "copied", "boundary", "adds", "a", "b", "first"), "UTC"),
    plans=(plan("p", unit("c", "calls")),),
    subscriptions=(subscription("s", "boundary", "p", "2026-01-01T00:00:00Z"),),
)
SECOND = "2026-09-01T00:00:01Z"
FIRST_FILE = [
    event("x", "moved", "2026-03-01T10:00:00Z", 5),
    event("x", "copied", "2026-03-01T10:00:00Z"),
    event("x", "copied", "2026-03-01T10:00:00Z"),
    event("x", "boundary", "2026-03-31T23:59:59Z", 7),
    event("1", "adds", "2026-03-01T10:10:00Z", 1),
    event("x", "a", "2026-03-01T10:10:00Z", 1),
    event("x", "first", "2026-03-05T10:00:00Z", 9, ingested_at=SECOND),
]
SECOND_FILE = [
    event("x", "moved", "2026-03-02T11:00:00Z", 6, ingested_at=SECOND),
    event("x", "copied", "2026-03-01T10:00:00Z"),
    event("x", "boundary", "2026-04-01T00:00:00Z", 8, ingested_at=SECOND),
    event("2", "adds", "2026-03-01T10:50:00Z", 2),
    event("x", "b", "2026-03-01T10:10:00Z", 1),
    event("x", "first", "2026-03-04T10:00:00Z", 4, ingested_at=LATE),
    event("x", "first", "2026-03-04T10:00:00Z", 4, ingested_at=SECOND),
]
READ_ALONE = {
    "both": {"read": 14, "accepted": 8, "duplicate": 6, "conflict": 3, "quarantined": 0},
    "1": {"read": 7, "accepted": 6, "duplicate": 1, "conflict": 0, "quarantined": 0},
    "2": {"read": 7, "accepted": 6, "duplicate": 1, "conflict": 0, "quarantined": 0},
}


@pytest.fixture(scope="module")
def usages(module_site):
    """The same two files in one backfill, and in two in either order, and again."""
    results = {}
    for order in (("both",), ("1", "2"), ("2", "1")):
        site = module_site(CATALOG)
        inputs = {
            "1": [site.write("1.jsonl", FIRST_FILE)],
            "2": [site.write("2.csv", SECOND_FILE)],
        }
        inputs["both"] = inputs["1"] + inputs["2"]
        counts = [site.backfill(*inputs[step]) for step in order]
        for step, count in zip(order, counts, strict=True):
            assert count.items() >= READ_ALONE[step].items()
        results[order] = site.usage("hour")
        if order == ("2", "1"):
            again = [site.backfill(*inputs[step]) for step in order]
            results["again"] = (counts, again)
            results["after"] = site.usage("hour")
            results["invoices"] = site.bill("2026-05-01T00:00:00Z", "--preview")
    return results


ORDERS = pytest.mark.parametrize("order", [("both",), ("1", "2"), ("2", "1")], ids="-".join)


@ORDERS
def test_the_first_arrival_counts_where_the_same_id_has_another_timestamp(usages, order):
    rows = usages[order]
    assert found(rows, "tokens", customer="moved") == [
        ("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "5")
    ]
    assert found(rows, "tokens", customer="first") == [
        ("2026-03-04T10:00:00Z", "2026-03-04T11:00:00Z", "4")
    ]


@ORDERS
def test_copies_in_one_file_and_in_others_count_once(usages, order):
    assert found(usages[order], customer="copied") == [
        ("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "1")
    ]


@ORDERS
def test_the_same_id_on_both_sides_of_a_period_boundary_is_billed_once(usages, order):
    assert found(usages[order], customer="boundary") == [
        ("2026-03-31T23:00:00Z", "2026-04-01T00:00:00Z", "1")
    ]


@ORDERS
def test_two_files_for_one_hour_add_up(usages, order):
    assert found(usages[order], "tokens", customer="adds") == [
        ("2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z", "3")
    ]


@ORDERS
def test_the_same_id_under_two_customers_is_two_events(usages, order):
    assert [found(usages[order], customer=name)[0][2] for name in "ab"] == ["1", "1"]


def test_the_order_of_files_and_backfills_changes_nothing(usages):
    first = comparable(usages["both",])
    assert comparable(usages["1", "2"]) == first
    assert comparable(usages["2", "1"]) == first


def test_the_same_file_twice_changes_nothing_and_prints_the_same_counts(usages):
    before, again = usages["again"]
    assert again == before
    assert comparable(usages["after"]) == comparable(usages["2", "1"])


def test_the_bill_holds_the_event_once(usages):
    billed = {bill["period_start"]: bill["lines"][0] for bill in usages["invoices"]}
    assert {start: line["quantity"] for start, line in billed.items()} == {
        "2026-01-01T00:00:00Z": "0",
        "2026-02-01T00:00:00Z": "0",
        "2026-03-01T00:00:00Z": "1",
        "2026-04-01T00:00:00Z": "0",
    }
