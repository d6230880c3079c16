"""The decimal form of a charge says what the exact fractions say, digit by digit."""

from __future__ import annotations

import gc
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from billing import decimal_prices, lines
from billing.decimal_prices import compile_charge
from billing.invoice import Line
from billing.lines import LineContext, usage_lines
from billing.quantities import UsageOf
from billing.slots import Segment
from meters.catalog import ChargeDiscount, Convert, Price, UnitPrice, UsageCharge
from meters.periods import Span
from tests.billing.given import amounts, instant, prices

PERIOD = Span(instant("2026-11-01T00:00:00Z"), instant("2026-12-01T00:00:00Z"))
WHOLE = Segment(PERIOD, PERIOD)
HALF = Segment(Span(PERIOD.start, instant("2026-11-11T00:00:00Z")), PERIOD)

fine = st.decimals(min_value=0, max_value=9, places=20)
units = st.builds(UnitPrice, model=st.just("unit"), unit_amount=fine)
quantities = st.one_of(
    st.decimals(min_value=-50, max_value=200, places=2),
    st.decimals(min_value=-(10**14), max_value=10**14, places=12),
    st.integers(min_value=-3, max_value=3).map(Decimal),
)
converts = st.builds(
    Convert,
    divide_by=st.sampled_from([Decimal(n) for n in ("1", "1000", "1024", "3", "0.7", "0.001")]),
    round=st.sampled_from(["up", "down", "half_up"]),
    precision=st.integers(min_value=-3, max_value=6),
) | st.builds(
    Convert,
    divide_by=st.sampled_from([Decimal(n) for n in ("1000", "1024", "3", "0.007")]),
)


@st.composite
def charges(draw: st.DrawFn) -> UsageCharge:
    price: Price = draw(prices | units)
    low, high = draw(st.none() | amounts), draw(st.none() | amounts)
    if low is not None and high is not None:
        low, high = sorted((low, high))
    given: dict[str, Any] = {
        "convert": draw(st.none() | converts),
        "included": draw(st.just(Decimal(0)) | amounts),
        "discount": draw(
            st.none()
            | st.decimals(min_value=0, max_value=100, places=2).map(
                lambda percent: ChargeDiscount(percent=percent)
            )
        ),
        "minimum": low,
        "maximum": high,
        "round": draw(st.sampled_from(["line", "line", "line", "tier"])),
        "proration": draw(st.sampled_from(["day", "none"])),
    }
    return UsageCharge(id="calls", meter="m", price=price, **given)


def lines_of(
    charge: UsageCharge, usage: UsageOf, segment: Segment | None, context: LineContext
) -> list[Line]:
    return [line for line, _ in usage_lines(charge, usage, segment, context)]


@given(
    charges(),
    quantities | st.none(),
    st.integers(min_value=0, max_value=5),
    st.sampled_from([WHOLE, WHOLE, HALF, None]),
    st.sampled_from([0, 2, 3]),
)
def test_lines_are_those_of_the_fractions(
    charge: UsageCharge,
    quantity: Decimal | None,
    count: int,
    segment: Segment | None,
    exponent: int,
) -> None:
    context = LineContext("inv", "sub", "UTC", exponent)
    usage = UsageOf(quantity, count)
    quick = lines_of(charge, usage, segment, context)
    with mock.patch.object(lines, "compile_charge", return_value=None):
        exact = lines_of(charge, usage, segment, context)
    event("decimal" if isinstance(quick[0].amount_exact, Decimal) else "fraction")
    assert quick == exact
    assert [line.to_dict(exponent) for line in quick] == [line.to_dict(exponent) for line in exact]


@pytest.mark.parametrize(
    ("keys", "quantity"),
    [
        ({"convert": {"divide_by": 3}}, "10"),
        ({"round": "tier"}, "10"),
        (
            {
                "price": {
                    "model": "percentage",
                    "rate": 1,
                    "free_events": 2,
                }
            },
            "10",
        ),
    ],
)
def test_what_decimals_cannot_say_is_left_to_fractions(keys: dict[str, Any], quantity: str) -> None:
    price = {"model": "unit", "unit_amount": 1}
    charge = UsageCharge.model_validate({"id": "c", "meter": "m", "price": price, **keys})
    assert charge.price is not None
    form = compile_charge(charge, charge.price, 2)
    assert form is None or form.rate(Decimal(quantity), 1, "{}") is None


def test_keys_that_the_decimal_form_does_not_know_are_left_to_fractions() -> None:
    class LaterPrice(UnitPrice):
        surcharge: Decimal = Decimal(0)

    price = LaterPrice(model="unit", unit_amount=Decimal(1), surcharge=Decimal(5))
    charge = UsageCharge(id="c", meter="m", price=UnitPrice(model="unit", unit_amount=Decimal(1)))
    assert compile_charge(charge, price, 2) is None


def test_a_charge_is_compiled_once_and_forgotten_with_its_catalog() -> None:
    charge = UsageCharge(id="c", meter="m", price=UnitPrice(model="unit", unit_amount=Decimal(1)))
    assert charge.price is not None
    assert compile_charge(charge, charge.price, 2) is compile_charge(charge, charge.price, 2)
    gc.collect()
    before = len(decimal_prices._compiled_charges)
    del charge
    gc.collect()
    assert len(decimal_prices._compiled_charges) == before - 1
