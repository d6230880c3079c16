"""Usage that is billed within its period, when it has cost so much."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from billing.customer import begun_slots, due_slots
from billing.invoice import Invoice
from billing.past import NO_PAST, Past
from billing.quantities import UsageOf
from billing.slots import Slot
from billing.thresholds import candidates, usage_end
from meters.catalog import Catalog
from tests.billing.given import instant
from tests.billing.test_past import going_on, past_of

Row = dict[str, Any]
START = instant("2026-01-01T00:00:00Z")
GRADUATED = {
    "model": "graduated",
    "tiers": [{"up_to": 10, "unit_amount": "1", "flat_amount": "3"}, {"unit_amount": "0.333"}],
}


def catalog(charge: Row, thresholds: Sequence[int], **sections: Any) -> Catalog:
    meter = {"id": "m", "event_name": "e", "aggregation": "sum", "property": "x"}
    return Catalog.model_validate(
        {
            "meters": [meter],
            "customers": [{"id": "c"}],
            "plans": [
                {
                    "id": "p",
                    "currency": "EUR",
                    "thresholds": list(thresholds),
                    "charges": [
                        {"id": "u", "meter": "m", **charge},
                        {"id": "fee", "fee": "7"},
                    ],
                }
            ],
            "subscriptions": [{"id": "s", "customer": "c", "plan": "p", "start": START}],
            **sections,
        }
    )


def bills(
    given: Catalog, usage: Sequence[tuple[int, int]], as_of: str, past: Past = NO_PAST
) -> list[Invoice]:
    """The invoices until `as_of` that are not final, of usage by hour since the start."""
    at = instant(as_of)
    known = [(START + timedelta(hours=hour), value) for hour, value in usage]
    slots = due_slots(given, "s", at)
    for slot in begun_slots(given, "s", at):
        ends = [hour + timedelta(hours=1) for hour, _ in known]
        slots += candidates(slot, [end for end in ends if end <= at])

    def used(slot: Slot) -> list[dict[str, UsageOf]]:
        return [
            {"m": UsageOf(_within(known, cut.part.start, usage_end(slot, cut)), 1)}
            for cut in slot.cuts
        ]

    return going_on(given, [(slot, used(slot)) for slot in slots], past, at)


def _within(known: Sequence[tuple[datetime, int]], start: datetime, end: datetime) -> Decimal:
    return Decimal(sum(value for at, value in known if start <= at < end))


def shown(found: Sequence[Invoice]) -> list[tuple[str, Decimal]]:
    return [(f"{each.period_end:%d %H}", each.total) for each in found]


UNIT = {"price": {"model": "unit", "unit_amount": "1"}}


def test_usage_is_billed_when_it_has_cost_a_threshold_and_the_rest_at_the_end() -> None:
    usage = [(5, 40), (30, 70), (31, 10), (60, 200)]
    found = bills(catalog(UNIT, [100, 150, 300]), usage, "2026-02-01T00:00:00Z")
    # 110 at the hour that ends the next day at 7; 320 pass two thresholds at once.
    assert shown(found) == [("02 07", 110), ("03 13", 210), ("01 00", 7)]
    assert found[0].lines[0].quantity == 110
    assert found[1].lines[0].description == "u: 320 units, at 1.00, less 110.00 billed before"
    assert [line.amount for line in found[2].lines] == [0, 7]


def test_an_earlier_day_of_billing_has_the_same_invoices_as_far_as_it_goes() -> None:
    given = catalog(UNIT, [100, 150, 300])
    usage = [(5, 40), (30, 70), (31, 10), (60, 200)]
    whole = bills(given, usage, "2026-02-01T00:00:00Z")
    assert bills(given, usage, "2026-01-02T06:59:59Z") == []
    assert bills(given, usage, "2026-01-02T07:00:00Z") == whole[:1]
    assert bills(given, usage, "2026-01-20T00:00:00Z") == whole[:2]


def test_thresholds_begin_anew_in_each_period() -> None:
    found = bills(catalog(UNIT, [100]), [(5, 120), (800, 130)], "2026-03-01T00:00:00Z")
    assert [invoice.total for invoice in found] == [120, 7, 130, 7]
    assert len({invoice.invoice_id for invoice in found}) == 4


def test_a_minimum_and_an_amount_of_a_coupon_wait_for_the_end_of_the_period() -> None:
    coupons = [
        {"id": "part", "percent": 10, "charges": ["u"]},
        {"id": "off", "amount": 5, "currency": "EUR"},
    ]
    subscription = {"id": "s", "customer": "c", "plan": "p", "start": START}
    given = catalog(
        {**UNIT, "minimum": 200},
        [50],
        coupons=coupons,
        subscriptions=[{**subscription, "coupons": ["part", "off"]}],
    )
    found = bills(given, [(1, 60)], "2026-02-01T00:00:00Z")
    assert [(each.subtotal, each.discount) for each in found] == [(60, 6), (147, 19)]


def test_an_inclusive_tax_changes_nothing_of_what_is_left() -> None:
    given = catalog(
        UNIT,
        [100],
        taxes=[{"id": "vat", "rate": 19, "inclusive": True}],
        customers=[{"id": "c", "tax": "vat"}],
    )
    found = bills(given, [(1, 119), (50, 20)], "2026-02-01T00:00:00Z")
    assert [invoice.total for invoice in found] == [119, 27]
    assert found[0].tax == 19


@given(
    st.lists(st.tuples(st.integers(0, 743), st.integers(-5, 40)), max_size=8),
    st.lists(st.integers(1, 60), max_size=3, unique=True).map(sorted),
    st.sampled_from([UNIT, {"price": GRADUATED}, {"price": GRADUATED, "included": 7}]),
)
def test_bills_at_thresholds_sum_to_what_the_period_costs(
    usage: list[tuple[int, int]], thresholds: list[int], charge: Row
) -> None:
    end = "2026-02-01T00:00:00Z"
    parts = bills(catalog(charge, thresholds), usage, end)
    (whole,) = bills(catalog(charge, []), usage, end)
    assert sum((invoice.total for invoice in parts), Decimal(0)) == whole.total
    assert len(parts) <= len(thresholds) + 1
    ids = [line.line_id for invoice in parts for line in invoice.lines]
    assert len(ids) == len(set(ids))


@given(
    st.lists(st.tuples(st.integers(0, 743), st.integers(-5, 40)), max_size=8),
    st.lists(st.tuples(st.integers(0, 743), st.integers(-5, 40)), max_size=3),
    st.lists(st.integers(1, 60), max_size=3, unique=True).map(sorted),
    st.sampled_from([UNIT, {"price": GRADUATED}, {"price": GRADUATED, "included": 7}]),
    st.data(),
)
def test_what_comes_late_is_billed_once_and_what_is_final_stays(
    usage: list[tuple[int, int]],
    late: list[tuple[int, int]],
    thresholds: list[int],
    charge: Row,
    data: st.DataObject,
) -> None:
    end = "2026-02-01T00:00:00Z"
    world = catalog(charge, thresholds)
    before = bills(world, usage, end)
    final = before[: data.draw(st.integers(0, len(before) - 1))]
    rest = bills(world, [*usage, *late], end, past_of(world, final))
    (whole,) = bills(catalog(charge, []), [*usage, *late], end)
    assert sum((invoice.total for invoice in [*final, *rest]), Decimal(0)) == whole.total
    ids = [invoice.invoice_id for invoice in [*final, *rest]]
    assert len(ids) == len(set(ids))
    assert all(early.period_end < later.period_end for early, later in pairwise([*final, *rest]))


def test_a_void_number_is_not_given_again() -> None:
    given = catalog(UNIT, [100, 150])
    usage = [(5, 120), (30, 70)]
    first, second, _ = bills(given, usage, "2026-02-01T00:00:00Z")
    past = past_of(given, [first], void=[second])
    again, rest = bills(given, usage, "2026-02-01T00:00:00Z", past)
    assert (again.sequence, again.total, rest.total) == (3, second.total, 7)
    # Nothing is billed again in the place of a period that is final, however late usage comes.
    past = past_of(given, [first, second, rest])
    assert bills(given, [*usage, (3, 500)], "2026-02-01T00:00:00Z", past) == []


def test_the_first_threshold_of_a_period_is_not_the_second_bill_of_the_one_before() -> None:
    given = catalog(UNIT, [100])
    usage = [(5, 20), (800, 130)]
    end, part, _ = bills(given, usage, "2026-03-01T00:00:00Z")
    again, *_ = bills(given, usage, "2026-03-01T00:00:00Z", past_of(given, [], void=[end]))
    assert (again.sequence, again.period_end, part.sequence) == (1, end.period_end, 1)
    assert again.invoice_id != part.invoice_id


def test_a_period_that_ends_earlier_takes_off_all_that_was_billed_of_it() -> None:
    given = catalog(UNIT, [100])
    first, *_ = bills(given, [(100, 120)], "2026-02-01T00:00:00Z")
    ends = {"id": "s", "customer": "c", "plan": "p", "start": START}
    cut = catalog(UNIT, [100], subscriptions=[{**ends, "end": START + timedelta(hours=72)}])
    (rest,) = bills(cut, [(3, 20)], "2026-02-01T00:00:00Z", past_of(given, [first]))
    assert [line.amount for line in rest.lines] == [-100, Decimal("0.68")]


def test_a_period_of_another_start_does_not_bill_what_was_billed_at_thresholds() -> None:
    given = catalog(UNIT, [100])
    first, *_ = bills(given, [(100, 120)], "2026-02-01T00:00:00Z")
    moved = {"id": "s", "customer": "c", "plan": "p", "start": START + timedelta(hours=48)}
    found = bills(
        catalog(UNIT, [100], subscriptions=[moved]),
        [(100, 120)],
        "2026-02-03T00:00:00Z",
        past_of(given, [first]),
    )
    assert {invoice.hold_reason for invoice in found} == {"period_billed"}
