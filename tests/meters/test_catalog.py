import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from meters.catalog import PRICE_MODELS, Catalog, Fee, Meter, Plan, Subscription, UsageCharge
from meters.catalog_values import Misfit
from meters.currencies import currency_exponent

PLAN: dict[str, Any] = {
    "id": "pro",
    "currency": "EUR",
    "charges": [
        {"id": "fee", "fee": "49.00"},
        {"id": "calls", "meter": "calls", "price": {"model": "unit", "unit_amount": "0.002"}},
        {"id": "tokens", "meter": "tokens", "price": {"model": "flat", "amount": 1}},
    ],
}


def meter(**keys: object) -> Meter:
    return Meter.model_validate({"id": "m", "event_name": "e", "aggregation": "count", **keys})


def price(**keys: object) -> Any:
    charge = {"id": "c", "meter": "m", "price": keys}
    plan = Plan.model_validate({"id": "p", "currency": "EUR", "charges": [charge]})
    (found,) = plan.charges
    assert isinstance(found, UsageCharge)
    return found.price


def test_a_charge_is_a_fee_where_it_has_one_and_else_prices_a_meter() -> None:
    plan = Plan.model_validate(PLAN)
    assert [type(charge) for charge in plan.charges] == [Fee, UsageCharge, UsageCharge]
    assert plan.meters == {"calls", "tokens"}


def test_every_price_model_is_known_by_its_name() -> None:
    tiers = [{"unit_amount": 1}]
    keys: dict[str, dict[str, object]] = {
        "flat": {"amount": 1},
        "unit": {"unit_amount": 1},
        "package": {"amount": 1, "size": 2},
        "graduated": {"tiers": tiers},
        "volume": {"tiers": tiers},
        "percentage": {"rate": 1},
        "graduated_percentage": {"tiers": [{"rate": 1}]},
        "dynamic": {"property": "price"},
    }
    assert {name: type(price(model=name, **of)) for name, of in keys.items()} == PRICE_MODELS


@pytest.mark.parametrize("value", ["0.002", Decimal("0.002"), "2e-3"])
def test_amounts_are_exact(value: object) -> None:
    assert price(model="unit", unit_amount=value).unit_amount == Decimal("0.002")


@pytest.mark.parametrize(
    "value",
    [
        *(0.002, True, None, "1,5", "€5", " 5", "5 ", "+5", "05", ".5", "NaN", "Infinity", "", "٣"),
        *("1e15", "1e-21", "1e99999999999999999999", Decimal("NaN"), Decimal("-Infinity"), -1, []),
    ],
)
def test_what_is_no_exact_amount_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=r"must .*\(got "):
        price(model="unit", unit_amount=value)


@pytest.mark.parametrize(
    ("bounds", "wrong"),
    [
        ([None], []),
        (["0.1", 1, None], []),
        ([10, 5, None], [1]),
        ([10, 10, None], [1]),
        ([None, 10, None], [0]),
        ([None, None], [0]),
        ([10, 1000], [1]),
        ([5, 3, 2, 9], [1, 2, 3]),
    ],
)
def test_tiers_rise_without_gaps_and_the_last_is_open(
    bounds: list[object], wrong: list[int]
) -> None:
    tiers = [{"up_to": bound} for bound in bounds]
    for model in ("graduated", "volume"):
        if not wrong:
            assert len(price(model=model, tiers=tiers).tiers) == len(bounds)
            continue
        with pytest.raises(ValidationError) as caught:
            price(model=model, tiers=tiers)
        (details,) = caught.value.errors()
        misfit = details["ctx"]["error"]
        assert isinstance(misfit, Misfit)
        assert [path for path, _ in misfit.conflicts] == [
            ("tiers", index, "up_to") for index in wrong
        ]


def test_a_meter_has_one_source_of_values_and_count_has_none() -> None:
    assert meter().property is None
    assert meter(aggregation="sum", expression="a + 1").expression == "a + 1"
    for keys in (
        {"property": "p"},
        {"expression": "a"},
        {"aggregation": "sum"},
        {"aggregation": "sum", "property": "p", "expression": "a"},
    ):
        with pytest.raises(ValidationError, match="must "):
            meter(**keys)


def test_filters_compare_as_json_scalars_by_type() -> None:
    found = meter(filters={"x": [1, Decimal("0.50"), "1", True, None]}).allowed
    assert found == {"x": frozenset({"1", "0.5", '"1"', "true", "null"})}


@pytest.mark.parametrize("value", [0.5, [], 10**15, Decimal("1e-13"), Decimal("NaN"), b"x"])
def test_filters_hold_only_what_an_event_can_have(value: object) -> None:
    with pytest.raises(ValidationError, match=r"must .*\(got "):
        meter(filters={"x": [value]})


@pytest.mark.parametrize(
    "text",
    [
        *("2026-11-01", "2026-11-01T00:00:00", "20261101T000000Z", "2026-11-01T00:00Z", "now"),
        *("2026-02-29T00:00:00Z", "1969-12-31T23:59:59Z", "2300-01-01T00:00:00Z"),
        *("0001-01-01T00:00:00+23:00", "2026-11-01T00:00:00+25:00", 5, None, True),
    ],
)
def test_times_need_an_offset_and_a_sensible_year(text: object) -> None:
    with pytest.raises(ValidationError, match=r"must .*\(got "):
        Subscription.model_validate({"id": "s", "customer": "c", "plan": "p", "start": text})


def test_times_become_utc() -> None:
    found = Subscription.model_validate(
        {"id": "s", "customer": "c", "plan": "p", "start": "2026-11-01T02:00:00+02:00"}
    )
    assert found.start == datetime(2026, 11, 1, tzinfo=UTC)
    assert found.start.tzinfo is UTC


@pytest.mark.parametrize(
    ("code", "exponent"),
    [
        ("EUR", 2),
        ("JPY", 0),
        ("KWD", 3),
        ("CLF", 4),
        ("ISK", 0),
        ("MGA", 2),
        ("XOF", 0),
        ("XCG", 2),
    ],
)
def test_currencies_know_their_minor_unit(code: str, exponent: int) -> None:
    assert currency_exponent(code) == exponent


@pytest.mark.parametrize("code", ["eur", "EURO", "", "XAU", "XXX", "XTS", "XDR", "É"])
def test_what_is_no_money_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="must be an ISO 4217 currency code"):
        currency_exponent(code)


def test_a_catalog_is_immutable_and_picklable_and_finds_by_id() -> None:
    catalog = Catalog.model_validate(
        {"meters": [{"id": "m", "event_name": "e", "aggregation": "count"}], "plans": [PLAN]}
    )
    assert catalog.plans_by_id["pro"].charges == catalog.plans[0].charges
    assert catalog.meters[0].allowed == {}
    assert pickle.loads(pickle.dumps(catalog)) == catalog
    with pytest.raises(ValidationError, match="frozen"):
        setattr(catalog.meters[0], "id", "other")  # noqa: B010
