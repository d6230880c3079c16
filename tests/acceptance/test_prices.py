"""Prices that need more than a sum, from files to invoices: groups, buckets, single events."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.samples import catalog, event, plan, subscription
from tests.oracle_bills import money

AS_OF = "2026-03-31T22:00:00Z"
BERLIN = ZoneInfo("Europe/Berlin")
START = datetime.fromisoformat("2026-03-01T00:00:00+01:00")
END = datetime.fromisoformat("2026-04-01T00:00:00+02:00")


def meter(key, aggregation, **more):
    prop = {} if aggregation == "count" else {"property": "v"}
    return {"id": key, "event_name": "call", "aggregation": aggregation, **prop, **more}


def unit(amount):
    return {"model": "unit", "unit_amount": amount}


PER_EVENT = {"model": "percentage", "rate": "2.5", "free_events": 3, "fixed_amount": "0.1"}
BOUNDED = {"model": "percentage", "rate": "50", "maximum_per_event": "9.5"}
PLAN = plan(
    "p",
    {"id": "by-region", "meter": "sum", "price": unit("0.013"), "price_by": ["region"]},
    {
        "id": "users",
        "meter": "users",
        "prices": [{"when": {"region": "eu"}, "price": unit("2")}],
        "default_price": unit("3"),
    },
    {"id": "peaks", "meter": "peaks", "price": unit("0.11")},
    {"id": "day-peaks", "meter": "day-peaks", "price": unit("0.01"), "price_by": ["region"]},
    {"id": "per-event", "meter": "sum", "price": PER_EVENT},
    {"id": "bounded", "meter": "sum", "price": BOUNDED, "price_by": ["region"]},
    {"id": "dynamic", "meter": "calls", "price": {"model": "dynamic", "property": "cost"}},
)
CATALOG = catalog(
    {"berlin": "Europe/Berlin", "other": "UTC"},
    plans=(PLAN,),
    subscriptions=(
        subscription("s", "berlin", "p", "2026-02-28T23:00:00Z"),
        subscription("s-other", "other", "p", "2026-03-01T00:00:00Z"),
    ),
    meters=(
        meter("sum", "sum", group_by=["region", "size"]),
        meter("users", "unique_count", group_by=["region", "size"]),
        meter("peaks", "max", bucket="hour", group_by=["region"]),
        meter("day-peaks", "max", bucket="day", group_by=["size", "region"]),
        meter("calls", "count"),
    ),
)


def events():
    r = random.Random(7)
    for number in range(400):
        # The clocks go forward on the 29th: 02:30 does not exist in Berlin then.
        at = f"2026-{r.choice(['02-28', '03-01', '03-29', '03-30', '03-31', '04-01'])}"
        made = event(f"{number}", "berlin", f"{at}T{r.randint(0, 23):02}:{r.randint(0, 59):02}:00Z")
        made["properties"] = {
            "v": Decimal(r.randint(0, 400)) / 8,
            "region": r.choice(["eu", "us", None]),
            "size": r.choice([1, 2]),
            "cost": str(Decimal(r.randint(0, 300)) / 1000),
        }
        yield made


@pytest.fixture(scope="module")
def billed(module_site):
    site = module_site(CATALOG)
    site.made = list(events())
    again = [{**e, "timestamp": "2026-03-15T00:00:00Z"} for e in site.made[:50]]
    retries = [{**e, "ingested_at": "2026-09-02T00:00:00Z"} for e in again]
    site.backfill(site.write("events.parquet", [*site.made, *retries]))
    site.bills = {bill["subscription"]: bill for bill in site.bill(AS_OF)}
    return site


def counted(site):
    """The events of March in Berlin, in their order."""
    chosen = [e for e in site.made if START <= datetime.fromisoformat(e["timestamp"]) < END]
    return sorted(chosen, key=lambda e: (datetime.fromisoformat(e["timestamp"]), e["event_id"]))


def lines(site, charge):
    chosen = [line for line in site.bills["s"]["lines"] if line["charge"] == charge]
    return {line["group"].get("region", "all"): line for line in chosen}


def by_region(site):
    groups = defaultdict(list)
    for e in counted(site):
        groups[e["properties"]["region"]].append(e)
    return groups


def test_each_region_is_priced_alone(billed):
    expected = {
        region: money(sum(Fraction(e["properties"]["v"]) for e in each) * Fraction("0.013"), "EUR")
        for region, each in by_region(billed).items()
    }
    assert {k: line["amount"] for k, line in lines(billed, "by-region").items()} == expected
    assert set(expected) == {"eu", "us", None}


def test_users_of_a_region_are_counted_once_over_its_sizes(billed):
    for region, each in by_region(billed).items():
        users = len({e["properties"]["v"] for e in each})
        line = lines(billed, "users")[region]
        assert line["quantity"] == str(users)
        assert line["amount"] == money(Fraction(users * (2 if region == "eu" else 3)), "EUR")


def peaks(made, bucket):
    found = defaultdict(Fraction)
    for e in made:
        at = datetime.fromisoformat(e["timestamp"])
        local = at.astimezone(BERLIN)
        key = local.date() if bucket == "day" else (local.date(), local.hour, local.utcoffset())
        found[key] = max(found[key], Fraction(e["properties"]["v"]))
    return sum(found.values())


def test_a_bucketed_meter_is_billed_by_the_sum_of_its_buckets(billed):
    hours = peaks(counted(billed), "hour")
    assert Fraction(lines(billed, "peaks")["all"]["quantity"]) == hours
    assert lines(billed, "peaks")["all"]["amount"] == money(hours * Fraction("0.11"), "EUR")
    for region, each in by_region(billed).items():
        found = lines(billed, "day-peaks")[region]["quantity"]
        assert Fraction(found) == peaks(each, "day")


def test_the_usage_of_a_bucketed_meter_is_what_is_billed(billed):
    (row,) = [
        row
        for row in billed.usage("period", "--meter", "peaks", "--group-by", "region")
        if row["start"] == "2026-02-28T23:00:00Z" and row["group"] == {"region": "eu"}
    ]
    assert Fraction(row["value"]) == peaks(by_region(billed)["eu"], "hour")
    days = billed.usage("day", "--meter", "day-peaks", "--group-by", "region")
    march = [r for r in days if r["group"] == {"region": "us"} and r["subscription"] == "s"]
    inside = [r for r in march if "2026-02-28T23:00:00Z" <= r["start"] < AS_OF]
    total = sum(Fraction(r["value"]) for r in inside)
    assert total == peaks(by_region(billed)["us"], "day")


def test_single_events_are_priced_in_their_order_each_once(billed):
    values = [Fraction(e["properties"]["v"]) for e in counted(billed)]
    expected = sum(v * Fraction("0.025") + Fraction("0.1") for v in values[3:])
    line = lines(billed, "per-event")["all"]
    assert line["amount"] == money(expected, "EUR")
    assert Fraction(line["quantity"]) == sum(values)
    for region, each in by_region(billed).items():
        costs = [min(Fraction(e["properties"]["v"]) / 2, Fraction("9.5")) for e in each]
        assert lines(billed, "bounded")[region]["amount"] == money(sum(costs), "EUR")


def test_a_dynamic_price_is_on_the_events(billed):
    costs = [Fraction(e["properties"]["cost"]) for e in counted(billed)]
    line = lines(billed, "dynamic")["all"]
    assert (line["amount"], line["quantity"]) == (money(sum(costs), "EUR"), str(len(costs)))


def test_without_usage_every_charge_has_its_line(billed):
    bill = billed.bill("2026-04-01T00:00:00Z", "--preview", "--customer", "other")[0]
    assert [line["charge"] for line in bill["lines"]] == [c["id"] for c in PLAN["charges"]]
    assert bill["total"] == "0.00"


def test_an_invoice_with_usage_without_a_price_is_held_and_others_go_on(new_site):
    prices = [{"when": {"region": "eu"}, "price": unit("1")}]
    site = new_site(
        catalog(
            {"a": "UTC", "b": "UTC"},
            plans=(plan("p", {"id": "x", "meter": "sum", "prices": prices}),),
            subscriptions=tuple(
                subscription(f"s-{c}", c, "p", "2026-03-01T00:00:00Z") for c in "ab"
            ),
            meters=(meter("sum", "sum", group_by=["region"]),),
        )
    )
    made = [event(region, c, "2026-03-02T00:00:00Z") for c, region in (("a", "eu"), ("b", "us"))]
    for each in made:
        each["properties"]["region"] = each["event_id"]
    site.backfill(site.write("events.csv", made))
    bills = {bill["customer"]: bill for bill in site.bill("2026-04-01T00:00:00Z")}
    assert (bills["a"]["status"], bills["a"]["total"]) == ("draft", "1.00")
    assert (bills["b"]["status"], bills["b"]["hold_reason"]) == ("held", "missing_price")
    ((stored,),) = site.query(
        "SELECT status, hold_reason FROM {invoices} FINAL WHERE status='held'"
    )
    assert stored == ["held", "missing_price"]
