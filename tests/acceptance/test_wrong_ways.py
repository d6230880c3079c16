"""Ways in which billing systems bill wrongly, each as a bill that is right here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.samples import COUNT, SUM, catalog, event, plan, subscription, unit

TIERS = [{"up_to": 10, "unit_amount": "1"}, {"unit_amount": "0.1"}]
GRADUATED: dict[str, Any] = {"model": "graduated", "tiers": TIERS}
LEVEL = {
    "id": "stored",
    "event_name": "stored",
    "aggregation": "weighted_sum",
    "property": "v",
    "recurring": True,
}
CUSTOMERS = (
    "retry",
    "boundary",
    "midnight",
    "negative",
    "gap",
    "zero",
    "last-day",
    "week",
    "level",
    "tiers",
    "included",
    "rounding",
    "credit",
    "discount",
    "thresholds",
)
FINE = [{"up_to": 1, "unit_amount": "0.004"}, {"up_to": 2, "unit_amount": "0.004"}, {}]
SITE = catalog(
    dict.fromkeys(CUSTOMERS, "Europe/Berlin"),
    plans=(
        plan("calls", unit("calls", "calls")),
        plan("tokens", {"id": "tokens", "meter": "tokens", "price": GRADUATED}),
        plan("flat", {"id": "fee", "fee": "5"}, unit("calls", "calls")),
        plan("weekly", unit("calls", "calls"), period="week"),
        plan("stored", unit("stored", "stored")),
        plan("tiers", {"id": "t", "meter": "tokens", "included": 5, "price": GRADUATED}),
        plan("included", unit("tokens", "tokens", included=100)),
        plan("fine", {"id": "f", "meter": "tokens", "price": GRADUATED | {"tiers": FINE}}),
        plan("plain", unit("tokens", "tokens")),
        {**plan("stepwise", {"id": "t", "meter": "tokens", "price": GRADUATED}), "thresholds": [5]},
    ),
    subscriptions=(
        *(
            subscription(f"s-{name}", name, tariff, "2026-03-01T00:00:00+01:00")
            for name, tariff in {
                "retry": "calls",
                "boundary": "calls",
                "midnight": "calls",
                "negative": "tokens",
                "gap": "tokens",
                "zero": "flat",
                "level": "stored",
                "tiers": "tiers",
                "included": "included",
                "rounding": "fine",
                "credit": "plain",
                "thresholds": "stepwise",
            }.items()
        ),
        subscription("s-last-day", "last-day", "calls", "2026-01-31T00:00:00+01:00"),
        subscription("s-week", "week", "weekly", "2026-03-04T00:00:00+01:00"),  # a Wednesday
        {
            **subscription("s-discount", "discount", "plain", "2026-03-01T00:00:00+01:00"),
            "coupons": ["half-a-thousand"],
        },
    ),
    meters=(COUNT, SUM, LEVEL),
)
SITE["coupons"] = [{"id": "half-a-thousand", "amount": 500, "currency": "EUR"}]
SITE["credits"] = [
    {
        "id": "g",
        "customer": "credit",
        "amount": 30,
        "currency": "EUR",
        "start": "2026-01-01T00:00:00Z",
    }
]
APRIL = "2026-04-01T00:00:00+02:00"


def days(customer: str, *times: str) -> list[dict[str, Any]]:
    return [event(f"{customer} {time}", customer, time) for time in times]


@pytest.fixture(scope="module")
def billed(module_site):
    site = module_site(SITE)
    once = event("1", "retry", "2026-03-10T12:00:00+01:00")
    copy = event("1", "boundary", "2026-03-31T23:59:59+02:00")
    made = [
        once,
        {**once, "timestamp": "2026-03-10T12:00:07+01:00", "ingested_at": "2026-09-02T00:00:00Z"},
        copy,
        {**copy, "timestamp": "2026-04-01T00:00:01+02:00", "ingested_at": "2026-09-02T00:00:00Z"},
        *days("midnight", "2026-03-01T00:00:00+01:00", "2026-03-31T23:59:59.999999+02:00", APRIL),
        event("1", "negative", "2026-03-10T12:00:00+01:00", -50),
        event("1", "gap", "2026-03-10T12:00:00+01:00", "10.5"),
        event("1", "level", "2026-03-01T00:00:00+01:00", 31, event_name="stored"),
        event("2", "level", "2026-03-31T00:00:00+02:00", -31, event_name="stored"),
        event("3", "level", "2026-04-16T00:00:00+02:00", 2, event_name="stored"),
        event("1", "tiers", "2026-03-10T12:00:00+01:00", 15),
        event("2", "tiers", "2026-04-10T12:00:00+02:00", 16),
        event("1", "included", "2026-03-10T12:00:00+01:00", 150),
        event("2", "included", "2026-04-10T12:00:00+02:00", 101),
        event("1", "rounding", "2026-03-10T12:00:00+01:00", 2),
        event("1", "credit", "2026-03-10T12:00:00+01:00", 20),
        event("2", "credit", "2026-04-10T12:00:00+02:00", 20),
        *(
            event(f"{day}", "thresholds", f"2026-03-{day}T12:00:00+01:00", 6)
            for day in (10, 11, 12)
        ),
        event("1", "discount", "2026-03-10T12:00:00+01:00", 20),
        *days(
            "last-day",
            "2026-02-27T23:59:00+01:00",
            "2026-02-28T00:00:00+01:00",
            "2026-03-30T23:59:00+02:00",
            "2026-03-31T00:00:00+02:00",
        ),
        *days(
            "week",
            "2026-03-08T12:00:00+01:00",  # Sunday, Monday and Tuesday: still the first week
            "2026-03-09T12:00:00+01:00",
            "2026-03-10T23:59:00+01:00",
            "2026-03-11T00:00:00+01:00",
        ),
    ]
    site.backfill(site.write("events.parquet", made))
    site.bills = site.bill("2026-05-01T00:00:00Z")
    return site


def totals(site, customer: str) -> list[str]:
    return [bill["total"] for bill in site.bills if bill["customer"] == customer]


def test_a_retry_with_another_timestamp_is_one_event(billed):
    assert totals(billed, "retry")[0] == "1.00"


def test_a_copy_across_a_period_boundary_is_billed_in_one_period_only(billed):
    assert totals(billed, "boundary") == ["1.00", "0.00"]


def test_a_level_is_billed_by_the_time_that_it_lasts_and_not_as_the_sum_of_its_changes(billed):
    # March lasts 743 hours: 31 units for 719 of them. In April there are 2 for its second half,
    # and nothing comes over of what was removed.
    assert totals(billed, "level") == ["30.00", "1.00"]
    found = billed.usage("period", "--customer", "level", "--meter", "stored")
    assert [row["value"] for row in found] == ["29.99865410498", "1"]
    hours = billed.usage(
        "hour", "--customer", "level", "--from", "2026-03-30T22:00:00Z", "--meter", "stored"
    )
    assert [(row["start"], row["value"]) for row in hours] == [
        ("2026-03-30T22:00:00Z", "0"),
        ("2026-04-15T22:00:00Z", "2"),
    ]


def test_tiers_do_not_restart_where_included_units_end(billed):
    # 15 used, 5 included: 10 units in the first tier, and not 5 of them in the second.
    assert totals(billed, "tiers") == ["10.00", "10.10"]


def test_included_units_are_there_again_in_each_period_and_once(billed):
    assert totals(billed, "included") == ["50.00", "1.00"]


def test_bills_at_thresholds_do_not_restart_the_tiers(billed):
    found = [bill for bill in billed.bills if bill["customer"] == "thresholds"][:2]
    assert [(bill["period_end"], bill["total"]) for bill in found] == [
        ("2026-03-10T12:00:00Z", "6.00"),
        ("2026-03-31T22:00:00Z", "4.80"),
    ]
    assert [line["quantity"] for bill in found for line in bill["lines"]] == ["6", "18"]
    # A day of billing within the period has the same first invoice.
    early = billed.bill("2026-03-11T00:00:00Z", "--customer", "thresholds")
    assert early == found[:1]
    # The same where the first one is final before the second is due.
    chosen = ("--customer", "thresholds", "--finalize")
    [first] = billed.bill("2026-03-11T00:00:00Z", *chosen)
    final = billed.bill("2026-04-01T00:00:00Z", *chosen)
    assert final[0] == first
    for bill, draft in zip(final, found, strict=True):
        assert bill["status"] == "finalized"
        assert (bill["invoice_id"], bill["lines"]) == (draft["invoice_id"], draft["lines"])


def test_a_line_is_rounded_once_and_not_tier_by_tier(billed):
    assert totals(billed, "rounding")[0] == "0.01"


def test_a_week_starts_where_the_subscription_does_in_code_as_in_sql(billed):
    assert totals(billed, "week")[:2] == ["3.00", "1.00"]
    usage = billed.usage("period", "--customer", "week", "--meter", "calls")
    assert [(row["start"], row["value"]) for row in usage] == [
        ("2026-03-03T23:00:00Z", "3"),
        ("2026-03-10T23:00:00Z", "1"),
    ]


def test_a_start_on_the_31st_bills_at_the_end_of_short_months_and_the_31st_again(billed):
    bills = [bill for bill in billed.bills if bill["customer"] == "last-day"]
    assert [(bill["period_end"], bill["total"]) for bill in bills] == [
        ("2026-02-27T23:00:00Z", "1.00"),
        ("2026-03-30T22:00:00Z", "2.00"),
        ("2026-04-29T22:00:00Z", "1.00"),
    ]


def test_calculating_again_debits_a_credit_once(billed):
    for _ in range(2):
        found = [
            bill for bill in billed.bill("2026-05-01T00:00:00Z") if bill["customer"] == "credit"
        ]
        assert [(bill["prepaid"], bill["due"]) for bill in found] == [
            ("20.00", "0.00"),
            ("10.00", "10.00"),
        ]
    (early,) = [
        bill for bill in billed.bill("2026-04-01T00:00:00Z") if bill["customer"] == "credit"
    ]
    assert early == found[0]


def test_a_flat_fee_is_billed_at_quantity_0(billed):
    assert totals(billed, "zero") == ["5.00", "5.00"]


def test_a_fraction_between_two_tiers_has_a_price(billed):
    assert totals(billed, "gap")[0] == "10.05"


def test_midnight_belongs_to_the_period_that_begins_and_to_no_other(billed):
    assert totals(billed, "midnight") == ["2.00", "1.00"]


def test_negative_usage_is_shown_and_earns_nothing(billed):
    (line,) = next(bill for bill in billed.bills if bill["customer"] == "negative")["lines"]
    assert (line["quantity"], line["amount"]) == ("-50", "0.00")


def test_discounts_above_the_subtotal_leave_0_and_no_credit(billed):
    found = next(bill for bill in billed.bills if bill["customer"] == "discount")
    sums = [found[name] for name in ("subtotal", "discount", "total", "due")]
    assert sums == ["20.00", "20.00", "0.00", "0.00"]
