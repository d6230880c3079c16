"""Bills: amounts by hand and by the oracle, ids that stay, sums that add up."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest

from tests.acceptance.samples import catalog, event, plan, subscription, unit
from tests.cli import run
from tests.oracle import Oracle
from tests.oracle_bills import Bills
from tests.oracle_times import instant

AS_OF = "2026-06-30T22:00:00Z"
TIERS = [
    {"up_to": "10", "unit_amount": "0.105", "flat_amount": "1"},
    {"up_to": "100.5", "unit_amount": "0.07"},
    {"unit_amount": "0.033", "flat_amount": "2.5"},
]


def priced(key, meter, **price):
    more = {name: price.pop(name) for name in ("included", "minimum", "maximum") if name in price}
    return {"id": key, "meter": meter, "price": price, **more}


PLANS = (
    plan(
        "all",
        {"id": "base", "fee": "49.00", "when": "advance"},
        {"id": "support", "fee": "10", "when": "arrears"},
        priced("flat", "n", model="flat", amount="7"),
        priced("unit", "sum", model="unit", unit_amount="0.0035", included="12.5"),
        priced("package", "n", model="package", amount="5", size="7", free_units="3"),
        priced("graduated", "sum", model="graduated", tiers=TIERS),
        priced("volume", "sum", model="volume", tiers=TIERS, included="1"),
        priced("percentage", "sum", model="percentage", rate="2.9", fixed_amount="0.30"),
        priced("percent-free", "sum", model="percentage", rate="1.25", free_units="20"),
        priced("peak", "max", model="unit", unit_amount="0.5"),
        priced("users", "uniq", model="unit", unit_amount="1.005", minimum="5", maximum="6.01"),
        priced("mean", "avg", model="unit", unit_amount="1"),
        priced("level", "last", model="unit", unit_amount="0.125"),
    ),
    plan("jpy", priced("u", "sum", model="unit", unit_amount="0.5"), currency="JPY"),
    plan("kwd", priced("u", "sum", model="unit", unit_amount="0.0005"), currency="KWD"),
    plan("weekly", priced("n", "n", model="unit", unit_amount="1"), period="week"),
    plan("quarterly", priced("n", "n", model="unit", unit_amount="1"), period="quarter"),
)
CATALOG = catalog(
    {"berlin": "Europe/Berlin", "nepal": "Asia/Kathmandu", "idle": "UTC", "gone": "Europe/Berlin"}
    | dict.fromkeys(("jpy", "kwd", "weekly", "quarterly", "free"), "America/New_York"),
    plans=PLANS,
    subscriptions=(
        subscription("s-berlin", "berlin", "all", "2026-01-31T10:30:00Z"),
        subscription("s-nepal", "nepal", "all", "2026-02-28T18:15:00Z"),
        subscription("s-idle", "idle", "all", "2026-04-15T00:00:00Z"),
        subscription("s-gone", "gone", "all", "2026-02-28T23:00:00Z", "2026-04-19T22:00:00Z"),
        subscription("s-jpy", "jpy", "jpy", "2026-03-01T05:00:00Z"),
        subscription("s-kwd", "kwd", "kwd", "2026-03-01T05:00:00Z"),
        subscription("s-weekly", "weekly", "weekly", "2026-03-01T05:00:00Z"),
        subscription("s-quarterly", "quarterly", "quarterly", "2026-01-31T05:00:00Z"),
    ),
    meters=(
        {"id": "n", "event_name": "call", "aggregation": "count", "group_by": ["g"]},
        {
            "id": "sum",
            "event_name": "call",
            "aggregation": "sum",
            "property": "v",
            "group_by": ["g"],
        },
        {
            "id": "max",
            "event_name": "call",
            "aggregation": "max",
            "property": "v",
            "group_by": ["g"],
        },
        {"id": "uniq", "event_name": "call", "aggregation": "unique_count", "property": "u"},
        {"id": "avg", "event_name": "call", "aggregation": "avg", "property": "v"},
        {"id": "last", "event_name": "call", "aggregation": "latest", "property": "v"},
    ),
)


def events():
    r = random.Random(3)
    names = ["berlin", "nepal", "gone", "jpy", "kwd", "weekly", "quarterly", "free"]
    for number in range(600):
        date = f"2026-{r.randint(2, 6):02}-{r.randint(1, 28):02}"
        made = event(f"{number}", r.choice(names), f"{date}T{r.randint(0, 23):02}:30:00Z")
        value = Decimal(r.randint(0, 3000)).scaleb(-r.randint(0, 3))
        made["properties"] = {"v": value, "u": r.randint(0, 9), "g": r.choice("xy")}
        yield made


@pytest.fixture(scope="module")
def billed(module_site):
    site = module_site(CATALOG)
    made = list(events())
    site.backfill(site.write("events.parquet", made))
    site.preview = site.bill(AS_OF, "--preview")
    counts = (
        "SELECT count() FROM {invoices} FINAL",
        "SELECT count(), uniqExact(line_id) FROM {invoice_lines} FINAL",
    )
    site.after_preview = site.query(*counts)
    site.draft = site.bill(AS_OF)
    site.rows = site.query(*counts)
    site.again = site.bill(AS_OF)
    site.rows_again = site.query(*counts)
    site.oracle = Bills(Oracle(CATALOG, made))
    return site


def by_period(bills):
    return {(b["subscription"], b["period_start"], b["period_end"]): b for b in bills}


def amounts(bill, *without):
    return {
        line["charge"]: line["amount"] for line in bill["lines"] if line["charge"] not in without
    }


def test_every_period_that_ended_is_billed_and_no_other(billed):
    # An invoice that only holds a fee in advance stands at the start: told apart by its lines.
    def metered(bills):
        return {key for key, b in by_period(bills).items() if any(x["meter"] for x in b["lines"])}

    assert metered(billed.preview) == metered(billed.oracle.bill(instant(AS_OF)))


def test_amounts_are_what_the_oracle_says(billed):
    bills = by_period(billed.preview)
    for key, expected in by_period(billed.oracle.bill(instant(AS_OF))).items():
        if key[1] != key[2]:
            assert amounts(bills[key]) == amounts(expected), key
            assert bills[key]["total"] == expected["total"], key
            assert bills[key]["customer"] == expected["customer"]
            assert bills[key]["currency"] == expected["currency"]


def test_quantities_are_the_usage_of_the_period(billed):
    bills = by_period(billed.preview)
    included = {"unit", "volume"}  # the contract does not say which side of `included` is shown
    for key, expected in by_period(billed.oracle.bill(instant(AS_OF))).items():
        if key[1] != key[2]:
            got = {x["charge"]: x["quantity"] for x in bills[key]["lines"] if x["meter"]}
            due = {x["charge"]: x["quantity"] for x in expected["lines"] if x["meter"]}
            assert {k: v for k, v in got.items() if k not in included} == {
                k: v for k, v in due.items() if k not in included
            }, key


def test_a_fee_in_advance_is_billed_where_its_period_starts(billed):
    def fees(bills, service):
        return Counter(
            (b["subscription"], *service(line), line["amount"])
            for b in bills
            for line in b["lines"]
            if line["charge"] == "base"
        )

    expected = fees(billed.oracle.bill(instant(AS_OF)), lambda line: line["service"])
    got = fees(billed.preview, lambda line: (line["service_start"], line["service_end"]))
    assert got == expected
    assert got["s-idle", "2026-04-15T00:00:00Z", "2026-05-15T00:00:00Z", "49.00"] == 1


def test_a_period_without_usage_is_billed_with_quantity_0(billed):
    (bill,) = [
        b
        for b in billed.preview
        if (b["subscription"], b["period_start"]) == ("s-idle", "2026-04-15T00:00:00Z")
        and b["period_end"] == "2026-05-15T00:00:00Z"
    ]
    usage = {x["charge"]: (x["quantity"], x["amount"]) for x in bill["lines"] if x["meter"]}
    assert usage == {
        "flat": ("0", "7.00"),
        "unit": ("0", "0.00"),
        "package": ("0", "0.00"),
        "graduated": ("0", "1.00"),
        "volume": ("0", "1.00"),
        "percentage": ("0", "0.00"),
        "percent-free": ("0", "0.00"),
        "peak": ("0", "0.00"),
        "users": ("0", "5.00"),
        "mean": ("0", "0.00"),
        "level": ("0", "0.00"),
    }
    assert bill["total"] == "73.00"  # 7 + 1 + 1 + 5, support 10, the next base 49


def test_lines_sum_to_the_total_to_the_last_unit(billed):
    for bill in billed.preview:
        lines = [Decimal(line["amount"]) for line in bill["lines"]]
        assert sum(lines) == Decimal(bill["subtotal"])
        parts = [Decimal(bill[name]) for name in ("subtotal", "discount", "credit", "tax")]
        assert parts[0] - parts[1] - parts[2] + parts[3] == Decimal(bill["total"])


def test_amounts_have_exactly_the_decimals_of_the_currency(billed):
    decimals = {"EUR": 2, "JPY": 0, "KWD": 3}
    seen = set()
    for bill in billed.preview:
        seen.add(bill["currency"])
        for amount in [bill["total"], bill["tax"], *(line["amount"] for line in bill["lines"])]:
            _, _, places = amount.partition(".")
            assert len(places) == decimals[bill["currency"]], bill
    assert seen == set(decimals)


def test_a_preview_writes_nothing_and_has_the_ids_of_the_draft(billed):
    assert billed.after_preview == [[[0]], [[0, 0]]]
    assert {b["status"] for b in billed.preview} == {"preview"}
    assert {b["status"] for b in billed.draft} == {"draft"}

    def content(bills):
        names = ("invoice_id", "subscription", "period_start", "total")
        return sorted(tuple(b[name] for name in names) for b in bills)

    assert content(billed.preview) == content(billed.draft)


def test_ids_are_unique(billed):
    ids = [b["invoice_id"] for b in billed.draft]
    assert len(set(ids)) == len(ids) > 0


def test_billing_twice_gives_the_same_ids_and_rows(billed):
    assert billed.again == billed.draft
    assert billed.rows_again == billed.rows
    lines = sum(len(b["lines"]) for b in billed.draft)
    assert billed.rows == [[[len(billed.draft)]], [[lines, lines]]]


def test_a_period_is_billed_from_the_instant_of_its_end(billed):
    before = billed.bill("2026-04-01T03:59:59.999999Z", "--preview", "--customer", "jpy")
    assert before == []
    at = billed.bill("2026-04-01T04:00:00Z", "--preview", "--customer", "jpy")
    # A bill of one customer is that part of the whole.
    first = ("jpy", "2026-04-01T04:00:00Z")
    assert at == [b for b in billed.preview if (b["customer"], b["period_end"]) == first]
    assert len(at) == 1


def test_the_bill_is_the_usage_that_is_printed(billed):
    usage = {
        (row["subscription"], row["meter"], row["start"]): row["value"]
        for row in billed.usage("period")
        if row["subscription"] and row["meter"] in ("uniq", "avg", "last")
    }
    charges = {"users": "uniq", "mean": "avg", "level": "last"}
    checked = 0
    for bill in billed.preview:
        for line in bill["lines"]:
            if line["charge"] in charges and line["quantity"] != "0":
                key = (bill["subscription"], charges[line["charge"]], bill["period_start"])
                assert usage[key] == line["quantity"]
                checked += 1
    assert checked > 10


def quote(site, plan_id, **quantities):
    words = [word for name, value in quantities.items() for word in ("--usage", f"{name}={value}")]
    catalog_path = site.folder / "catalog.yaml"
    return run(
        "quote", "--catalog", catalog_path, "--plan", plan_id, *words, "--format", "json"
    ).json


HALVES = [
    ("jpy", "1", "1"),
    ("jpy", "2.999999999999", "1"),
    ("kwd", "3", "0.002"),
    ("kwd", "0.999999999999", "0.000"),
]


@pytest.mark.parametrize(("plan_id", "quantity", "amount"), HALVES)
def test_half_a_minor_unit_is_rounded_away_from_zero(billed, plan_id, quantity, amount):
    assert quote(billed, plan_id, sum=quantity)["total"] == amount


@pytest.mark.parametrize("quantity", ["0", "10", "10.000000000001", "100.5", "100.6", "123456789"])
def test_a_quote_is_what_the_oracle_says(billed, quantity):
    quantities = {"sum": quantity, "n": "10", "max": "3", "uniq": "6"}
    got = quote(billed, "all", **quantities)
    expected = billed.oracle.quote("all", {k: Fraction(v) for k, v in quantities.items()})
    without = ("percentage",)  # its fixed amount is by event, and a quote has a quantity only
    assert amounts(got, *without) == amounts(expected, *without)
    assert (got["customer"], got["subscription"], got["tax"]) == (None, None, "0.00")


def test_a_quote_equals_the_bill_for_the_same_quantities(billed):
    bills = [b for b in billed.preview if b["subscription"] == "s-berlin"]
    bill = [b for b in bills if any(x["meter"] for x in b["lines"])][1]
    meters = {c["id"]: c["meter"] for c in PLANS[0]["charges"] if "meter" in c}
    gross = {"graduated", "package", "peak", "users", "mean", "level"}
    quantities = {meters[x["charge"]]: x["quantity"] for x in bill["lines"] if x["charge"] in gross}
    got = quote(billed, "all", **quantities)
    assert amounts(got, "percentage") == amounts(bill, "percentage")


def test_a_draft_follows_its_usage_under_the_same_id(new_site):
    site = new_site(
        catalog(
            {"c": "UTC"},
            plans=(plan("p", unit("calls", "calls")),),
            subscriptions=(subscription("s", "c", "p", "2026-03-01T00:00:00Z"),),
        )
    )
    drafts = []
    for number in "12":
        site.backfill(site.write(f"{number}.csv", [event(number, "c", "2026-03-02T00:00:00Z")]))
        drafts += site.bill("2026-04-01T00:00:00Z")
    assert [draft["total"] for draft in drafts] == ["1.00", "2.00"]
    assert drafts[0]["invoice_id"] == drafts[1]["invoice_id"]
    invoices, lines = site.query(
        "SELECT invoice_id, toString(total) FROM {invoices} FINAL",
        "SELECT invoice_id, toString(sum(amount)) FROM {invoice_lines} FINAL GROUP BY ALL",
    )
    assert [(key, Decimal(total)) for key, total in invoices] == [
        (drafts[0]["invoice_id"], Decimal("2.00"))
    ]
    assert lines == invoices


def test_nothing_to_bill_is_an_empty_list(new_site):
    site = new_site(catalog({"c": "UTC"}, meters=()))
    assert site.bill(AS_OF) == []


def test_usage_without_a_subscription_is_not_billed(billed):
    assert {row["customer"] for row in billed.usage("period", "--meter", "n")} >= {"free"}
    assert "free" not in {b["customer"] for b in billed.preview}
