"""Plans in time: versions, changes within a period, overrides, seats and trials."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.customer import bill_customer, due_slots
from billing.invoice import Invoice
from billing.money import round_amount
from billing.quantities import UsageOf
from meters.attribution import Attribution
from meters.catalog import Catalog
from meters.errors import CatalogError
from meters.timestamps import format_instant
from tests.billing.documents import used
from tests.billing.given import instant
from tests.meters.catalog_texts import load

START = "2026-11-01T00:00:00Z"
MID = "2026-11-16T00:00:00Z"
CALLS: dict[str, Any] = {
    "id": "calls",
    "meter": "m",
    "included": 10,
    "price": {"model": "unit", "unit_amount": "1"},
}


def advance(fee: object, **more: Any) -> dict[str, Any]:
    return {"id": "seat", "fee": fee, "when": "advance", **more}


def catalog(plans: dict[str, Any], **subscription: Any) -> Catalog:
    """One subscription on `a`; a plan is its charges, or a whole plan."""
    return Catalog.model_validate(
        {
            "meters": [{"id": "m", "event_name": "e", "aggregation": "count"}],
            "customers": [{"id": "acme"}],
            "plans": [
                {"id": name, "currency": "EUR", "charges": plan}
                if isinstance(plan, list)
                else {"id": name, "currency": "EUR", **plan}
                for name, plan in plans.items()
            ],
            "subscriptions": [
                {"id": "s", "customer": "acme", "plan": "a", "start": START, **subscription}
            ],
        }
    )


def bills(given: Catalog, as_of: str = "2027-01-01T00:00:00Z", usage: str = "0") -> list[Invoice]:
    slots = due_slots(given, "s", instant(as_of))
    return list(
        bill_customer(given, [(slot, [{"m": used(usage)} for _ in slot.cuts]) for slot in slots])
    )


def shown(invoice: Invoice) -> list[tuple[str, Decimal | Fraction, str]]:
    return [(line.charge, line.quantity, str(line.amount)) for line in invoice.lines]


# Versions and overrides.


VERSIONED = {
    "versions": [
        {"version": "v1", "from": "2026-01-01T00:00:00Z", "charges": [advance("10")]},
        {"version": "v2", "from": "2026-12-15T00:00:00Z", "charges": [advance("12")]},
    ]
}


def test_a_period_has_the_version_in_force_when_it_begins() -> None:
    found = bills(catalog({"a": VERSIONED}))
    lines = [line for invoice in found for line in invoice.lines]
    assert [(line.amount, line.plan_version) for line in lines] == [
        (10, "v1"),
        (10, "v1"),  # December begins before the new version
        (12, "v2"),
    ]


def test_a_pinned_version_stays() -> None:
    found = bills(catalog({"a": VERSIONED}, pin_version="v1"))
    assert [invoice.total for invoice in found] == [10, 10, 10]


def test_an_override_takes_the_place_of_keys_of_a_charge() -> None:
    given = catalog(
        {"a": [advance("49"), CALLS]},
        overrides={"seat": {"fee": "39"}, "calls": {"included": 0}},
    )
    assert [str(invoice.total) for invoice in bills(given, usage="12")] == [
        "39.00",
        "51.00",
        "51.00",
    ]


# Changes of plan.


def test_an_upgrade_gives_back_the_rest_of_the_old_fee_and_adds_the_new_one() -> None:
    given = catalog(
        {"a": [advance("30")], "b": [advance("90")]}, changes=[{"from": MID, "plan": "b"}]
    )
    first, second, third = bills(given)
    assert shown(first) == [("seat", 1, "30.00")]
    assert shown(second) == [
        ("seat", -1, "-15.00"),
        ("seat", 1, "45.00"),
        ("seat", 1, "90.00"),
    ]
    assert [line.description for line in second.lines] == [
        "seat: 30.00, given back, prorated 1/2",
        "seat: 90.00, added, prorated 1/2",
        "seat: 90.00",
    ]
    assert len({line.line_id for line in second.lines}) == 3
    assert shown(third) == [("seat", 1, "90.00")]


def test_a_downgrade_may_leave_a_negative_total_and_no_coupon_makes_it_more_so() -> None:
    given = catalog({"a": [advance("90")], "b": []}, changes=[{"from": MID, "plan": "b"}])
    found = bills(given)
    assert [str(invoice.total) for invoice in found] == ["90.00", "-45.00"]


def test_each_part_of_a_period_is_rated_by_its_own_plan() -> None:
    dear = {**CALLS, "price": {"model": "unit", "unit_amount": "2"}}
    arrears = {"id": "fee", "fee": "30"}
    given = catalog(
        {"a": [arrears, CALLS], "b": [arrears, dear]}, changes=[{"from": MID, "plan": "b"}]
    )
    (first, _) = bills(given, usage="12")
    # included 10, half of it in each part: 7 x 1.00 and 7 x 2.00
    assert shown(first) == [
        ("fee", 1, "15.00"),
        ("calls", 12, "7.00"),
        ("fee", 1, "15.00"),
        ("calls", 12, "14.00"),
    ]
    spans = [(line.service_start, line.service_end) for line in first.lines[1::2]]
    assert spans == [
        (instant(START), instant(MID)),
        (instant(MID), instant("2026-12-01T00:00Z")),
    ]


def test_a_fee_without_proration_follows_a_change_from_the_next_period() -> None:
    whole = {"proration": "none"}
    given = catalog(
        {
            "a": [advance("30", **whole), {"id": "late", "fee": "5", **whole}],
            "b": [advance("90", **whole), {"id": "late", "fee": "7", **whole}],
        },
        changes=[{"from": MID, "plan": "b"}],
    )
    assert [str(invoice.total) for invoice in bills(given)] == ["30.00", "95.00", "97.00"]


def test_events_go_to_a_subscription_while_its_plan_charges_their_meter() -> None:
    given = catalog({"a": [], "b": [CALLS]}, changes=[{"from": MID, "plan": "b"}])
    owner = Attribution(given).subscription_for
    assert owner("acme", "m", instant("2026-11-15T23:59:59Z"), None) is None
    assert owner("acme", "m", instant(MID), None) == "s"


# Seats.


def test_seats_are_units_of_a_fee() -> None:
    given = catalog(
        {"a": [advance("10"), {"id": "late", "fee": "2"}]},
        quantities=[
            {"charge": "seat", "from": START, "quantity": 5},
            {"charge": "late", "from": START, "quantity": "1.5"},
        ],
    )
    first, second, *_ = bills(given)
    assert shown(first) == [("seat", 5, "50.00")]
    assert shown(second) == [("late", Decimal("1.5"), "3.00"), ("seat", 5, "50.00")]
    assert second.lines[1].description == "seat: 5 at 10.00"


def test_seats_that_change_within_a_period_are_added_or_given_back_for_the_rest_of_it() -> None:
    given = catalog(
        {"a": [advance("10"), {"id": "late", "fee": "2"}]},
        quantities=[
            {"charge": "seat", "from": START, "quantity": 5},
            {"charge": "seat", "from": MID, "quantity": 8},
            {"charge": "seat", "from": "2026-11-28T00:00:00Z", "quantity": 6},
            {"charge": "late", "from": MID, "quantity": 3},
        ],
    )
    second = bills(given)[1]
    assert shown(second) == [
        ("late", 1, "1.00"),
        ("late", 3, "3.00"),
        ("seat", 3, "15.00"),
        ("seat", -2, "-2.00"),
        ("seat", 6, "60.00"),
    ]
    assert second.lines[3].description == "seat: 2 at 10.00, given back, prorated 1/10"


def test_a_change_of_plan_keeps_seats_whose_fee_stays() -> None:
    given = catalog(
        {"a": [advance("10")], "b": [advance("10"), CALLS]},
        changes=[{"from": MID, "plan": "b"}],
        quantities=[{"charge": "seat", "from": MID, "quantity": 3}],
    )
    second = bills(given)[1]
    assert [(each[0], each[1], each[2]) for each in shown(second)] == [
        ("calls", 0, "0.00"),
        ("seat", 2, "10.00"),
        ("seat", 3, "30.00"),
    ]


# Trials.


def test_nothing_before_the_end_of_a_trial_is_charged() -> None:
    given = catalog({"a": [advance("30"), {"id": "late", "fee": "60"}, CALLS]}, trial_end=MID)
    first, second = bills(given, usage="12")
    assert shown(first) == [
        ("calls", 12, "0.00"),
        ("late", 1, "30.00"),
        ("calls", 12, "7.00"),
        ("seat", 1, "15.00"),
        ("seat", 1, "30.00"),
    ]
    assert first.lines[0].description == "calls: 12 units, trial"
    assert shown(second) == [
        ("late", 1, "60.00"),
        ("calls", 12, "2.00"),
        ("seat", 1, "30.00"),
    ]


def test_a_trial_over_a_whole_period_has_an_invoice_of_nothing() -> None:
    given = catalog({"a": [advance("30"), CALLS]}, trial_end="2026-12-01T00:00:00Z")
    first, second = bills(given, usage="12")
    assert shown(first) == [("calls", 12, "0.00"), ("seat", 1, "30.00")]
    assert shown(second) == [("calls", 12, "2.00"), ("seat", 1, "30.00")]


# Commitments.


def committed(found: list[Invoice]) -> list[list[str]]:
    return [
        [
            f"{line.amount} {line.description}"
            for line in invoice.lines
            if line.charge == "commitment"
        ]
        for invoice in found
    ]


def test_what_is_missing_of_a_commitment_is_billed_at_the_end_of_its_period() -> None:
    plan = {"charges": [advance("30"), CALLS], "commitment": {"amount": 100}}
    found = bills(catalog({"a": plan}), usage="25")
    # The fee of November stood on the first invoice, and counts in November.
    assert committed(found) == [
        [],
        ["55.00 commitment: 100.00, used 45.00, true-up"],
        ["55.00 commitment: 100.00, used 45.00, true-up"],
    ]
    line = found[1].lines[-1]
    assert (line.service_start, line.service_end) == (instant(START), instant("2026-12-01T00:00Z"))
    assert committed(bills(catalog({"a": plan}), usage="80")) == [[], [], []]


def test_a_commitment_is_prorated_where_the_subscription_ends() -> None:
    plan = {"charges": [CALLS], "commitment": {"amount": 100}}
    (last,) = bills(catalog({"a": plan}, end=MID), usage="25")
    assert committed([last]) == [["30.00 commitment: 50.00, used 20.00, true-up"]]


def test_what_is_spent_beyond_a_commitment_costs_the_overage_factor() -> None:
    plan = {"charges": [CALLS], "commitment": {"amount": 100, "overage_factor": "1.5"}}
    first, _ = bills(catalog({"a": plan}), usage="150")
    assert shown(first) == [("calls", 150, "140.00"), ("commitment", 1, "20.00")]
    assert first.lines[1].description == "commitment: 40.00 above 100.00, times 1.5, overage"


def test_a_commitment_of_a_year_is_settled_over_its_monthly_invoices() -> None:
    commitment = {"amount": 1000, "period": "year", "overage_factor": 2}
    plan = {"charges": [advance("30"), CALLS], "commitment": commitment}
    less = bills(catalog({"a": plan}), as_of="2028-11-01T00:00:00Z", usage="20")
    assert [amounts for amounts in committed(less) if amounts] == [
        ["520.00 commitment: 1000.00, used 480.00, true-up"],
        ["520.00 commitment: 1000.00, used 480.00, true-up"],
    ]
    assert [index for index, amounts in enumerate(committed(less)) if amounts] == [12, 24]
    more = bills(catalog({"a": plan}), as_of="2027-11-01T00:00:00Z", usage="110")
    # 130.00 a month: 40.00 beyond after eight months, 130.00 more after each further one
    overage = [line.amount for i in more for line in i.lines if line.charge == "commitment"]
    assert overage == [40, 130, 130, 130, 130]
    assert sum(overage) == 12 * 130 - 1000


def test_a_subscription_may_have_a_commitment_of_its_own_and_none_in_its_trial() -> None:
    plan = {"charges": [CALLS], "commitment": {"amount": 100}}
    given = catalog({"a": plan}, commitment={"amount": 60}, trial_end=MID)
    first, second = bills(given, usage="25")
    # after the trial: half of 60.00, and 25 - 5 units
    assert committed([first, second]) == [
        ["10.00 commitment: 30.00, used 20.00, true-up"],
        ["45.00 commitment: 60.00, used 15.00, true-up"],
    ]


def test_a_plan_with_nothing_but_a_commitment_is_billed() -> None:
    plan = {"charges": [], "commitment": {"amount": 100, "id": "base"}}
    found = bills(catalog({"a": plan}))
    assert [(shown(each), str(each.total)) for each in found] == [
        ([("base", 1, "100.00")], "100.00")
    ] * 2


# Laws.


instants = st.integers(0, 60 * 24).map(
    lambda hours: format_instant(instant(START) + timedelta(hours=hours))
)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(instants.filter(lambda at: at > START), unique=True, max_size=4).map(sorted),
    st.lists(st.tuples(instants, st.integers(0, 9)), unique_by=lambda each: each[0], max_size=4),
    st.sampled_from(["advance", "arrears"]),
)
def test_changes_that_change_nothing_cost_nothing_and_parts_sum_to_the_whole(
    changes: list[str], seats: list[tuple[str, int]], when: str
) -> None:
    fee = {"id": "seat", "fee": "30", "when": when}
    quantities = [{"charge": "seat", "from": at, "quantity": n} for at, n in seats]
    plain = catalog({"a": [fee]}, quantities=quantities)
    changed = catalog(
        {"a": [fee], "b": [{**fee, "description": "the same"}]},
        quantities=quantities,
        changes=[{"from": at, "plan": "ba"[n % 2]} for n, at in enumerate(changes)],
    )

    def exact(given: Catalog) -> Fraction:
        found = bills(given, as_of="2027-02-01T00:00:00Z")
        return sum((line.amount_exact for each in found for line in each.lines), Fraction(0))

    assert exact(changed) == exact(plain)
    if not seats:
        assert exact(plain) == 30 * (4 if when == "advance" else 3)


# What does not fit.


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("pin_version: v9", "pin_version: must be a version of plan a: none (got 'v9')"),
        (
            "changes: [{from: 2026-11-16T00:30:00Z, plan: b}]",
            "changes[0].from: must be a full hour in the customer's time zone, since usage is kept "
            "by the hour (got 06:15:00 in Asia/Kathmandu)",
        ),
        (
            "changes: [{from: 2026-11-16T00:15:00Z, plan: usd}]",
            "changes[0].plan: must be a plan with the currency of plan a, EUR (got 'usd' with USD)",
        ),
        (
            "changes: [{from: 2026-11-16T00:15:00Z, plan: c}]",
            "changes[0].plan: must be the id of one of the plans (got 'c')",
        ),
        (
            "changes: [{from: 2026-10-16T00:15:00Z, plan: b}]",
            "changes[0].from: must lie after the start and before the end of the subscription",
        ),
        (
            "changes: [{from: 2026-11-16T00:15:00Z, plan: b}, {from: 2026-11-16T00:15:00Z, "
            "plan: a}]",
            "changes[1].from: must be after the one before it",
        ),
        ("trial_end: 2026-10-01T00:00:00Z", "trial_end: must be after the start"),
        (
            "quantities: [{charge: calls, from: 2026-11-16T00:15:00Z, quantity: 2}]",
            "quantities[0].charge: must be the id of a fee of its plans: seat (got 'calls')",
        ),
        (
            "quantities: [{charge: seat, form: 2026-11-16T00:15:00Z, from: 2026-11-16T00:15:00Z, "
            "quantity: 2}]",
            "quantities[0].form: unknown key; did you mean from?",
        ),
        (
            "overrides: {seats: {fee: 1}}",
            "overrides.seats: must be the id of a charge of its plans",
        ),
        (
            "overrides: {seat: {fee: -1}}",
            "overrides.seat.fee: must not be negative (got -1)",
        ),
        (
            "overrides: {calls: {price: {model: unit}}}",
            "overrides.calls.price.unit_amount: must be given",
        ),
        ("overrides: {calls: {meter: m}}", "overrides.calls.meter: must be left out"),
        (
            "commitment: {amount: 5, overage_factor: '0.5'}",
            "commitment.overage_factor: must be at least 1 (got 0.5)",
        ),
        (
            "commitment: {amount: 5, id: calls}",
            "commitment.id: must differ from the charges of plan a (got 'calls')",
        ),
        ("commitment: {amount: 5, tax: x}", "commitment.tax: must be the id of one of the taxes"),
        ("plan: old", "start: must not be before the first version of plan old, 2027-01-01T00:00"),
    ],
)
def test_what_does_not_fit_its_plans_is_refused(keys: str, message: str, tmp_path: Any) -> None:
    plan = "" if keys.startswith("plan:") else "plan: a, "
    with pytest.raises(CatalogError) as caught:
        load(
            tmp_path,
            f"""
            meters: [{{id: m, event_name: e, aggregation: count}}]
            customers: [{{id: acme, time_zone: Asia/Kathmandu}}]
            plans:
              - id: a
                currency: EUR
                charges:
                  - {{id: seat, fee: 1}}
                  - {{id: calls, meter: m, price: {{model: unit, unit_amount: 1}}}}
              - {{id: b, currency: EUR, charges: []}}
              - {{id: usd, currency: USD, charges: []}}
              - {{id: old, currency: EUR, versions: [{{version: v, from: 2027-01-01T00:00:00Z}}]}}
            subscriptions:
              - {{id: s, customer: acme, {plan}start: 2026-11-01T00:15:00Z, {keys}}}
            """,
        )
    assert any(f"subscriptions[0].{message}" in str(each) for each in caught.value.problems), (
        caught.value
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "versions: [{version: v, from: 2026-01-01T00:00:00Z, charges: [{id: x, fee: 1}, "
            "{id: x, fee: 2}]}]",
            "plans[0].versions[0].charges[1].id: must be unique in its plan (got 'x' again)",
        ),
        (
            "versions: [{version: v, from: 2026-01-02T00:00:00Z}, {version: w, from: "
            "2026-01-01T00:00:00Z}]",
            "plans[0].versions[1].from: must be after the one before it, 2026-01-02T00:00:00Z",
        ),
        (
            "versions: [{version: v, from: 2026-01-01T00:00:00Z}, {version: v, from: "
            "2026-01-02T00:00:00Z}]",
            "plans[0].versions[1].version: must be unique in its plan (got 'v' again)",
        ),
        (
            "charges: [{id: x, fee: 1}], versions: [{version: v, from: 2026-01-01T00:00:00Z}]",
            "plans[0].charges: must be left out beside versions",
        ),
    ],
)
def test_versions_are_distinct_and_rise(keys: str, message: str, tmp_path: Any) -> None:
    with pytest.raises(CatalogError, match=re.escape(message)):
        load(tmp_path, f"plans: [{{id: a, currency: EUR, {keys}}}]")


@pytest.mark.parametrize(
    ("mode", "share"),
    [("day", Fraction(10, 31)), ("second", Fraction(21, 62)), ("none", Fraction(1))],
)
def test_each_mode_prorates_fees_included_units_bounds_and_commitments(
    mode: str, share: Fraction
) -> None:
    """A month of 31 days that ends after ten days and a half."""
    unit = {"model": "unit", "unit_amount": "1"}
    charges: list[dict[str, Any]] = [
        {"id": "fee", "fee": "31"},
        {"id": "included", "meter": "m", "included": 310, "price": unit},
        {"id": "minimum", "meter": "m", "minimum": 6200, "price": unit},
        {"id": "maximum", "meter": "m", "maximum": 155, "price": unit},
    ]
    given = Catalog.model_validate(
        {
            "meters": [{"id": "m", "event_name": "e", "aggregation": "count"}],
            "customers": [{"id": "c"}],
            "plans": [
                {
                    "id": "p",
                    "currency": "EUR",
                    "charges": [{**each, "proration": mode} for each in charges],
                    "commitment": {"amount": 31000, "proration": mode},
                }
            ],
            "subscriptions": [
                {
                    "id": "s",
                    "customer": "c",
                    "plan": "p",
                    "start": "2026-01-01T00:00:00Z",
                    "end": "2026-01-11T12:00:00Z",
                }
            ],
        }
    )
    (slot,) = due_slots(given, "s", instant("2026-02-01T00:00:00Z"))
    (found,) = bill_customer(given, [(slot, [{"m": UsageOf(Decimal(1000), 1000)}])])
    wanted = [31 * share, 1000 - 310 * share, max(6200 * share, 1000), 155 * share]
    amounts = [round_amount(each, 2) for each in wanted]
    missing = round_amount(31000 * share - sum(map(Fraction, amounts)), 2)
    assert [line.amount for line in found.lines] == [*amounts, missing]
