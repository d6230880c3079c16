"""Which invoices a subscription has: golden cases in time, and laws over any dates."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.slots import Slot, due, hashed_id
from meters.catalog import Customer, Plan, Subscription
from meters.timestamps import format_instant
from tests.billing.given import customer, instant, plan, subscription

ADVANCE: dict[str, Any] = {"id": "seat", "fee": "49.00", "when": "advance"}
ARREARS: dict[str, Any] = {"id": "support", "fee": "10.00", "when": "arrears"}
CALLS: dict[str, Any] = {
    "id": "calls",
    "meter": "api_calls",
    "price": {"model": "unit", "unit_amount": "0.002"},
}
BOTH = plan([ADVANCE, ARREARS, CALLS])
IN_ARREARS = plan([ARREARS, CALLS])
IN_ADVANCE = plan([ADVANCE])


def dates(slots: list[Slot]) -> list[tuple[str, str, str | None, str | None]]:
    """Each slot as (period start, period end, end of arrears, end of advance), UTC dates."""

    def day(at: datetime | None) -> str | None:
        return None if at is None else format_instant(at)[:10]

    return [
        (
            format_instant(slot.period_start)[:10],
            format_instant(slot.period_end)[:10],
            day(slot.arrears.part.end if slot.arrears else None),
            day(slot.advance.part.end if slot.advance else None),
        )
        for slot in slots
    ]


def test_a_plan_with_fees_in_advance_has_an_invoice_at_the_start() -> None:
    slots = due(
        subscription("2026-11-01T00:00:00Z"), BOTH, customer(), instant("2027-01-15T00:00Z")
    )
    assert dates(slots) == [
        ("2026-11-01", "2026-11-01", None, "2026-12-01"),
        ("2026-11-01", "2026-12-01", "2026-12-01", "2027-01-01"),
        ("2026-12-01", "2027-01-01", "2027-01-01", "2027-02-01"),
    ]


def test_a_plan_in_arrears_is_billed_at_the_ends_of_its_periods_alone() -> None:
    found = due(
        subscription("2026-11-01T00:00:00Z"), IN_ARREARS, customer(), instant("2027-01-01T00:00Z")
    )
    assert [(start, end) for start, end, *_ in dates(found)] == [
        ("2026-11-01", "2026-12-01"),
        ("2026-12-01", "2027-01-01"),
    ]


def test_a_period_is_due_at_the_instant_that_it_ends_and_not_before() -> None:
    started = subscription("2026-11-01T00:00:00Z")
    end = instant("2026-12-01T00:00Z")
    assert due(started, IN_ARREARS, customer(), end - timedelta(microseconds=1)) == []
    assert len(due(started, IN_ARREARS, customer(), end)) == 1


def test_a_subscription_that_starts_after_the_day_of_billing_has_no_invoice() -> None:
    later = subscription("2026-11-01T00:00:00Z")
    assert due(later, BOTH, customer(), instant("2026-10-31T23:59:59Z")) == []
    assert len(due(later, BOTH, customer(), instant("2026-11-01T00:00:00Z"))) == 1


def test_the_end_cuts_the_last_period_and_no_fee_is_taken_in_advance_beyond_it() -> None:
    ended = subscription("2026-11-01T00:00:00Z", "2026-12-16T00:00:00Z")
    slots = due(ended, BOTH, customer(), instant("2030-01-01T00:00Z"))
    assert dates(slots) == [
        ("2026-11-01", "2026-11-01", None, "2026-12-01"),
        ("2026-11-01", "2026-12-01", "2026-12-01", "2026-12-16"),
        ("2026-12-01", "2026-12-16", "2026-12-16", None),
    ]
    last = slots[-1].arrears
    assert last is not None
    assert last.whole.end == instant("2027-01-01T00:00Z")


def test_an_end_at_a_boundary_leaves_no_empty_period_behind() -> None:
    ended = subscription("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    slots = due(ended, BOTH, customer(), instant("2030-01-01T00:00Z"))
    assert [slot.period_end for slot in slots] == [ended.start, ended.end]
    assert slots[-1].advance is None


def test_a_plan_of_fees_in_advance_has_no_empty_invoice_at_its_end() -> None:
    ended = subscription("2026-11-01T00:00:00Z", "2026-12-16T00:00:00Z")
    slots = due(ended, IN_ADVANCE, customer(), instant("2030-01-01T00:00Z"))
    assert dates(slots) == [
        ("2026-11-01", "2026-11-01", None, "2026-12-01"),
        ("2026-11-01", "2026-12-01", "2026-12-01", "2026-12-16"),
    ]


def test_a_plan_without_charges_has_no_invoices() -> None:
    started = subscription("2026-11-01T00:00:00Z")
    assert due(started, plan([]), customer(), instant("2030-01-01T00:00Z")) == []


def test_a_start_on_the_31st_bills_at_the_last_day_of_short_months_and_the_31st_again() -> None:
    slots = due(
        subscription("2027-01-31T10:00:00Z"), IN_ARREARS, customer(), instant("2027-05-31T10:00Z")
    )
    assert [format_instant(slot.period_end) for slot in slots] == [
        "2027-02-28T10:00:00Z",
        "2027-03-31T10:00:00Z",
        "2027-04-30T10:00:00Z",
        "2027-05-31T10:00:00Z",
    ]


def test_periods_keep_the_wall_clock_of_the_customer_over_the_change_of_the_clocks() -> None:
    berlin = customer("Europe/Berlin")
    slots = due(
        subscription("2026-10-01T00:00:00+02:00"), IN_ARREARS, berlin, instant("2026-12-01T00:00Z")
    )
    assert [format_instant(slot.period_end) for slot in slots] == [
        "2026-10-31T23:00:00Z",
        "2026-11-30T23:00:00Z",
    ]


def test_an_id_is_the_hash_of_the_documented_key() -> None:
    slot = due(
        subscription("2026-11-01T00:00:00Z"), BOTH, customer(), instant("2026-11-01T00:00Z")
    )[0]
    key = '["inv","default","acme","EUR","subscription:sub","2026-11-01T00:00:00Z",0]'
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert slot.invoice_id("default") == f"inv_{digest[:32]}"
    assert slot.invoice_id("other") != slot.invoice_id("default")


def test_the_parts_of_a_key_cannot_run_into_each_other() -> None:
    keys = [("a", "bc"), ("ab", "c"), ('a","b', "c"), ("a", 'b","c'), ("a", "b", "c"), ("1",), (1,)]
    assert len({hashed_id("inv", *key) for key in keys}) == len(keys)


units = st.sampled_from(["day", "week", "month", "quarter", "year"])
zones = st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/New_York"])
starts = st.datetimes(datetime(2020, 1, 1), datetime(2024, 12, 31)).map(  # noqa: DTZ001
    lambda at: at.replace(tzinfo=UTC)
)
spans = st.timedeltas(timedelta(microseconds=1), timedelta(days=800))


@st.composite
def subscribed(draw: st.DrawFn) -> tuple[Subscription, Plan, Customer, datetime]:
    start = draw(starts)
    end = draw(st.none() | spans.map(lambda span: start + span))
    chosen = Subscription(id="sub", customer="acme", plan="pro", start=start, end=end)
    charges = draw(st.lists(st.sampled_from([ADVANCE, ARREARS, CALLS]), unique_by=id))
    return (
        chosen,
        plan(charges, period=draw(units)),
        customer(draw(zones)),
        start + draw(spans) - timedelta(days=30),
    )


@given(subscribed())
def test_arrears_cover_the_subscription_without_gap_or_overlap(
    given_one: tuple[Subscription, Plan, Customer, datetime],
) -> None:
    chosen, _, billed, as_of = given_one
    slots = due(chosen, BOTH, billed, as_of)
    at = chosen.start
    for segment in (slot.arrears for slot in slots if slot.arrears is not None):
        assert segment.part.start == at < segment.part.end <= as_of
        at = segment.part.end
    if chosen.end is not None and chosen.end <= as_of:
        assert at == chosen.end


@given(subscribed())
def test_each_period_is_billed_once_in_advance_and_once_in_arrears(
    given_one: tuple[Subscription, Plan, Customer, datetime],
) -> None:
    chosen, _, billed, as_of = given_one
    slots = due(chosen, BOTH, billed, as_of)
    advance = [slot.advance for slot in slots if slot.advance is not None]
    arrears = [slot.arrears for slot in slots if slot.arrears is not None]
    assert arrears == advance[: len(arrears)]
    assert len(advance) - len(arrears) in (0, 1)
    assert all(slot.advance.part.start == slot.billing_date for slot in slots if slot.advance)


@given(subscribed(), spans)
def test_a_later_day_of_billing_only_adds_invoices(
    given_one: tuple[Subscription, Plan, Customer, datetime], later: timedelta
) -> None:
    chosen, tariff, billed, as_of = given_one
    sooner = due(chosen, tariff, billed, as_of)
    assert due(chosen, tariff, billed, as_of + later)[: len(sooner)] == sooner


@given(subscribed(), st.randoms(use_true_random=False))
def test_ids_are_unique_and_do_not_depend_on_the_order_of_the_charges(
    given_one: tuple[Subscription, Plan, Customer, datetime], shuffle: random.Random
) -> None:
    chosen, tariff, billed, as_of = given_one
    ids = [slot.invoice_id("default") for slot in due(chosen, tariff, billed, as_of)]
    assert len(set(ids)) == len(ids)
    charges = list(tariff.charges)
    shuffle.shuffle(charges)
    shuffled = tariff.model_copy(update={"charges": charges})
    assert [slot.invoice_id("default") for slot in due(chosen, shuffled, billed, as_of)] == ids


@pytest.mark.parametrize("offset", ["Z", "+02:00", "-05:00"])
def test_an_id_is_that_of_the_instant_however_its_offset_is_written(offset: str) -> None:
    at = instant("2026-11-01T12:00:00Z").astimezone(instant(f"2026-11-01T12:00{offset}").tzinfo)
    written = subscription(at.isoformat())
    slots = due(written, BOTH, customer(), instant("2026-11-02T00:00Z"))
    plain = due(
        subscription("2026-11-01T12:00:00Z"), BOTH, customer(), instant("2026-11-02T00:00Z")
    )
    assert slots[0].invoice_id("t") == plain[0].invoice_id("t")
