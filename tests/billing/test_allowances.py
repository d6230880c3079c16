"""Free units beyond a period's own: rollover, shared entitlements, tiers that continue."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.customer import bill_customer, due_slots
from billing.invoice import Invoice
from billing.quantities import UsageOf
from meters.catalog import Catalog
from meters.errors import CatalogError
from tests.billing.given import instant
from tests.meters.catalog_texts import load

Row = dict[str, Any]
METER = {"id": "m", "event_name": "e", "aggregation": "sum", "property": "x"}
UNIT = {"model": "unit", "unit_amount": "1"}
GRADUATED = {
    "model": "graduated",
    "tiers": [{"up_to": 10, "unit_amount": "1", "flat_amount": "5"}, {"unit_amount": "0.1"}],
}


def charge(price: Row, **more: Any) -> Row:
    return {"id": "c", "meter": "m", "price": price, **more}


def catalog(*charges: Row, subscriptions: Sequence[Row] = (), **sections: Any) -> Catalog:
    plans = [
        {"id": f"p{number}", "currency": "EUR", "charges": [each]}
        for number, each in enumerate(charges)
    ]
    only = {"id": "s", "customer": "c", "plan": "p0", "start": "2026-01-01T00:00:00Z"}
    return Catalog.model_validate(
        {
            "meters": [METER],
            "customers": [{"id": "c"}],
            "plans": plans,
            "subscriptions": list(subscriptions) or [only],
            **sections,
        }
    )


def bills(given: Catalog, usage: dict[str, list[list[int]]]) -> list[Invoice]:
    """The invoices of all subscriptions; usage by month and by segment."""
    found = []
    for name, months in usage.items():
        until = instant(f"2026-{len(months) + 1:02}-01T00:00:00Z")
        slots = due_slots(given, name, until)
        used = [[{"m": UsageOf(Decimal(value), 1)} for value in month] for month in months]
        found += list(zip(slots, used, strict=True))
    return list(bill_customer(given, found))


def totals(given: Catalog, *months: int) -> list[Decimal]:
    return [invoice.total for invoice in bills(given, {"s": [[month] for month in months]})]


def test_what_is_left_of_included_units_is_there_in_the_next_period_and_no_longer() -> None:
    rolling = catalog(charge(UNIT, included=100, rollover={"periods": 1}))
    # 40 are left of January: February has 140, March again 100 with the 0 left of February's own.
    assert totals(rolling, 60, 150, 120) == [0, 10, 20]
    # What rolled over is used before what would roll over: February's own 60 go to March.
    assert totals(rolling, 60, 80, 165) == [0, 0, 5]
    assert totals(rolling, 0, 0, 250) == [0, 0, 50]
    assert totals(catalog(charge(UNIT, included=100)), 60, 150, 120) == [0, 50, 20]


def test_what_rolls_over_has_a_maximum_and_may_last_for_several_periods() -> None:
    small = catalog(charge(UNIT, included=100, rollover={"periods": 1, "maximum": 30}))
    assert totals(small, 0, 200) == [0, 70]
    long = catalog(charge(UNIT, included=100, rollover={"periods": 2}))
    assert totals(long, 0, 0, 350) == [0, 0, 50]


def test_the_line_says_what_was_free_beside_its_included_units() -> None:
    rolling = catalog(charge(UNIT, included=100, rollover={}))
    (_, second) = bills(rolling, {"s": [[60], [150]]})
    assert second.lines[0].description == (
        "c: 150 units, 100 included, at 1.00, 40 more free: rolled over or shared"
    )


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(1, 4))
def test_units_are_free_once_and_more_periods_never_cost_more(
    months: list[int], periods: int
) -> None:
    def billed(count: int) -> Decimal:
        rolling = catalog(charge(UNIT, included=100, rollover={"periods": count}))
        return sum(totals(rolling, *months), Decimal(0))

    reset = sum(totals(catalog(charge(UNIT, included=100)), *months), Decimal(0))
    used = sum(months)
    assert max(used - 100 * len(months), 0) <= billed(periods + 1) <= billed(periods) <= reset


# Shared by the subscriptions of a customer

SHARED = {
    "id": "pool",
    "customer": "c",
    "meter": "m",
    "units": 100,
    "start": "2026-01-01T00:00:00Z",
}
TWO = [
    {"id": name, "customer": "c", "plan": "p0", "start": "2026-01-01T00:00:00Z"} for name in "ab"
]


def test_subscriptions_of_a_customer_share_units_in_the_order_of_billing() -> None:
    given = catalog(charge(UNIT, included=10), subscriptions=TWO, entitlements=[SHARED])
    found = bills(given, {"a": [[70], [5]], "b": [[80], [200]]})
    assert [(invoice.subscription, invoice.total) for invoice in found] == [
        ("a", 0),
        ("b", 30),
        ("a", 0),
        ("b", 90),
    ]
    again = bills(given, {"b": [[80], [200]], "a": [[70], [5]]})
    assert again == found


def test_shared_units_hold_from_their_start_to_their_end() -> None:
    later = {**SHARED, "start": "2026-02-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}
    given = catalog(charge(UNIT), entitlements=[later])
    assert totals(given, 150, 150, 150) == [150, 50, 150]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=4))
def test_shared_units_are_used_as_if_usage_were_one(months: list[tuple[int, int]]) -> None:
    given = catalog(charge(UNIT), subscriptions=TWO, entitlements=[SHARED])
    usage = {"a": [[one] for one, _ in months], "b": [[other] for _, other in months]}
    total = sum((invoice.total for invoice in bills(given, usage)), Decimal(0))
    assert total == sum(max(one + other - 100, 0) for one, other in months)


# Tiers where a plan changes within a period

CHANGED = [
    {
        "id": "s",
        "customer": "c",
        "plan": "p0",
        "start": "2026-01-01T00:00:00Z",
        "changes": [{"from": "2026-01-16T00:00:00Z", "plan": "p1"}],
    }
]


def test_tiers_restart_where_a_plan_changes_unless_they_continue() -> None:
    restart = catalog(charge(GRADUATED), charge(GRADUATED), subscriptions=CHANGED)
    (found,) = bills(restart, {"s": [[8, 8]]})
    assert [line.amount for line in found.lines] == [13, 13]
    going_on = charge(GRADUATED, tiers="continue")
    (found,) = bills(catalog(going_on, going_on, subscriptions=CHANGED), {"s": [[8, 8]]})
    assert [line.amount for line in found.lines] == [13, Decimal("2.60")]


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from(["line", "tier"]))
def test_tiers_that_continue_cost_what_one_period_would(
    first: int, second: int, rounding: str
) -> None:
    going_on = charge(GRADUATED, tiers="continue", round=rounding)
    (cut,) = bills(catalog(going_on, going_on, subscriptions=CHANGED), {"s": [[first, second]]})
    assert cut.total == totals(catalog(charge(GRADUATED)), first + second)[0]


def test_tiers_that_continue_begin_anew_in_the_next_period() -> None:
    assert totals(catalog(charge(GRADUATED, tiers="continue")), 12, 12) == [
        Decimal("15.20"),
        Decimal("15.20"),
    ]


# Units that count from their event on


def test_units_count_from_their_day_to_the_end_of_the_period() -> None:
    from billing.single_events import Single

    given = catalog(charge(UNIT, prorate_events=True))
    (slot,) = due_slots(given, "s", instant("2026-02-01T00:00:00Z"))
    singles = (
        Single(instant("2026-01-01T00:00:00Z"), "", Decimal(5)),
        Single(instant("2026-01-26T12:00:00Z"), "a", Decimal(24)),
    )
    usage = {"m": UsageOf(Decimal(29), 2, singles=singles)}
    (found,) = bill_customer(given, [(slot, [usage])])
    assert found.lines[0].quantity == 5 + Fraction(24 * 6, 31)
    assert found.total == Decimal("9.65")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{id: c, meter: m, rollover: {periods: 1}, price: {model: unit, unit_amount: 1}}",
            "rollover: must be left out without included units",
        ),
        (
            "{id: c, meter: m, included: 5, rollover: {periods: 0}, "
            "price: {model: unit, unit_amount: 1}}",
            "rollover.periods: must be at least 1 (got 0)",
        ),
        (
            "{id: c, meter: m, prorate_events: true, price: {model: percentage, rate: 1}}",
            "price.model: must be unit, package, graduated or volume beside prorate_events "
            "(got percentage)",
        ),
        (
            "{id: c, meter: n, prorate_events: true, price: {model: unit, unit_amount: 1}}",
            "prorate_events: must be left out unless the meter is a sum or unique_count without "
            "bucket (got count)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(
    text: str, message: str, tmp_path: Path
) -> None:
    given = (
        "meters:\n- {id: m, event_name: e, aggregation: sum, property: x}\n"
        "- {id: n, event_name: e, aggregation: count}\n"
        f"plans:\n- id: p\n  currency: EUR\n  charges:\n  - {text}\n"
    )
    with pytest.raises(CatalogError) as caught:
        load(tmp_path, given)
    (problem,) = caught.value.problems
    assert (problem.line, f"{problem.path}: {problem.message}") == (
        8,
        f"plans[0].charges[0].{message}",
    )
