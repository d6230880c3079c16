"""What a plan would cost: one full period without customer, subscription and dates."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.builder import build_invoice, quote
from meters.catalog import Meter
from meters.errors import ConfigurationError
from tests.billing.documents import PRO, SEAT, slots, written
from tests.billing.given import plan

METERS = {
    "api_calls": Meter(id="api_calls", event_name="api_call", aggregation="count"),
    "tokens": Meter(id="tokens", event_name="llm", aggregation="sum", property="tokens"),
}


def test_a_quote_is_one_full_period_with_every_fee_once() -> None:
    quoted = written(quote(PRO, METERS, {"api_calls": Decimal(1500)}))
    assert [line["amount"] for line in quoted["lines"]] == ["49.00", "1.00", "0.00"]
    assert (quoted["total"], quoted["tax"], quoted["status"]) == ("50.00", "0.00", "quote")
    for key in ("customer", "subscription", "period_start", "period_end", "billing_date"):
        assert quoted[key] is None
    slot = slots(PRO, "2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z")[0]
    built = written(build_invoice(slot, PRO, {}))
    assert list(quoted) == list(built)
    assert list(quoted["lines"][0]) == list(built["lines"][0])


def test_a_quote_for_a_meter_that_the_plan_does_not_charge_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"charges: api_calls, tokens \(got api_cals\)"):
        quote(PRO, METERS, {"api_cals": Decimal(1)})
    with pytest.raises(ConfigurationError, match=r"charges: no meter \(got tokens\)"):
        quote(plan([SEAT]), METERS, {"tokens": Decimal(1)})


def test_a_quote_takes_one_event_for_a_quantity_and_each_unit_of_a_count() -> None:
    price = {"model": "percentage", "rate": "2.9", "fixed_amount": "0.30"}
    by_value = plan([{"id": "x", "meter": "tokens", "price": price}])
    by_count = plan([{"id": "x", "meter": "api_calls", "price": price}])
    hundred = Decimal(100)
    assert quote(by_value, METERS, {"tokens": hundred}).total == Decimal("3.20")
    assert quote(by_count, METERS, {"api_calls": hundred}).total == Decimal("32.90")
    given_events = quote(by_value, METERS, {"tokens": hundred}, events={"tokens": 3})
    assert given_events.total == Decimal("3.80")
    assert quote(by_value, METERS, {"tokens": Decimal(0)}).total == 0
