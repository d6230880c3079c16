"""Golden cases of time: the expected spans are worked out by hand from the zones' rules."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.acceptance.samples import catalog, event, found, plan, subscription, unit

CATALOG = catalog(
    {
        "midnight": "UTC",
        "newyear": "America/New_York",
        "day31": "UTC",
        "leap": "UTC",
        "spring": "Europe/Berlin",
        "autumn": "Europe/Berlin",
        "nepal": "Asia/Kathmandu",
        "howe": "Australia/Lord_Howe",
        "cut": "UTC",
        "clock": "Europe/Berlin",
        "free": "Europe/Berlin",
        "written": "UTC",
    },
    plans=(plan("monthly", unit("c", "calls")), plan("daily", unit("c", "calls"), period="day")),
    subscriptions=(
        subscription("s31", "day31", "monthly", "2026-01-31T00:00:00Z"),
        subscription("sleap", "leap", "monthly", "2024-01-31T00:00:00Z"),
        subscription("sspring", "spring", "monthly", "2026-02-28T23:00:00Z"),
        subscription("snepal", "nepal", "monthly", "2026-01-31T18:15:00Z"),
        subscription("scut", "cut", "monthly", "2026-01-15T10:30:00Z", "2026-03-15T10:45:00Z"),
        subscription("sclock", "clock", "daily", "2026-03-28T01:30:00Z"),
    ),
)

TIMES = {
    "midnight": ["2026-03-31T23:59:59.999999Z", "2026-04-01T00:00:00Z"],
    "newyear": ["2026-01-01T04:59:59.999999Z", "2026-01-01T05:00:00Z"],
    "day31": [
        "2026-01-31T00:00:00Z",
        "2026-02-27T23:59:59.999999Z",
        "2026-02-28T00:00:00Z",
        "2026-03-30T23:59:59.999999Z",
        "2026-03-31T00:00:00Z",
        "2026-04-29T23:59:59.999999Z",
        "2026-04-30T00:00:00Z",
        "2026-05-31T00:00:00Z",
    ],
    "leap": ["2024-02-28T23:59:59.999999Z", "2024-02-29T00:00:00Z", "2024-02-29T23:59:59Z"],
    "spring": [
        "2026-03-28T23:00:00Z",
        "2026-03-29T00:59:59.999999Z",
        "2026-03-29T01:00:00Z",
        "2026-03-29T21:59:59.999999Z",
        "2026-03-29T22:00:00Z",
        "2026-03-31T21:59:59.999999Z",
        "2026-03-31T22:00:00Z",
    ],
    "autumn": [
        "2025-10-24T22:00:00Z",
        "2025-10-25T21:59:59.999999Z",
        "2025-10-26T00:30:00Z",
        "2025-10-26T01:30:00Z",
        "2025-10-26T22:59:59.999999Z",
        "2025-10-26T23:00:00Z",
    ],
    "nepal": ["2026-02-28T18:14:59.999999Z", "2026-02-28T18:15:00Z", "2026-02-28T19:14:59Z"],
    "howe": ["2026-04-04T14:30:00Z", "2026-04-04T15:29:59Z", "2026-04-04T15:30:00Z"],
    "cut": [
        "2026-01-15T10:29:59.999999Z",
        "2026-01-15T10:30:00Z",
        "2026-02-15T10:29:59.999999Z",
        "2026-02-15T10:30:00Z",
        "2026-03-15T10:44:59.999999Z",
        "2026-03-15T10:45:00Z",
    ],
    "clock": ["2026-03-29T01:29:59Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
    "free": ["2026-03-31T21:59:59.999999Z", "2026-03-31T22:00:00Z"],
    "written": [
        "2026-05-01T05:45:00+05:45",
        "2026-04-30T19:00:00-05:00",
        "2026-05-01T00:00:00.0000009Z",
        "2026-05-01T00:59:59.9999999Z",
    ],
}


@pytest.fixture(scope="module")
def usage(module_site):
    site = module_site(CATALOG)
    events = [
        event(f"{number}", customer, timestamp)
        for customer, timestamps in TIMES.items()
        for number, timestamp in enumerate(timestamps)
    ]
    counts = site.backfill(site.write("events.jsonl", events))
    assert counts["accepted"] == len(events)
    return SimpleNamespace(**{name: site.usage(name) for name in ("hour", "day", "period")})


def test_an_event_at_midnight_belongs_to_the_day_and_hour_that_begin(usage):
    assert found(usage.hour, customer="midnight") == [
        ("2026-03-31T23:00:00Z", "2026-04-01T00:00:00Z", "1"),
        ("2026-04-01T00:00:00Z", "2026-04-01T01:00:00Z", "1"),
    ]
    assert found(usage.day, customer="midnight") == [
        ("2026-03-31T00:00:00Z", "2026-04-01T00:00:00Z", "1"),
        ("2026-04-01T00:00:00Z", "2026-04-02T00:00:00Z", "1"),
    ]


def test_without_a_subscription_the_period_is_the_calendar_month_of_the_zone(usage):
    assert found(usage.period, customer="midnight") == [
        ("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z", "1"),
        ("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "1"),
    ]
    assert found(usage.period, customer="newyear") == [
        ("2025-12-01T05:00:00Z", "2026-01-01T05:00:00Z", "1"),
        ("2026-01-01T05:00:00Z", "2026-02-01T05:00:00Z", "1"),
    ]
    assert found(usage.period, customer="free") == [
        ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "1"),
        ("2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z", "1"),
    ]


def test_an_anchor_on_the_31st_is_the_last_day_of_shorter_months_and_the_31st_again(usage):
    assert found(usage.period, customer="day31", subscription="s31") == [
        ("2026-01-31T00:00:00Z", "2026-02-28T00:00:00Z", "2"),
        ("2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z", "2"),
        ("2026-03-31T00:00:00Z", "2026-04-30T00:00:00Z", "2"),
        ("2026-04-30T00:00:00Z", "2026-05-31T00:00:00Z", "1"),
        ("2026-05-31T00:00:00Z", "2026-06-30T00:00:00Z", "1"),
    ]


def test_the_leap_day_is_a_day_and_may_begin_a_period(usage):
    assert found(usage.period, customer="leap") == [
        ("2024-01-31T00:00:00Z", "2024-02-29T00:00:00Z", "1"),
        ("2024-02-29T00:00:00Z", "2024-03-31T00:00:00Z", "2"),
    ]
    assert found(usage.day, customer="leap") == [
        ("2024-02-28T00:00:00Z", "2024-02-29T00:00:00Z", "1"),
        ("2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z", "2"),
    ]


def test_the_day_that_loses_an_hour_has_23(usage):
    assert found(usage.day, customer="spring")[0] == (
        "2026-03-28T23:00:00Z",
        "2026-03-29T22:00:00Z",
        "4",
    )
    assert found(usage.hour, customer="spring")[:3] == [
        ("2026-03-28T23:00:00Z", "2026-03-29T00:00:00Z", "1"),
        ("2026-03-29T00:00:00Z", "2026-03-29T01:00:00Z", "1"),
        ("2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z", "1"),
    ]


def test_a_period_keeps_its_local_start_through_a_change_of_offset(usage):
    assert found(usage.period, customer="spring") == [
        ("2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "6"),
        ("2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z", "1"),
    ]


def test_the_day_that_gains_an_hour_has_25_and_the_repeated_hour_is_two(usage):
    assert found(usage.day, customer="autumn") == [
        ("2025-10-24T22:00:00Z", "2025-10-25T22:00:00Z", "2"),
        ("2025-10-25T22:00:00Z", "2025-10-26T23:00:00Z", "3"),
        ("2025-10-26T23:00:00Z", "2025-10-27T23:00:00Z", "1"),
    ]
    assert found(usage.hour, customer="autumn")[2:4] == [
        ("2025-10-26T00:00:00Z", "2025-10-26T01:00:00Z", "1"),
        ("2025-10-26T01:00:00Z", "2025-10-26T02:00:00Z", "1"),
    ]


def test_hours_of_a_zone_at_5_45_begin_at_a_quarter_past(usage):
    assert found(usage.hour, customer="nepal") == [
        ("2026-02-28T17:15:00Z", "2026-02-28T18:15:00Z", "1"),
        ("2026-02-28T18:15:00Z", "2026-02-28T19:15:00Z", "2"),
    ]
    assert found(usage.period, customer="nepal") == [
        ("2026-01-31T18:15:00Z", "2026-02-28T18:15:00Z", "1"),
        ("2026-02-28T18:15:00Z", "2026-03-31T18:15:00Z", "2"),
    ]


def test_a_half_hour_change_leaves_a_bucket_of_30_minutes(usage):
    assert found(usage.hour, customer="howe") == [
        ("2026-04-04T14:00:00Z", "2026-04-04T15:00:00Z", "1"),
        ("2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z", "1"),
        ("2026-04-04T15:30:00Z", "2026-04-04T16:30:00Z", "1"),
    ]


def test_an_hour_cut_by_a_period_boundary_is_printed_whole_and_billed_apart(usage):
    assert found(usage.hour, customer="cut", subscription="scut") == [
        ("2026-01-15T10:00:00Z", "2026-01-15T11:00:00Z", "1"),
        ("2026-02-15T10:00:00Z", "2026-02-15T11:00:00Z", "2"),
        ("2026-03-15T10:00:00Z", "2026-03-15T11:00:00Z", "1"),
    ]
    assert found(usage.period, customer="cut", subscription="scut") == [
        ("2026-01-15T10:30:00Z", "2026-02-15T10:30:00Z", "2"),
        ("2026-02-15T10:30:00Z", "2026-03-15T10:30:00Z", "1"),
        ("2026-03-15T10:30:00Z", "2026-03-15T10:45:00Z", "1"),
    ]
    assert found(usage.hour, customer="cut", subscription=None) == [
        ("2026-01-15T10:00:00Z", "2026-01-15T11:00:00Z", "1"),
        ("2026-03-15T10:00:00Z", "2026-03-15T11:00:00Z", "1"),
    ]


def test_a_period_start_in_the_missing_hour_uses_the_offset_before_the_change(usage):
    # 02:30 in Berlin, every day; on 29 March that is 02:30+01:00, and 02:30+02:00 from the 30th.
    assert found(usage.period, customer="clock") == [
        ("2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "1"),
        ("2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z", "1"),
        ("2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z", "1"),
    ]


def test_an_offset_is_an_instant_and_digits_after_the_sixth_are_cut_off(usage):
    assert found(usage.hour, customer="written") == [
        ("2026-05-01T00:00:00Z", "2026-05-01T01:00:00Z", "4")
    ]
