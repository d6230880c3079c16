"""Touched hours against a slow model that walks over instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.buckets import hour_of
from meters.touched import (
    CUSTOMER,
    HOURS,
    first_owned_hour,
    kept_marks,
    odd_customers,
    owned_events,
    touched_hours,
)
from meters.usage import INSTANT
from meters.zones import microseconds

T0 = datetime(2026, 10, 24, 20, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Asia/Kolkata", "Australia/Lord_Howe"]

Hour = tuple[str, datetime, datetime]


def frame(**columns: list[object]) -> pl.DataFrame:
    """Columns of customers and instants."""
    kinds = {CUSTOMER: pl.String, "identity_hash": pl.Binary}
    return pl.DataFrame(columns, schema={name: kinds.get(name, INSTANT) for name in columns})


def hours_around(start: datetime, end: datetime, zone: str) -> set[tuple[datetime, datetime]]:
    """The local hours that overlap [start, end), found minute by minute."""
    found = set()
    at = start
    while at < end:
        hour = hour_of(at, zone)
        found.add((hour.start, hour.end))
        at += timedelta(minutes=1)
    return found


def model(
    slots: set[tuple[str, datetime]],
    stored: set[Hour],
    zones: dict[str, str],
    closed: dict[str, int],
) -> set[tuple[str, datetime, datetime, int]]:
    """Hours grow by stored buckets until nothing overlaps; connected ones have one owner."""
    result = set()
    for customer, at in slots:
        zone = zones.get(customer, "UTC")
        for hour in hours_around(at, at + QUARTER, zone):
            piece = {hour}
            before = None
            while before != piece:
                before = set(piece)
                for name, start, end in stored:
                    overlapped = hours_around(start, end, zone)
                    if name == customer and overlapped & piece:
                        piece |= overlapped
            until = closed.get(customer)
            owned = until is not None and any(microseconds(end) > until for _, end in piece)
            result |= {(customer, start, end, int(owned)) for start, end in piece}
    return result


@st.composite
def cases(draw: st.DrawFn) -> tuple[object, ...]:
    names = ["a", "b", "stranger"]
    zones = {name: draw(st.sampled_from(ZONES)) for name in names[:2]}
    slots = draw(
        st.sets(st.tuples(st.sampled_from(names), st.integers(0, 60)), min_size=1, max_size=6)
    )
    stored = set()
    for name in names[:2]:
        old = draw(st.sampled_from(ZONES))
        for number in draw(st.sets(st.integers(0, 60), max_size=12)):
            hour = hour_of(T0 + number * QUARTER, old)
            stored.add((name, hour.start, hour.end))
    closed = {
        name: microseconds(T0 + draw(st.integers(-1, 70)) * QUARTER)
        for name in draw(st.sets(st.sampled_from(names)))
    }
    return {(name, T0 + number * QUARTER) for name, number in slots}, stored, zones, closed


@given(case=cases())
def test_touched_hours_are_those_of_the_model(case: tuple[object, ...]) -> None:
    slots, stored, zones, closed = case
    buckets = frame(
        external_customer_id=[row[0] for row in stored],
        bucket_start=[row[1] for row in stored],
        bucket_end=[row[2] for row in stored],
    )
    odd = odd_customers(buckets, zones)
    assert set(odd) == {
        name for name, start, end in stored if end > hour_of(start, zones[name]).end
    }
    # Buckets of others change nothing: they lie within one hour each.
    for some in (buckets, buckets.filter(pl.col(CUSTOMER).is_in(odd))):
        found = touched_hours(
            frame(external_customer_id=[name for name, _ in slots], slot=[at for _, at in slots]),
            some,
            zones,
            closed,
        )
        assert found.schema == HOURS
        assert not found.is_duplicated().any()
        assert set(found.iter_rows()) == model(slots, stored, zones, closed)


def test_without_owners_nothing_is_owned() -> None:
    slots = frame(external_customer_id=["a"], slot=[T0])
    nothing = frame(external_customer_id=[], bucket_start=[], bucket_end=[])
    found = touched_hours(slots, nothing, {"a": "UTC"})
    assert found.rows() == [("a", T0, T0 + 4 * QUARTER, 0)]


@given(
    at=st.integers(0, 40),
    closed=st.integers(0, 40),
    zone=st.sampled_from(ZONES),
)
def test_an_event_is_owned_where_its_hour_ends_after_what_is_closed(
    at: int, closed: int, zone: str
) -> None:
    moment, until = T0 + at * QUARTER, microseconds(T0 + closed * QUARTER)
    events = frame(external_customer_id=["a", "b"], timestamp=[moment, moment])
    found = owned_events(events, {"a": zone}, {"a": until, "b": None})
    owned = microseconds(hour_of(moment, zone).end) > until
    assert found.select(CUSTOMER, "timestamp", "closed").rows() == (
        [("a", moment, until)] if owned else []
    )
    # What is told to the user: nothing before that instant is owned, in any zone.
    before = first_owned_hour([until], [zone])
    if microseconds(moment) < before:
        assert not owned
    assert before > until - 2 * 3600 * 10**6


def test_the_first_owned_hour_is_that_of_the_zone_where_it_begins_first() -> None:
    until = microseconds(T0 + QUARTER)
    assert first_owned_hour([until], ["Europe/Berlin"]) == microseconds(T0)
    assert first_owned_hour([until, until + 10**10], ["Asia/Kathmandu"]) == microseconds(T0)
    assert first_owned_hour([microseconds(T0)], ["Asia/Kathmandu"]) == microseconds(
        T0 - 3 * QUARTER
    )


@pytest.mark.parametrize(
    ("hour", "identity", "kept"),
    [(0, b"1", True), (1, b"1", False), (1, b"2", True), (0, b"2", True)],
)
def test_marks_of_owned_hours_and_of_split_identities_stay(
    hour: int, identity: bytes, kept: bool
) -> None:
    marks = frame(
        external_customer_id=["a"],
        bucket_start=[T0 + hour * 4 * QUARTER + QUARTER],
        identity_hash=[identity],
    )
    owned = frame(external_customer_id=["a", "b"], hour=[T0, T0 + 4 * QUARTER])
    split = frame(external_customer_id=["a"], bucket_start=[T0], identity_hash=[b"2"])
    assert kept_marks(marks, owned, split, {"a": "UTC"}).height == int(kept)
