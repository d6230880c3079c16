"""Invoices built from quantities: golden documents."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest

from billing.builder import UsageOf, build_invoice
from tests.billing.documents import CALLS, PRO, SEAT, TOKENS, slots, used, written
from tests.billing.given import plan


def one_line(charge: dict[str, Any], value: str | None, **given: Any) -> dict[str, Any]:
    """The line of one usage charge for one whole month."""
    currency = given.pop("currency", "EUR")
    tariff = plan([charge], currency=currency)
    slot = slots(tariff, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", **given)[0]
    usage = {} if value is None else {charge["meter"]: used(value, events=4)}
    line: dict[str, Any] = written(build_invoice(slot, tariff, usage))["lines"][0]
    return line


def test_an_invoice_is_written_as_the_command_line_contract_says() -> None:
    first, second = slots(PRO, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    usage = {"api_calls": used("1500", 1500), "tokens": used("1250000.5", 40, revision=3)}
    document = written(build_invoice(second, PRO, usage, catalog_hash="c0ffee"))
    lines = document.pop("lines")
    assert document == {
        "invoice_id": second.invoice_id("default"),
        "kind": "invoice",
        "status": "draft",
        "hold_reason": None,
        "number": None,
        "issuer": None,
        "customer": "acme",
        "subscription": "sub",
        "currency": "EUR",
        "billing_date": "2026-12-01T00:00:00Z",
        "sequence": 0,
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "issue_date": None,
        "due_date": None,
        "catalog_hash": "c0ffee",
        "subtotal": "62.00",
        "discount": "0.00",
        "credit": "0.00",
        "tax": "0.00",
        "total": "62.00",
        "prepaid": "0.00",
        "due": "62.00",
    }
    seat, calls, tokens = lines
    assert calls == {
        "line_id": calls["line_id"],
        "subscription": "sub",
        "charge": "calls",
        "plan_version": None,
        "meter": "api_calls",
        "group": {},
        "service_start": "2026-11-01T00:00:00Z",
        "service_end": "2026-12-01T00:00:00Z",
        "description": "calls: 1500 units, 1000 included, at 0.002",
        "quantity": "1500",
        "unit_amount": "0.002",
        "amount_exact": "1",
        "amount": "1.00",
        "discount": "0.00",
        "credit": "0.00",
        "tax_code": None,
        "tax_rate": None,
        "tax": "0.00",
        "revision": 0,
    }
    assert (seat["quantity"], seat["unit_amount"], seat["amount"]) == ("1", "49.00", "49.00")
    assert (seat["service_start"], seat["service_end"]) == (
        "2026-12-01T00:00:00Z",
        "2027-01-01T00:00:00Z",
    )
    assert (tokens["quantity"], tokens["amount_exact"], tokens["amount"], tokens["revision"]) == (
        "1250000.5",
        "12.000004",
        "12.00",
        3,
    )
    assert [line["charge"] for line in written(build_invoice(first, PRO, usage))["lines"]] == [
        "seat"
    ]


def test_a_period_without_usage_is_billed_with_quantity_0_and_its_flat_amounts() -> None:
    charge = {
        "id": "x",
        "meter": "m",
        "price": {"model": "graduated", "tiers": [{"flat_amount": "3.5", "unit_amount": "1"}]},
    }
    line = one_line(charge, None)
    assert (line["quantity"], line["amount"]) == ("0", "3.50")


def test_a_meter_without_a_value_is_billed_as_quantity_0() -> None:
    slot = slots(PRO, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")[1]
    nothing = build_invoice(slot, PRO, {"tokens": UsageOf(None, 0, 2)})
    assert nothing == build_invoice(slot, PRO, {"tokens": UsageOf(Decimal(0), 0, 2)})


def test_a_negative_quantity_is_shown_as_it_is_and_billed_as_0() -> None:
    line = one_line(CALLS, "-5")
    assert (line["quantity"], line["amount"]) == ("-5", "0.00")
    assert line["description"] == "calls: -5 units, 1000 included, billed as 0, at 0.002"


@pytest.mark.parametrize(
    ("currency", "amount"), [("EUR", "0.01"), ("JPY", "0"), ("KWD", "0.006"), ("CLF", "0.0055")]
)
def test_a_line_has_the_decimals_of_its_currency(currency: str, amount: str) -> None:
    charge = {"id": "x", "meter": "m", "price": {"model": "unit", "unit_amount": "0.0055"}}
    assert one_line(charge, "1", currency=currency)["amount"] == amount


@pytest.mark.parametrize(("quantity", "amount"), [("12.4", "12"), ("12.5", "13"), ("0.5", "1")])
def test_yen_round_half_away_from_zero(quantity: str, amount: str) -> None:
    charge = {"id": "x", "meter": "m", "price": {"model": "unit", "unit_amount": "1"}}
    assert one_line(charge, quantity, currency="JPY")["amount"] == amount


@pytest.mark.parametrize(
    ("price", "given", "value", "description"),
    [
        ({"model": "unit", "unit_amount": "0.5"}, {}, "1", "x: 1 unit, at 0.50"),
        ({"model": "flat", "amount": "10"}, {}, "7", "x: 7 units, flat 10.00"),
        (
            {"model": "package", "amount": "5", "size": 10, "free_units": 20},
            {},
            "45.5",
            "x: 45.5 units, 20 free, 3 packages of 10 at 5.00",
        ),
        (
            {"model": "package", "amount": "5", "size": 10},
            {},
            "1",
            "x: 1 unit, 1 package of 10 at 5.00",
        ),
        (TOKENS["price"], {}, "1500000", "x: 1500000 units, graduated, 2 reached of 2 tiers"),
        (
            {"model": "graduated", "tiers": [{"unit_amount": "1"}], "flat_at_zero": False},
            {},
            "0",
            "x: 0 units, graduated, none reached of 1 tier",
        ),
        (
            {"model": "volume", "tiers": [{"up_to": 5}, {"unit_amount": "2", "flat_amount": "3"}]},
            {},
            "10",
            "x: 10 units, volume, tier 2 at 2.00 plus 3.00",
        ),
        (
            {"model": "volume", "tiers": [{"unit_amount": "2"}], "flat_at_zero": False},
            {},
            "0",
            "x: 0 units, volume, no tier reached",
        ),
        (
            {"model": "percentage", "rate": "2.9", "fixed_amount": "0.3"},
            {},
            "100",
            "x: 100 units, 2.9 percent plus 0.30 for each of 4 events",
        ),
        (
            {"model": "percentage", "rate": "2.9", "free_units": "30"},
            {},
            "100",
            "x: 100 units, 30 free, 2.9 percent",
        ),
        (
            {"model": "unit", "unit_amount": "1"},
            {"minimum": "5", "maximum": "9"},
            "1",
            "x: 1 unit, at 1.00, raised to the minimum 5.00",
        ),
        (
            {"model": "unit", "unit_amount": "1"},
            {"minimum": "5", "maximum": "9"},
            "10",
            "x: 10 units, at 1.00, capped at the maximum 9.00",
        ),
        (
            {"model": "unit", "unit_amount": "1"},
            {"description": "API calls"},
            "10",
            "API calls: 10 units, at 1.00",
        ),
    ],
)
def test_a_description_says_how_the_amount_comes_about(
    price: dict[str, Any], given: dict[str, Any], value: str, description: str
) -> None:
    assert one_line({"id": "x", "meter": "m", "price": price, **given}, value)["description"] == (
        description
    )


CUT: dict[str, str] = {"end": "2026-11-16T00:00:00Z"}


def test_an_end_in_mid_period_prorates_a_fee_by_days() -> None:
    tariff = plan([{"id": "seat", "fee": "49.00"}, {**SEAT, "id": "early"}])
    start, last = slots(
        tariff, "2026-10-01T00:00:00Z", "2026-10-22T00:00:00Z", "2026-10-22T00:00:00Z"
    )
    line = written(build_invoice(last, tariff, {}))["lines"][0]
    assert (line["amount"], line["quantity"], line["unit_amount"]) == ("33.19", "1", "49.00")
    assert line["amount_exact"] == "33.1935483870967741935483870967"
    assert line["description"] == "seat: 49.00, prorated 21/31"
    assert [line.amount for line in build_invoice(start, tariff, {}).lines] == [Decimal("33.19")]


@pytest.mark.parametrize(
    ("mode", "amount"), [("day", "24.50"), ("second", "25.32"), ("none", "49.00")]
)
def test_a_fee_is_prorated_by_day_by_second_or_not_at_all(mode: str, amount: str) -> None:
    tariff = plan([{"id": "seat", "fee": "49.00", "proration": mode}])
    slot = slots(tariff, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11-16T12:00:00Z")[0]
    assert build_invoice(slot, tariff, {}).to_dict()["total"] == amount


def test_the_days_of_a_proration_are_those_of_the_customer() -> None:
    tariff = plan([{"id": "seat", "fee": "310.00"}])
    # 25 October 2026 has 25 hours in Berlin: 21 of 31 days, whatever the hours.
    slot = slots(
        tariff,
        "2026-10-01T00:00:00+02:00",
        "2026-12-01T00:00:00Z",
        end="2026-10-26T00:00:00+01:00",
        zone="Europe/Berlin",
    )[0]
    assert build_invoice(slot, tariff, {}).to_dict()["total"] == "250.00"


def test_a_cut_period_prorates_included_units_minimum_and_maximum() -> None:
    bounded = {**CALLS, "price": {"model": "unit", "unit_amount": "1"}}
    assert one_line(bounded, "600", **CUT)["amount"] == "100.00"
    assert one_line(bounded, "600", **CUT)["description"] == (
        "calls: 600 units, 1000 included, at 1.00, prorated 1/2"
    )
    assert one_line({**bounded, "minimum": "300"}, "600", **CUT)["amount"] == "150.00"
    assert one_line({**bounded, "maximum": "100"}, "600", **CUT)["amount"] == "50.00"
    assert one_line({**bounded, "proration": "none"}, "600", **CUT)["amount"] == "0.00"


def test_a_cut_period_leaves_tier_bounds_tier_flats_and_packages_whole() -> None:
    tiered = {
        "model": "graduated",
        "tiers": [{"up_to": 10, "flat_amount": "4"}, {"unit_amount": 1}],
    }
    assert one_line({"id": "x", "meter": "m", "price": tiered}, "12", **CUT)["amount"] == "6.00"
    packages = {"model": "package", "amount": "5", "size": 10, "free_units": 10}
    assert one_line({"id": "x", "meter": "m", "price": packages}, "15", **CUT)["amount"] == "5.00"
    flat = {"model": "flat", "amount": "8"}
    assert one_line({"id": "x", "meter": "m", "price": flat}, "15", **CUT)["amount"] == "8.00"


def test_an_invoice_survives_pickling() -> None:
    slot = slots(PRO, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")[1]
    invoice = build_invoice(slot, PRO, {"tokens": used("7")})
    assert pickle.loads(pickle.dumps((slot, invoice))) == (slot, invoice)
