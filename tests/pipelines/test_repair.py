"""Repair: whatever the order, usage ends as the raw events say, and nobody else's is touched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.buckets import hour_of
from meters.catalog import Catalog
from meters.timestamps import format_instant, parse_timestamp
from meters.zones import from_microseconds, microseconds
from tests.generators import Row
from tests.meters.chain import Usage, catalog_of, decoded, event, meter, plain_usage
from tests.pipelines.runs import Tenant
from warehouse import leases
from warehouse.ownership import WHOLE_BUCKET
from warehouse.touched import drop_touched

NewTenant = Callable[[Catalog], Tenant]

METERS = (meter("sum"), meter("unique_count", id="u", group_by=["g"]))
CATALOG = catalog_of(*METERS)
TWO_ZONES = Catalog.model_validate(
    {
        "meters": list(METERS),
        "customers": [
            {"id": "c", "time_zone": "Europe/Berlin"},
            {"id": "d", "time_zone": "Asia/Kathmandu"},
        ],
    }
)
NOTHING = {"marks": 0, "resolved": 0, "kept_open": 0, "customers": 0, "rows": 0, "tombstones": 0}
T0 = datetime(2026, 1, 10, 8, tzinfo=UTC)


def sent(number: object, at: str, x: Any = 1, ingested: str = "11T00:00:00", **given: Any) -> Row:
    return event(
        number,
        properties={"x": x, "g": "é"},
        timestamp=f"2026-01-{at}Z",
        ingested_at=f"2026-01-{ingested}Z",
        **given,
    )


def sums(usage: Usage) -> dict[str, int]:
    """Start of the bucket -> sum of the meter `m`, over all customers."""
    found: dict[str, int] = {}
    for (_, name, _, _, start), (_, state) in usage.items():
        if name == "m":
            key = format_instant(from_microseconds(start))[8:16]
            found[key] = found.get(key, 0) + state.sum // 10**12
    return found


def test_a_late_event_counts_after_a_repair_and_not_before(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    tenant.backfill([sent(1, "10T10:05:00"), sent(2, "10T11:05:00")])
    tenant.mark(tenant.store([sent(3, "10T10:30:00", 5)]))
    assert sums(tenant.usage()) == {"10T10:00": 1, "10T11:00": 1}
    expected = {"marks": 1, "resolved": 1, "kept_open": 0, "customers": 1, "tombstones": 0}
    assert tenant.repair() == {**expected, "rows": 2}
    assert sums(tenant.usage()) == {"10T10:00": 6, "10T11:00": 1}
    assert tenant.dirty() == set()
    before = tenant.written("usage")
    assert tenant.repair() == NOTHING
    assert tenant.written("usage") == before
    tenant.mark(tenant.store([sent(3, "10T10:30:00", 5)]))
    assert tenant.repair() == {**expected, "rows": 0}
    assert tenant.written("usage") == before


def test_only_the_marks_of_the_customer_are_resolved(new_tenant: NewTenant) -> None:
    tenant = new_tenant(TWO_ZONES)
    events = [sent(1, "10T10:05:00"), sent(1, "10T10:05:00", external_customer_id="d")]
    tenant.mark(tenant.store(events))
    assert tenant.repair("d")["resolved"] == 1
    assert set(tenant.usage()) == set(plain_usage(TWO_ZONES, events[1:]))
    assert tenant.dirty() == {("c", "2026-01-10T10:00:00Z", "late")}
    tenant.repair()
    assert tenant.usage() == plain_usage(TWO_ZONES, events)


def test_a_conflict_is_resolved_to_the_copy_that_came_first(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    first = sent(1, "10T10:05:00", 7, "11T00:00:00")
    tenant.backfill([sent(1, "10T12:05:00", 9, "11T00:00:01"), sent(2, "10T12:06:00", 1)])
    tenant.mark(tenant.store([first]), "conflict")
    assert tenant.repair()["tombstones"] == 0
    assert sums(tenant.usage()) == {"10T10:00": 7, "10T12:00": 1}
    assert [row["reason"] for row in tenant.refused()] == ["conflict"]


def test_of_copies_received_together_the_smaller_content_hash_counts(
    new_tenant: NewTenant,
) -> None:
    tenant = new_tenant(CATALOG)
    copies = [sent(1, f"10T1{n}:05:00", n) for n in range(4)]
    hashes = decoded(copies).events["content_hash"].to_pylist()
    winner = hashes.index(min(hashes))
    for copy in copies:
        tenant.mark(tenant.store([copy]), "conflict")
        tenant.repair()
    assert sums(tenant.usage()) == {f"10T1{winner}:00": winner}


def test_a_mark_without_an_event_recomputes_its_bucket(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    table = tenant.store([sent(1, "10T10:05:00", 3), sent(2, "10T11:05:00", 4)])
    column = table.schema.get_field_index("identity_hash")
    marks = table.slice(0, 1).set_column(column, "identity_hash", [[WHOLE_BUCKET]])
    tenant.mark(marks, "restart")
    assert tenant.repair()["resolved"] == 1
    assert sums(tenant.usage()) == {"10T10:00": 3}


def test_a_span_is_recomputed_as_a_whole_and_no_more(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    events = [sent(n, f"10T{n:02}:05:00", n) for n in range(8, 13)]
    tenant.store(events)
    span = parse_timestamp("2026-01-10T09:00:00Z"), parse_timestamp("2026-01-10T11:00:00Z")
    assert tenant.repair(span=span) == {**NOTHING, "customers": 1, "rows": 4}
    assert sums(tenant.usage()) == {"10T09:00": 9, "10T10:00": 10}
    assert tenant.repair(span=span) == {**NOTHING, "customers": 1}
    # An event that has left the raw rows leaves usage behind, which the span finds.
    tenant.warehouse.command(
        "DELETE FROM events WHERE tenant_id = {t:String} AND event_id = 'event 9'",
        {"t": tenant.name},
    )
    assert tenant.repair(span=span) == {**NOTHING, "customers": 1, "tombstones": 2}
    assert sums(tenant.usage()) == {"10T10:00": 10}


def test_a_span_takes_the_marks_in_it(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    tenant.mark(tenant.store([sent(1, "10T08:05:00"), sent(2, "10T10:05:00")]))
    span = parse_timestamp("2026-01-10T10:00:00Z"), parse_timestamp("2026-01-10T11:00:00Z")
    assert tenant.repair(span=span)["resolved"] == 1
    assert tenant.dirty() == {("c", "2026-01-10T08:00:00Z", "late")}


# Owners


def test_hours_of_the_stream_are_left_alone_and_their_marks_stay(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    tenant.own("2026-01-10T11:00:00Z")
    tenant.mark(tenant.store([sent(1, "10T10:59:59"), sent(2, "10T11:00:00")]))
    expected = {"marks": 2, "resolved": 1, "kept_open": 1, "customers": 1, "tombstones": 0}
    assert tenant.repair() == {**expected, "rows": 2}
    assert sums(tenant.usage()) == {"10T10:00": 1}
    assert tenant.dirty() == {("c", "2026-01-10T11:00:00Z", "late")}
    assert tenant.repair()["kept_open"] == 1
    # An hour that is partly closed is still the stream's.
    tenant.own("2026-01-10T11:59:00Z")
    assert tenant.repair()["resolved"] == 0
    # A drained stream owns nothing.
    tenant.own("2026-01-10T11:59:00Z", owned=False)
    assert tenant.repair()["resolved"] == 1
    assert sums(tenant.usage()) == {"10T10:00": 1, "10T11:00": 1}


def test_an_event_with_copies_on_both_sides_stays_dirty(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    tenant.own("2026-01-10T11:00:00Z")
    early, late = sent(1, "10T10:05:00", 1, "11T00:00:00"), sent(1, "10T12:05:00", 2, "11T00:00:01")
    tenant.store([late])  # the stream has counted this one
    tenant.mark(tenant.store([early]))
    for _ in range(2):
        assert tenant.repair()["kept_open"] == 1
        assert sums(tenant.usage()) == {"10T10:00": 1}
        assert tenant.dirty() == {("c", "2026-01-10T10:00:00Z", "late")}
    tenant.own("2026-01-10T13:00:00Z")
    assert tenant.repair()["resolved"] == 1


def test_a_backfill_marks_what_it_leaves_to_the_stream(new_tenant: NewTenant) -> None:
    tenant = new_tenant(CATALOG)
    tenant.store([sent(1, "10T12:05:00", 2, "11T00:00:01")])
    tenant.own("2026-01-10T11:00:00Z")
    tenant.backfill([sent(1, "10T10:05:00", 1, "11T00:00:00")])
    assert sums(tenant.usage()) == {"10T10:00": 1}
    assert tenant.dirty() == {("c", "2026-01-10T12:00:00Z", "left")}
    tenant.own("2026-01-10T13:00:00Z")
    assert tenant.repair()["resolved"] == 1


def test_a_span_leaves_the_hours_of_the_stream_without_marking_them(
    new_tenant: NewTenant,
) -> None:
    tenant = new_tenant(CATALOG)
    tenant.store([sent(1, "10T10:05:00"), sent(2, "10T12:05:00")])
    tenant.own("2026-01-10T11:00:00Z")
    span = parse_timestamp("2026-01-10T00:00:00Z"), parse_timestamp("2026-01-11T00:00:00Z")
    assert tenant.repair(span=span) == {**NOTHING, "customers": 1, "rows": 2}
    assert sums(tenant.usage()) == {"10T10:00": 1}
    assert tenant.dirty() == set()


# Time zones


def moved(zone: str) -> Catalog:
    return catalog_of(*METERS, zone=zone)


@pytest.mark.parametrize("again", ["all of it", "one event of it"])
def test_a_zone_that_changes_counts_nothing_twice(new_tenant: NewTenant, again: str) -> None:
    events = [sent(n, f"10T{n // 4:02}:{n % 4 * 15 + 3:02}:00", n) for n in range(30)]
    tenant = new_tenant(moved("Europe/Berlin"))
    tenant.backfill(events)
    tenant.catalog = moved("Asia/Kathmandu")
    tenant.backfill(events if again == "all of it" else events[17:18])
    # Old buckets reach into two new ones, so all that hang together are recomputed.
    assert tenant.usage() == plain_usage(tenant.catalog, events)
    tenant.catalog = moved("Asia/Kolkata")
    tenant.backfill(events[3:4])
    assert tenant.usage() == plain_usage(tenant.catalog, events)


def test_usage_that_does_not_hang_together_is_not_recomputed(new_tenant: NewTenant) -> None:
    near = [sent(n, f"10T0{n}:50:00", n) for n in range(3)]
    far = [sent(n, f"20T0{n}:50:00", n, "21T00:00:00") for n in range(3, 6)]
    tenant = new_tenant(moved("Europe/Berlin"))
    tenant.backfill([*near, *far])
    tenant.catalog = moved("Asia/Kathmandu")
    tenant.backfill(near[:1])
    new, old = plain_usage(tenant.catalog, near), plain_usage(moved("Europe/Berlin"), far)
    assert tenant.usage() == new | old


def test_a_piece_that_the_stream_owns_in_part_is_left_whole_and_dirty(
    new_tenant: NewTenant,
) -> None:
    events = [sent(n, f"10T{n:02}:50:00", n) for n in range(6)]
    tenant = new_tenant(moved("Europe/Berlin"))
    tenant.backfill(events)
    before = tenant.usage()
    tenant.own("2026-01-10T03:00:00Z")
    tenant.catalog = moved("Asia/Kathmandu")
    tenant.backfill([sent(9, "10T01:20:00", 9)])
    assert tenant.usage() == before
    assert {reason for _, _, reason in tenant.dirty()} == {"left"}
    tenant.own("2026-01-10T09:00:00Z")
    tenant.repair()
    assert tenant.usage() == plain_usage(tenant.catalog, [*events, sent(9, "10T01:20:00", 9)])
    assert tenant.dirty() == set()


# Laws


copies = st.builds(
    lambda number, customer, minutes, x, ingested: sent(
        number,
        (T0 + timedelta(minutes=minutes)).strftime("%dT%H:%M:%S"),
        x,
        f"12T00:00:00.{ingested:06}",
        external_customer_id=customer,
    ),
    number=st.integers(0, 5),
    customer=st.sampled_from(["c", "d", "stranger"]),
    minutes=st.integers(0, 6 * 60),
    x=st.one_of(st.integers(-3, 3), st.just("text")),
    ingested=st.integers(0, 999_999),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.lists(copies, min_size=1, max_size=6)),
        st.tuples(st.just("mark"), st.none()),
        st.tuples(st.just("repair"), st.none()),
        st.tuples(st.just("close"), st.integers(0, 8 * 60)),
    ),
    min_size=1,
    max_size=6,
)


def not_owned(usage: Usage, closed: int | None) -> Usage:
    """What lies in hours that the stream does not own."""
    zones = {"c": "Europe/Berlin", "d": "Asia/Kathmandu"}
    return {
        key: value
        for key, value in usage.items()
        if closed is None
        or microseconds(hour_of(from_microseconds(key[4]), zones[key[0]]).end) <= closed
    }


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=steps)
def test_in_any_order_usage_ends_as_all_raw_events_say(
    new_tenant: NewTenant, done: list[tuple[str, Any]]
) -> None:
    tenant = new_tenant(TWO_ZONES)
    stored: list[Row] = []
    unmarked: list[Any] = []
    closed: int | None = None

    def mark() -> None:
        while unmarked:
            tenant.mark(unmarked.pop())

    for step, given_ in done:
        if step == "store":
            # One moment of receipt is one copy: which of two counts is another test's claim.
            known = {row["ingested_at"] for row in stored}
            fresh = {row["ingested_at"]: row for row in given_}
            new = [row for at, row in fresh.items() if at not in known]
            stored += new
            unmarked.append(tenant.store(new))
        elif step == "mark":
            mark()
        elif step == "repair":
            tenant.repair()
        else:
            at = T0 + timedelta(minutes=given_)
            closed = max(closed or 0, microseconds(at))
            tenant.own(format_instant(at))
    mark()
    tenant.repair()
    truth = plain_usage(TWO_ZONES, stored)
    assert not_owned(tenant.usage(), closed) == not_owned(truth, closed)
    again = tenant.repair()
    assert (again["resolved"], again["rows"], again["tombstones"]) == (0, 0, 0)
    tenant.own(format_instant(T0), owned=False)
    tenant.repair()
    assert tenant.usage() == truth
    assert tenant.dirty() == set()
    assert tenant.repair() == NOTHING


# A run that fails


def test_a_repair_that_lost_its_lease_clears_nothing(
    new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = new_tenant(CATALOG)
    tenant.mark(tenant.store([sent(1, "10T10:05:00")]))

    def lost(_: object) -> None:
        raise leases.WarehouseError("lost")

    with monkeypatch.context() as patched:
        patched.setattr(leases.Lease, "check", lost)
        with pytest.raises(leases.WarehouseError, match="lost"):
            tenant.repair()
    assert len(tenant.dirty()) == 1
    assert tenant.repair() == {**NOTHING, "marks": 1, "resolved": 1, "customers": 1}


def test_a_run_leaves_no_scratch_behind(new_tenant: NewTenant, tmp_path: Path) -> None:
    tenant = new_tenant(CATALOG)
    tenant.mark(tenant.store([sent(1, "10T10:05:00")]))
    tenant.repair()
    assert [tenant.written(f"touched{kind}") for kind in ("", "_slots", "_hours")] == [0, 0, 0]
    drop_touched(tenant.warehouse, tenant.name, "no such run")
