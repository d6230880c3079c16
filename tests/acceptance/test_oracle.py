"""The oracle against cases worked out by hand and against the published cases of peers."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import islice

import pytest

from tests.oracle import Oracle, number, plain, scalar
from tests.oracle_bills import Bills, money, price
from tests.oracle_times import day_of, hour_of, instant, periods, rfc3339, zone_of


def span(pair):
    return tuple(rfc3339(moment) for moment in pair)


@pytest.mark.parametrize(
    ("zone", "at", "hour", "day"),
    [
        (
            "Asia/Kathmandu",  # +05:45: local hours start at a quarter past
            "2026-03-01T18:15:00Z",
            ("2026-03-01T18:15:00Z", "2026-03-01T19:15:00Z"),
            ("2026-03-01T18:15:00Z", "2026-03-02T18:15:00Z"),
        ),
        (
            "Europe/Berlin",  # 02:00 does not exist: a day of 23 hours
            "2026-03-29T01:00:00Z",
            ("2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"),
            ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
        ),
        (
            "Europe/Berlin",  # the second 02:30: a day of 25 hours
            "2026-10-25T01:30:00Z",
            ("2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
            ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
        ),
        (
            "Australia/Lord_Howe",  # 02:00 (+11) becomes 01:30 (+10:30)
            "2026-04-04T15:10:00Z",
            ("2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"),
            ("2026-04-04T13:00:00Z", "2026-04-05T13:30:00Z"),
        ),
        (
            "Africa/Cairo",  # midnight does not exist: 00:00 becomes 01:00
            "2026-04-24T12:00:00Z",
            ("2026-04-24T12:00:00Z", "2026-04-24T13:00:00Z"),
            ("2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"),
        ),
        (
            "America/Havana",  # 01:00 becomes 00:00: midnight occurs twice
            "2025-11-02T05:30:00Z",
            ("2025-11-02T05:00:00Z", "2025-11-02T06:00:00Z"),
            ("2025-11-02T04:00:00Z", "2025-11-03T05:00:00Z"),
        ),
    ],
)
def test_hours_and_days_are_local(zone, at, hour, day):
    assert span(hour_of(instant(at), zone_of(zone))) == hour
    assert span(day_of(instant(at), zone_of(zone))) == day


def starts(start, zone, unit, count):
    found = islice(periods(instant(start), zone_of(zone), unit), count)
    return [begin.astimezone(zone_of(zone)).strftime("%m-%d %H:%M") for begin, _ in found]


def test_day_31_is_the_last_day_of_a_shorter_month_and_31_again_afterwards():
    expected = ["01-31 00:00", "02-28 00:00", "03-31 00:00", "04-30 00:00", "05-31 00:00"]
    assert starts("2026-01-31T00:00:00Z", "UTC", "month", 5) == expected
    assert starts("2024-01-31T00:00:00Z", "UTC", "month", 2)[1] == "02-29 00:00"


def test_29_february_is_28_in_other_years():
    assert starts("2024-02-29T00:00:00Z", "UTC", "year", 5)[3:] == ["02-28 00:00", "02-29 00:00"]


def test_an_anchor_keeps_its_wall_time_through_daylight_saving_changes():
    begins = [
        b
        for b, _ in islice(
            periods(instant("2026-02-28T23:00:00Z"), zone_of("Europe/Berlin"), "month"), 3
        )
    ]
    assert [rfc3339(b) for b in begins] == [
        "2026-02-28T23:00:00Z",
        "2026-03-31T22:00:00Z",
        "2026-04-30T22:00:00Z",
    ]


def test_a_wall_time_in_a_gap_uses_the_offset_before_and_a_repeated_one_is_the_first():
    berlin = zone_of("Europe/Berlin")
    gap = list(islice(periods(instant("2026-03-28T01:30:00Z"), berlin, "day"), 2))[1][0]
    assert rfc3339(gap) == "2026-03-29T01:30:00Z"
    twice = list(islice(periods(instant("2026-10-24T00:30:00Z"), berlin, "day"), 2))[1][0]
    assert rfc3339(twice) == "2026-10-25T00:30:00Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T05:45:00+05:45", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T00:00:00.1234569Z", datetime(2026, 1, 1, 0, 0, 0, 123456, UTC)),
    ],
)
def test_times_are_read_with_their_offset_and_cut_after_the_sixth_digit(text, expected):
    assert instant(text) == expected


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00", "2026-01-01", "2026-02-30T00:00:00Z", "x"])
def test_times_without_offset_or_off_the_calendar_are_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        instant(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "1"),
        ("1e3", "1000"),
        (Decimal("0.0000000000005"), "0"),
        (Decimal("0.0000000000015"), "0.000000000002"),
        ("-0", "0"),
        (Decimal("999999999999999.999999999999"), "999999999999999.999999999999"),
    ],
)
def test_numbers_have_12_places_half_even(value, expected):
    assert plain(number(value)) == expected


@pytest.mark.parametrize(
    "value",
    [
        True,
        None,
        "",
        "01",
        "+1",
        "1.",
        ".5",
        "NaN",
        " 1",
        10**15,
        "1" * 50,
        "999999999999999.9999999999995",
    ],
)
def test_what_is_no_number_or_too_large_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011
        number(value)


def test_scalars_compare_by_type():
    assert scalar(1) == scalar(Decimal("1.0"))
    assert len({scalar(1), scalar("1"), scalar(True), scalar(None)}) == 4


@pytest.mark.parametrize(
    ("currency", "amount", "expected"),
    [
        ("JPY", Fraction("1.5"), "2"),
        ("JPY", Fraction("-1.5"), "-2"),
        ("EUR", Fraction("0.005"), "0.01"),
        ("EUR", Fraction("0.00499"), "0.00"),
        ("EUR", Fraction("-0.004"), "0.00"),
        ("KWD", Fraction("1.0005"), "1.001"),
    ],
)
def test_money_rounds_half_away_from_zero_to_the_minor_unit(currency, amount, expected):
    assert money(amount, currency) == expected


OPENMETER = [
    {"up_to": "5", "flat_amount": "100"},
    {"up_to": "10", "flat_amount": "50"},
    {"up_to": "15", "unit_amount": "10"},
    {"unit_amount": "5"},
]
LAGO_VOLUME = [
    {"up_to": "100", "unit_amount": "2", "flat_amount": "10"},
    {"up_to": "200", "unit_amount": "1"},
    {"unit_amount": "0.5", "flat_amount": "50"},
]


@pytest.mark.parametrize(
    ("model", "quantity", "expected"),
    [
        # openmeterio/openmeter@7e57a394 rate/tieredgraduated_test.go
        ({"model": "graduated", "tiers": OPENMETER}, "0", "100"),
        ({"model": "graduated", "tiers": OPENMETER}, "5", "100"),
        ({"model": "graduated", "tiers": OPENMETER}, "5.001", "150"),
        ({"model": "graduated", "tiers": OPENMETER}, "12", "170"),
        ({"model": "graduated", "tiers": OPENMETER, "flat_at_zero": False}, "0", "0"),
        # getlago/lago-api@1b1c24a6 charge_models/volume_service_spec.rb
        ({"model": "volume", "tiers": LAGO_VOLUME}, "0", "10"),
        ({"model": "volume", "tiers": LAGO_VOLUME}, "100", "210"),
        ({"model": "volume", "tiers": LAGO_VOLUME}, "101", "101"),
        ({"model": "volume", "tiers": LAGO_VOLUME}, "300", "200"),
        # by hand
        ({"model": "flat", "amount": "7"}, "0", "7"),
        ({"model": "unit", "unit_amount": "0.002"}, "1500", "3"),
        ({"model": "package", "amount": "5", "size": "100", "free_units": "100"}, "100", "0"),
        ({"model": "package", "amount": "5", "size": "100", "free_units": "100"}, "100.1", "5"),
        ({"model": "package", "amount": "5", "size": "100"}, "200", "10"),
        ({"model": "percentage", "rate": "2.9", "free_units": "100"}, "200", "2.9"),
    ],
)
def test_prices(model, quantity, expected):
    assert price(model, Fraction(quantity)) == Fraction(expected)


CATALOG = {
    "meters": [
        {"id": "n", "event_name": "e", "aggregation": "count", "group_by": ["g"]},
        {"id": "sum", "event_name": "e", "aggregation": "sum", "property": "v"},
        {"id": "avg", "event_name": "e", "aggregation": "avg", "property": "v"},
        {"id": "last", "event_name": "e", "aggregation": "latest", "property": "v"},
        {"id": "uniq", "event_name": "e", "aggregation": "unique_count", "property": "v"},
    ],
    "customers": [{"id": "c", "time_zone": "UTC"}],
    "plans": [
        {
            "id": "p",
            "currency": "EUR",
            "charges": [
                {"id": "seat", "fee": "10", "when": "advance"},
                {"id": "use", "meter": "sum", "price": {"model": "unit", "unit_amount": "0.5"}},
            ],
        }
    ],
    "subscriptions": [
        {
            "id": "s",
            "customer": "c",
            "plan": "p",
            "start": "2026-01-10T00:00:00Z",
            "end": "2026-02-20T00:00:00Z",
        }
    ],
}


def event(key, at, value=1, **more):
    return {
        "event_id": key,
        "event_name": "e",
        "external_customer_id": "c",
        "timestamp": at,
        "ingested_at": "2026-06-01T00:00:00Z",
        "properties": {"v": value} if value is not None else {},
        **more,
    }


EVENTS = [
    event("a", "2026-01-31T00:00:00Z", 1),
    event("b", "2026-01-31T00:00:00Z", "2"),
    event("b", "2026-02-15T00:00:00Z", 5, ingested_at="2026-06-01T00:00:01Z"),
    event("d", "2026-01-31T00:30:00Z", 2),
    event("f", "2026-02-10T00:00:00Z", None),
    event("g", "2026-02-19T23:59:59.999999Z", Decimal("1.0")),
    event("h", "2026-02-20T00:00:00Z", 3),
    event("", "2026-02-20T00:00:00Z", 3),
    event("i", "2026-02-20T00:00:00Z", 3, external_customer_id="nobody"),
]


def test_a_small_month_by_hand():
    oracle = Oracle(CATALOG, EVENTS)
    assert oracle.counts == {
        "read": 9,
        "accepted": 7,
        "duplicate": 1,
        "conflict": 1,
        "quarantined": 1,
        "meter_errors": 4,
        "unattributed": 1,
        "rows": 4 + 3 * 4,
    }
    values = {
        (row["subscription"], row["meter"], row["start"]): (row["value"], row["events"])
        for row in oracle.usage("period")
    }
    first, second = "2026-01-10T00:00:00Z", "2026-02-10T00:00:00Z"
    assert values["s", "sum", first] == ("5", 3)
    assert values["s", "sum", second] == ("1", 1)
    assert values[None, "sum", "2026-02-01T00:00:00Z"] == ("3", 1)
    assert values[None, "n", "2026-01-01T00:00:00Z"] == ("3", 3)
    assert values[None, "avg", "2026-01-01T00:00:00Z"] == ("1.666666666667", 3)
    assert values[None, "last", "2026-01-01T00:00:00Z"] == ("2", 3)
    assert values[None, "uniq", "2026-01-01T00:00:00Z"] == ("3", 3)  # 1, "2" and 2


def test_a_small_bill_by_hand():
    bills = Bills(Oracle(CATALOG, EVENTS)).bill(instant("2026-03-01T00:00:00Z"))
    found = [
        (
            bill["period_end"],
            [(line["charge"], line["amount"]) for line in bill["lines"]],
            bill["total"],
        )
        for bill in bills
    ]
    assert found == [
        ("2026-01-10T00:00:00Z", [("seat", "10.00")], "10.00"),
        # 10 of the 28 days from 10 February to 10 March
        ("2026-02-10T00:00:00Z", [("use", "2.50"), ("seat", "3.57")], "6.07"),
        ("2026-02-20T00:00:00Z", [("use", "0.50")], "0.50"),
    ]
