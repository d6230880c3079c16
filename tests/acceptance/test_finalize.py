"""Invoices become final: numbers, the gate, credits, and what later runs make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.samples import COUNT, Row, catalog, event, plan, unit
from tests.acceptance.test_repair import stream
from tests.cli import Site

START = "2026-01-01T00:00:00Z"
AS_OF = "2026-03-01T00:00:00Z"
EVENTS = [
    event("e1", "acme", "2026-01-10T10:00:00Z"),
    event("e2", "acme", "2026-01-20T10:00:00Z"),
    event("e3", "acme", "2026-02-10T10:00:00Z"),
    event("e4", "globex", "2026-02-11T10:00:00Z"),
]
ISSUERS = [{"id": "eu", "legal_name": "Beam B.V.", "number_format": "EU-{year}-{number:03}"}]


def world(**more: Any) -> Row:
    """Two customers at 10.00 a month and 3.00 a call; acme has credits, a coupon and a tax."""
    made = catalog(
        {"acme": "UTC", "globex": "UTC"},
        subscriptions=(
            {"id": "s1", "customer": "acme", "plan": "p", "start": START, "coupons": ["c"]},
            {"id": "s2", "customer": "globex", "plan": "p", "start": START},
        ),
        plans=(plan("p", {"id": "base", "fee": "10.00"}, unit("calls", "calls", "3")),),
        meters=(COUNT,),
    )
    made["customers"][0] |= {"legal_name": "Acme GmbH", "tax": "vat", "payment_terms_days": 14}
    return {
        **made,
        "taxes": [{"id": "vat", "rate": 20}],
        "coupons": [{"id": "c", "percent": 50, "periods": 1}],
        "credits": [
            {"id": "g", "customer": "acme", "amount": "15.00", "currency": "EUR", "start": START}
        ],
        "issuers": ISSUERS,
        **more,
    }


@pytest.fixture(scope="module")
def settled(module_site: Callable[..., Site]) -> tuple[Site, list[Row]]:
    """A warehouse without a stream, all of it finalized."""
    site = module_site(world())
    site.backfill(site.write("a.jsonl", EVENTS))
    return site, finalize(site)


def finalize(site: Site, *more: object, as_of: str = AS_OF) -> list[Row]:
    options = ("--finalize", "--issue-date", "2026-03-02", "--actor", "ana")
    return site.bill(as_of, *options, *more)


def facts(invoices: list[Row]) -> list[tuple[Any, ...]]:
    keys = ("customer", "period_start", "status", "hold_reason", "number", "total", "due")
    return [tuple(invoice[key] for key in keys) for invoice in invoices]


JANUARY, FEBRUARY = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
SETTLED = [
    # 10 + 2 x 3 = 16, half off, 20 % tax: 9.60; then 15.60 of which 5.40 are paid by credit.
    ("acme", JANUARY, "finalized", None, "EU-2026-001", "9.60", "0.00"),
    ("acme", FEBRUARY, "finalized", None, "EU-2026-002", "15.60", "10.20"),
    ("globex", JANUARY, "finalized", None, "EU-2026-003", "10.00", "10.00"),
    ("globex", FEBRUARY, "finalized", None, "EU-2026-004", "13.00", "13.00"),
]


def test_what_is_settled_becomes_final_with_numbers_dates_and_parties(
    settled: tuple[Site, list[Row]],
) -> None:
    _, invoices = settled
    assert facts(invoices) == SETTLED
    first, *_ = invoices
    assert (first["issuer"], first["issue_date"], first["due_date"]) == (
        "eu",
        "2026-03-02",
        "2026-03-16",
    )
    assert first["seller"]["legal_name"] == "Beam B.V."
    assert first["buyer"]["legal_name"] == "Acme GmbH"


def test_every_later_run_shows_the_same_documents(settled: tuple[Site, list[Row]]) -> None:
    site, invoices = settled
    for options in (("--preview",), (), ("--finalize",)):
        assert site.bill(AS_OF, *options) == invoices
    assert site.bill(AS_OF, "--preview", "--customer", "globex") == invoices[2:]


def test_projections_hold_what_the_journal_holds(settled: tuple[Site, list[Row]]) -> None:
    site, invoices = settled
    headers, lines, ledger, audit = site.query(
        "SELECT invoice_id, status, number, toString(total) FROM {invoices} FINAL ORDER BY number",
        "SELECT count() FROM {invoice_lines} FINAL",
        "SELECT kind, account, toString(amount) FROM {credit_ledger} FINAL ORDER BY kind, amount",
        "SELECT seq, action, actor, object FROM {audit_log} FINAL ORDER BY seq",
    )
    assert headers == [
        [each["invoice_id"], "finalized", each["number"], each["total"].rstrip("0").rstrip(".")]
        for each in invoices
    ]
    assert lines == [[sum(len(each["lines"]) for each in invoices)]]
    ids = [f"invoice:{each['invoice_id']}" for each in invoices]
    assert ledger == [
        ["burn", "grant:g", "-9.6"],
        ["burn", "grant:g", "-5.4"],
        ["burn", ids[1], "5.4"],
        ["burn", ids[0], "9.6"],
        ["grant", "funding:paid", "-15"],
        ["grant", "grant:g", "15"],
    ]
    assert audit == [
        [seq, "finalize", "ana", each["invoice_id"]] for seq, each in enumerate(invoices, start=1)
    ]


def test_what_is_not_final_yet_goes_on_from_what_is(module_site: Callable[..., Site]) -> None:
    site = module_site(world())
    site.backfill(site.write("a.jsonl", EVENTS))
    assert facts(finalize(site, as_of=FEBRUARY))[0] == SETTLED[0]
    drafts = facts(site.bill(AS_OF))
    assert drafts[0] == SETTLED[0]
    assert drafts[1] == ("acme", FEBRUARY, "draft", None, None, "15.60", "10.20")
    # The fee rises: what is final stays, what is not follows.
    dearer = world(plans=[plan("p", {"id": "base", "fee": "20.00"}, unit("calls", "calls", "3"))])
    site.write_catalog(dearer)
    again = facts(finalize(site))
    assert again[0] == SETTLED[0]
    assert again[1] == ("acme", FEBRUARY, "finalized", None, "EU-2026-003", "27.60", "22.20")


# The gate


def test_a_late_event_holds_its_period_and_what_comes_after(
    new_site: Callable[..., Site],
) -> None:
    site = new_site(world())
    site.backfill(site.write("a.jsonl", EVENTS))
    stream(site, [event("late", "acme", "2026-01-15T10:00:00Z")])
    held = facts(finalize(site))
    assert [(each[0], each[2], each[3]) for each in held] == [
        ("acme", "held", "dirty"),
        ("acme", "held", "earlier_held"),
        ("globex", "finalized", None),
        ("globex", "finalized", None),
    ]
    assert site.run("repair").json["resolved"] == 1
    done = facts(finalize(site))
    assert [(each[2], each[4]) for each in done] == [
        ("finalized", "EU-2026-003"),
        ("finalized", "EU-2026-004"),
        ("finalized", "EU-2026-001"),
        ("finalized", "EU-2026-002"),
    ]


def test_what_the_stream_still_owns_is_held(new_site: Callable[..., Site]) -> None:
    site = new_site(world())
    site.backfill(site.write("a.jsonl", EVENTS))
    stream(site, [event("e1", "acme", "2026-01-10T10:00:00Z")], "2026-02-15T00:00:00Z")
    assert site.run("repair").json["resolved"] == 1
    reasons = [each[3] for each in facts(finalize(site))]
    assert reasons == [None, "usage_open", None, "usage_open"]


def test_usage_that_is_not_what_the_events_say_is_held_and_reconcile_shows_it(
    new_site: Callable[..., Site],
) -> None:
    site = new_site(world())
    site.backfill(site.write("a.jsonl", EVENTS))
    # A stream counted a second copy beyond its memory: the row says two, the events say one.
    forge(site, "globex", "2026-02-11 10:00:00", 2)
    assert [each[3] for each in facts(finalize(site))] == [None, None, None, "usage_differs"]
    accepted = finalize(site, "--accept-open", "contract ends today")
    assert [each[2] for each in facts(accepted)] == ["finalized"] * 4
    assert accepted[3]["total"] == "16.00"
    [audit] = site.query("SELECT action, reason FROM {audit_log} FINAL WHERE seq = 4")
    assert audit == [["finalize_open", "usage_differs: contract ends today"]]


def forge(site: Site, customer: str, bucket: str, events: int) -> None:
    """Store a usage row that no event explains."""
    site.query(
        "INSERT INTO {usage} (tenant_id, external_customer_id, meter, external_subscription_id, "
        "group_key, bucket_start, bucket_end, sum, min, max, latest_value, latest_at, latest_id, "
        "events, revision, meter_hash, updated_at) "
        "SELECT tenant_id, external_customer_id, meter, external_subscription_id, group_key, "
        "bucket_start, bucket_end, sum, min, max, latest_value, latest_at, latest_id, "
        f"{events}, revision + 1, meter_hash, updated_at FROM {{usage}} FINAL "
        f"WHERE external_customer_id = '{customer}' AND bucket_start = '{bucket}'"
    )


# Wrong usage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--finalize", "--preview"), "--preview and --finalize must not be given together"),
        (("--accept-open", "x"), "--accept-open must be given with --finalize alone"),
        (("--issue-date", "2026-01-01"), "--issue-date must be given with --finalize alone"),
        (("--finalize", "--issue-date", "soon"), "must be a date such as 2026-11-01 (got 'soon')"),
        (
            ("--finalize", "--issue-date", "2026-03-01"),
            "--issue-date must not be before 2026-03-02, on which issuer eu has issued the last "
            "document (got 2026-03-01)",
        ),
        (("--finalize", "--journal", "mysql://x"), "journal URL must be sqlite:///absolute/path"),
        (
            ("--journal", "sqlite:///tmp/no-such-folder-of-beammeter/j"),
            "--journal must name the journal of the invoices that were finalized",
        ),
    ],
)
def test_wrong_options_write_nothing(
    settled: tuple[Site, list[Row]], options: tuple[str, ...], message: str
) -> None:
    result = settled[0].run("bill", "--as-of", "2026-05-01T00:00:00Z", *options)
    assert (result.code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(("as_of", "told"), [("2999-01-01T00:00:00Z", True), (AS_OF, False)])
def test_to_finalize_ahead_of_time_is_told(
    module_site: Callable[..., Site], as_of: str, told: bool
) -> None:
    ended = {"id": "s1", "customer": "acme", "plan": "p", "start": START, "end": AS_OF}
    result = module_site(world(subscriptions=[ended])).run("bill", "--as-of", as_of, "--finalize")
    assert result.code == 0
    assert ("--as-of is in the future" in result.stderr) == told


def test_another_journal_than_the_warehouses_is_refused(
    settled: tuple[Site, list[Row]],
) -> None:
    site, _ = settled
    other = site.folder / "other.sqlite3"
    result = site.run("bill", "--as-of", AS_OF, "--finalize", "--journal", f"sqlite://{other}")
    assert result.code == 2
    assert "journal must be the one that the invoices of warehouse" in result.stderr
