"""Prices of single events: golden cases, an oracle that walks, and laws."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.prices import price_amount, rate
from billing.single_events import Single, in_order, unpriced
from meters.catalog import DynamicPrice, PercentagePrice
from meters.catalog_prices import by_event
from tests.billing.given import instant, small_amounts

NOON = instant("2026-11-01T12:00:00Z")


def events(*values: object) -> list[Single]:
    return [
        Single(NOON + timedelta(minutes=n), f"e{n}", Decimal(str(value)))
        for n, value in enumerate(values)
    ]


def percentage(rate: str = "1", **given: Any) -> PercentagePrice:
    return PercentagePrice.model_validate({"model": "percentage", "rate": rate, **given})


@pytest.mark.parametrize(
    ("given", "needs"),
    [
        ({}, False),
        ({"fixed_amount": 1}, False),
        ({"free_units": 1}, False),
        ({"fixed_amount": 1, "free_units": 1}, True),
        ({"free_events": 1}, True),
        ({"minimum_per_event": 0}, True),
        ({"maximum_per_event": 5}, True),
    ],
)
def test_a_percentage_needs_single_events_only_where_the_sums_do_not_say_enough(
    given: dict[str, Any], needs: bool
) -> None:
    assert by_event(percentage(**given)) is needs


def test_the_rest_of_an_event_in_which_the_free_units_end_is_charged() -> None:
    price = percentage(fixed_amount="2", free_units="100")
    assert price_amount(price, 0, 0, events(60, 40)).amount == 0
    assert price_amount(price, 0, 0, events(60, 50)).amount == Fraction("2.10")
    assert price_amount(price, 0, 0, events(60, 50, 100)).amount == Fraction("5.10")


def test_the_first_of_free_events_and_free_units_that_is_used_up_ends_both() -> None:
    price = percentage(fixed_amount="2", free_units="100", free_events=1)
    # One event is free and takes 10 of the free units; the other 90 are lost.
    assert price_amount(price, 0, 0, events(10, 50)).amount == Fraction("2.50")


def test_bounds_hold_for_each_event_with_its_fixed_amount() -> None:
    price = percentage(fixed_amount="2", minimum_per_event="3", maximum_per_event="12")
    priced = price_amount(price, 0, 0, events(10, 500, 10000))
    assert priced.amount == 3 + 7 + 12
    assert [step.kind for step in priced.steps] == ["percent", "events", "event_bounds"]
    assert priced.steps[-1].quantity == 2


def test_a_refund_gives_back_its_percentage_and_never_more_than_there_was() -> None:
    price = percentage(minimum_per_event="1")
    assert price_amount(price, 0, 0, events(1000, -300)).amount == 7
    assert price_amount(price, 0, 0, events(100, -5000)).amount == 0


def test_events_count_by_time_and_then_by_id_however_they_come() -> None:
    at = instant("2026-11-01T12:00:00Z")
    same = [Single(at, name, Decimal(1)) for name in ("b", "a", "Z", "\u00e9")]
    assert [each.event_id for each in in_order(same)] == ["Z", "a", "b", "\u00e9"]
    later = Single(at - timedelta(microseconds=1), "zz", Decimal(1))
    assert in_order([*same, later])[0] is later


def test_a_dynamic_price_is_the_sum_of_what_the_events_say() -> None:
    price = DynamicPrice(model="dynamic", property="cost", multiplier=Decimal("1.5"))
    priced = [
        Single(NOON, f"{n}", Decimal(1), {"cost": Decimal(cost)})
        for n, cost in enumerate(["0.10", "0.205", "-0.05"])
    ]
    assert price_amount(price, 99, 99, priced).amount == Fraction("0.3825")
    assert rate(price, 0, exponent=2, singles=priced).amount == Decimal("0.38")
    assert unpriced(price, [*priced, Single(NOON, "x", Decimal(1), {"other": Decimal(1)})]) == 1
    assert price_amount(price, 0, 0, priced[2:]).amount == 0


values = st.lists(st.integers(0, 400).map(lambda n: Decimal(n) / 4), max_size=12)
frees = st.integers(0, 4)
units = st.sampled_from([Decimal(0), Decimal(25), Decimal(60)])
limits = st.sampled_from([None, Decimal("0.5"), Decimal(2)])


@st.composite
def event_prices(draw: st.DrawFn) -> PercentagePrice:
    low, high = draw(limits), draw(limits)
    if low is not None and high is not None and low > high:
        low, high = high, low
    return PercentagePrice(
        model="percentage",
        rate=draw(small_amounts),
        fixed_amount=draw(small_amounts),
        free_events=draw(frees),
        free_units=draw(units),
        minimum_per_event=low,
        maximum_per_event=high,
    )


def walked(price: PercentagePrice, amounts: Sequence[Decimal]) -> Fraction:
    """Unit by unit: a quarter is free while its event is, or while free units are left."""
    total, seen, over = Fraction(0), Fraction(0), False
    for index, value in enumerate(amounts, start=1):
        allowance = bool(price.free_units or price.free_events) and not over
        if price.free_events and index > price.free_events:
            allowance = False
        charged = Fraction(0)
        for _ in range(int(value * 4)):
            seen += Fraction(1, 4)
            left = not price.free_units or seen <= price.free_units
            if not (allowance and left):
                charged += Fraction(1, 4)
        free = allowance and not (price.free_units and seen > price.free_units)
        over = over or not free
        if free:
            continue
        cost = charged * Fraction(price.rate) / 100 + Fraction(price.fixed_amount)
        if price.maximum_per_event is not None:
            cost = min(cost, Fraction(price.maximum_per_event))
        if price.minimum_per_event is not None:
            cost = max(cost, Fraction(price.minimum_per_event))
        total += cost
    return total


@given(event_prices(), values)
def test_a_percentage_of_events_equals_the_walk(
    price: PercentagePrice, amounts: list[Decimal]
) -> None:
    expected = walked(price, amounts)
    found = price_amount(price, sum(amounts, Decimal(0)), len(amounts), events(*amounts))
    assert found.amount == expected


@given(event_prices(), values, st.integers(0, 400))
def test_one_more_event_never_makes_it_cheaper(
    price: PercentagePrice, amounts: list[Decimal], more: int
) -> None:
    before = price_amount(price, sum(amounts, Decimal(0)), len(amounts), events(*amounts))
    longer = [*amounts, Decimal(more)]
    after = price_amount(price, sum(longer, Decimal(0)), len(longer), events(*longer))
    assert after.amount >= before.amount
