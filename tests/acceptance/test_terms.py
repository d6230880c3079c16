"""Coupons and taxes, from the catalog to invoices."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.acceptance.samples import catalog, event, plan, subscription, unit

MONTHS = ("2026-04-01", "2026-05-01", "2026-06-01", "2026-07-01")


def site_of(new_site, **terms):
    made = catalog(
        {"c": "UTC"},
        plans=(
            plan(
                "p",
                unit("calls", "calls", "10"),
                unit("tokens", "tokens", "0.333", tax="reduced"),
            ),
        ),
        subscriptions=(subscription("s", "c", "p", "2026-03-01T00:00:00Z"),),
    )
    made["taxes"] = [{"id": "full", "rate": 19}, {"id": "reduced", "rate": 7}]
    made["customers"][0]["tax"] = "full"
    made["coupons"] = [
        {"id": "first", "percent": "50", "charges": ["calls"], "periods": 2},
        {"id": "five", "amount": "5.00", "currency": "EUR", "start": "2026-05-01T00:00:00Z"},
    ]
    made["subscriptions"][0]["coupons"] = ["five", "first"]
    site = new_site(made | terms)
    events = [event(f"{day}", "c", f"{day[:8]}02T00:00:00Z", 10) for day in MONTHS]
    events.append(event("march", "c", "2026-03-02T00:00:00Z", 10))
    site.backfill(site.write("events.csv", events))
    return site


def test_coupons_come_off_in_their_months_and_tax_is_of_what_is_left(new_site):
    site = site_of(new_site)
    bills = site.bill("2026-07-01T00:00:00Z")
    sums = [tuple(b[n] for n in ("subtotal", "discount", "tax", "total")) for b in bills]
    assert sums == [
        ("13.33", "5.00", "1.18", "9.51"),  # 5.00 at 19, 3.33 at 7: 0.95 + 0.23
        # half of 10.00; then 5.00 over 5.00 and 3.33: 2.00 at 19 and 1.33 at 7 are left
        ("13.33", "10.00", "0.47", "3.80"),
        ("13.33", "5.00", "1.34", "9.67"),  # 6.25 at 19 and 2.08 at 7: 1.19 + 0.15
        ("13.33", "5.00", "1.34", "9.67"),
    ]
    for bill in bills:
        for name in ("discount", "tax"):
            assert sum(Decimal(x[name]) for x in bill["lines"]) == Decimal(bill[name])
    assert [(x["tax_code"], x["tax_rate"]) for x in bills[0]["lines"]] == [
        ("full", "19"),
        ("reduced", "7"),
    ]
    assert site.bill("2026-07-01T00:00:00Z") == bills


def test_each_part_of_a_period_is_billed_by_the_plan_it_is_on(new_site):
    made = catalog(
        {"c": "Europe/Berlin"},
        plans=(
            plan("p", {"id": "base", "fee": "31", "when": "advance"}, unit("calls", "calls", "1")),
            plan(
                "q", {"id": "base", "fee": "62", "when": "advance"}, unit("tokens", "tokens", "2")
            ),
        ),
        subscriptions=(subscription("s", "c", "p", "2026-05-01T00:00:00+02:00"),),
    )
    change = {"from": "2026-05-17T00:00:00+02:00", "plan": "q"}
    made["subscriptions"][0]["changes"] = [change]
    site = new_site(made)
    times = ["2026-05-02T00:00:00Z", "2026-05-16T21:59:59.999999Z", "2026-05-16T22:00:00Z"]
    site.backfill(site.write("e.csv", [event(at, "c", at, 5) for at in times]))
    start, end = site.bill("2026-05-31T22:00:00Z")
    assert (start["total"], len(start["lines"])) == ("31.00", 1)
    lines = [(x["charge"], x["quantity"], x["amount"], x["service_start"]) for x in end["lines"]]
    assert lines == [
        ("calls", "2", "2.00", "2026-04-30T22:00:00Z"),
        ("tokens", "5", "10.00", "2026-05-16T22:00:00Z"),
        ("base", "-1", "-15.00", "2026-05-16T22:00:00Z"),
        ("base", "1", "30.00", "2026-05-16T22:00:00Z"),
        ("base", "1", "62.00", "2026-05-31T22:00:00Z"),
    ]
    assert end["total"] == "89.00"
    usage = site.usage("period")
    assert {row["meter"]: row["value"] for row in usage if row["subscription"]} == {
        "calls": "2",
        "tokens": "5",
    }


def test_credits_burn_from_invoice_to_invoice_and_a_second_run_burns_nothing_more(new_site):
    credits = [
        {"id": "paid", "amount": "12.00", "start": "2026-01-01T00:00:00Z"},
        {"id": "gift", "amount": "4.00", "start": "2026-04-15T00:00:00Z", "kind": "promotional"},
    ]
    grants = [{"customer": "c", "currency": "EUR", **each} for each in credits]
    only = subscription("s", "c", "p", "2026-03-01T00:00:00Z")
    site = site_of(new_site, credits=grants, subscriptions=[only])
    bills = site.bill("2026-07-01T00:00:00Z")
    # 10.00 at 19 and 3.33 at 7: 1.90 + 0.23 of tax
    sums = [tuple(b[n] for n in ("subtotal", "credit", "tax", "prepaid", "due")) for b in bills]
    assert sums == [
        ("13.33", "0.00", "2.13", "12.00", "3.46"),
        ("13.33", "4.00", "1.49", "0.00", "10.82"),  # 7.00 at 19 and 2.33 at 7
        ("13.33", "0.00", "2.13", "0.00", "15.46"),
        ("13.33", "0.00", "2.13", "0.00", "15.46"),
    ]
    assert site.bill("2026-07-01T00:00:00Z") == bills
    assert site.bill("2026-05-01T00:00:00Z", "--preview") == [
        {**bill, "status": "preview"} for bill in bills[:2]
    ]


@pytest.mark.parametrize(
    ("coupon", "message"),
    [
        (
            {"percent": 5, "start": "2026-05-01T00:00:00Z", "end": "2026-05-01T00:00:00Z"},
            "coupons[0].end: must be after the start, 2026-05-01T00:00:00Z (got 2026-05-01",
        ),
        ({"percent": 5, "amount": 5}, "coupons[0].percent: must have either percent or amount"),
        ({"amount": 5}, "coupons[0].currency: must be given"),
        (
            {"amount": 5, "currency": "USD"},
            "subscriptions[0].coupons[0]: must be a coupon in the currency of plan p, EUR (got "
            "'five' in USD)",
        ),
        ({"percent": 5, "charges": ["x"]}, "charges[0]: must be the id of a charge of one of the"),
        ({"percent": 5, "plans": ["x"]}, "plans[0]: must be the id of one of the plans (got 'x')"),
    ],
)
def test_a_coupon_that_can_never_apply_is_refused_with_its_place(new_site, coupon, message):
    made = catalog(
        {"c": "UTC"},
        plans=(plan("p", unit("calls", "calls")),),
        subscriptions=(subscription("s", "c", "p", "2026-03-01T00:00:00Z"),),
    )
    made["coupons"] = [{"id": "five", **coupon}]
    made["subscriptions"][0]["coupons"] = ["five"]
    site = new_site(made)
    result = site.run("bill", "--as-of", "2026-07-01T00:00:00Z")
    assert result.code == 2
    assert message in result.stderr
    assert f"{site.folder / 'catalog.yaml'}:" in result.stderr
    assert not site.warehouse.exists()
