"""The backfill pipeline: usage depends on the events alone, not on how they came."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from meters.catalog import Catalog
from meters.timestamps import parse_timestamp
from meters.zones import microseconds
from pipelines import backfill
from tests.generators import Row, worlds
from tests.meters.chain import Usage, catalog_of, event, meter, plain_usage
from tests.oracle import Oracle
from tests.pipelines.runs import Tenant
from transforms import aggregate, frames, ingest, recompute

NewTenant = Callable[[Catalog], Tenant]
SEEDS = range(100, 104)


class World:
    """Many worlds in one catalog, and what they must amount to."""

    def __init__(self) -> None:
        catalog, self.events = worlds(SEEDS)
        self.counts: dict[str, int] = Oracle(catalog, self.events).counts
        self.catalog = Catalog.model_validate(catalog)
        self.usage = plain_usage(self.catalog, self.events)


@pytest.fixture(scope="module")
def whole() -> World:
    return World()


@pytest.fixture(autouse=True)
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs are spread over several shards, passes and writers as well."""
    monkeypatch.setattr(backfill, "ROWS_PER_SHARD", 250)
    monkeypatch.setattr(frames, "SLICED_ROWS", 16)
    monkeypatch.setattr(aggregate, "ROWS_PER_PASS", 30)
    monkeypatch.setattr(recompute, "HOURS_AT_A_TIME", 7)
    monkeypatch.setattr(recompute, "EVENTS_AT_A_TIME", 40)


def test_one_run_gives_the_usage_and_the_counts_and_a_second_one_changes_nothing(
    new_tenant: NewTenant, whole: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards: list[tuple[int, int]] = []
    build = backfill.Backfill.build

    def spied(job: backfill.Backfill, pipeline: Any) -> None:
        shards.append((job.shards, job.writers))
        build(job, pipeline)

    monkeypatch.setattr(backfill.Backfill, "build", spied)
    tenant = new_tenant(whole.catalog)
    file = tenant.file(whole.events)
    assert tenant.backfill(file) == whole.counts
    assert tenant.usage() == whole.usage
    rows, values = tenant.written("usage"), tenant.written("usage_values")
    refused = tenant.refused()
    assert tenant.backfill(file) == whole.counts
    assert tenant.usage() == whole.usage
    assert set(tenant.revisions()) == {1}
    assert (tenant.written("usage"), tenant.written("usage_values")) == (rows, values)
    assert tenant.refused() == refused
    assert all(count > 1 and writers > 1 for count, writers in shards), "more than one of each"


def test_pieces_in_any_order_over_several_runs_give_the_same_usage(
    new_tenant: NewTenant, whole: World
) -> None:
    shuffled = random.Random(7)
    events = shuffled.sample(whole.events, len(whole.events))
    third = len(events) // 3
    pieces = [events[:third], events[third : 2 * third], events[2 * third :]]
    tenant = new_tenant(whole.catalog)
    for piece, suffix in zip(pieces, ["csv", "parquet", "jsonl.gz"], strict=True):
        tenant.backfill(piece + shuffled.sample(events, 30), suffix=suffix)
    assert tenant.usage() == whole.usage


def test_a_bundle_that_runs_twice_changes_nothing(new_tenant: NewTenant, whole: World) -> None:
    repeat = ["--direct_runner_bundle_repeat=2"]
    tenant = new_tenant(whole.catalog)
    half = len(whole.events) // 2
    tenant.backfill(whole.events[:half], options=repeat)
    file = tenant.file(whole.events)
    assert tenant.backfill(file, options=repeat) == whole.counts
    assert tenant.usage() == whole.usage


# Single events


LATEST = catalog_of(meter("sum"), meter("unique_count", id="u"), meter("count", id="n"))


def sent(number: object, x: Any, at: str, ingested: str, **given: Any) -> Row:
    return event(
        number,
        properties={"x": x},
        timestamp=f"2026-01-{at}:17:33Z",
        ingested_at=f"2026-01-{ingested}:00:00Z",
        **given,
    )


def sums(usage: Usage) -> dict[str, tuple[int, int]]:
    """Bucket -> (sum, events) of the meter `m`."""
    return {
        str(start): (state.sum // 10**12, state.events)
        for (_, name, _, _, start), (_, state) in usage.items()
        if name == "m"
    }


def bucket(at: str) -> str:
    return str(microseconds(parse_timestamp(f"2026-01-{at}:00:00Z")))


def test_a_copy_that_came_first_moves_its_event_to_another_bucket(new_tenant: NewTenant) -> None:
    tenant = new_tenant(LATEST)
    tenant.backfill([sent("a", 1, "10T10", "11T10"), sent("b", 2, "10T10", "11T10")])
    tenant.backfill([sent("c", 5, "10T12", "11T10")])
    assert sums(tenant.usage()) == {bucket("10T10"): (3, 2), bucket("10T12"): (5, 1)}
    # b was known earlier, at another time and with another value.
    late = [sent("b", 7, "20T10", "21T09"), sent("b", 9, "10T08", "11T09")]
    assert tenant.backfill(late)["conflict"] == 1
    expected = {
        bucket("10T10"): (1, 1),
        bucket("10T08"): (9, 1),
        bucket("10T12"): (5, 1),
    }
    assert sums(tenant.usage()) == expected
    # The last event leaves its bucket: nothing of it is to be seen any more.
    tenant.backfill([sent("c", 6, "10T08", "11T08")])
    assert sums(tenant.usage()) == {bucket("10T10"): (1, 1), bucket("10T08"): (15, 2)}
    assert tenant.usage() == plain_usage(
        LATEST,
        [
            sent("a", 1, "10T10", "11T10"),
            sent("b", 9, "10T08", "11T09"),
            sent("c", 6, "10T08", "11T08"),
        ],
    )


def test_a_late_copy_that_came_second_changes_nothing(new_tenant: NewTenant) -> None:
    tenant = new_tenant(LATEST)
    tenant.backfill([sent("a", 1, "10T10", "11T10")])
    tenant.backfill([sent("a", 7, "10T12", "11T11"), sent("b", 2, "10T12", "11T11")])
    assert sums(tenant.usage()) == {bucket("10T10"): (1, 1), bucket("10T12"): (2, 1)}


def test_two_files_for_one_hour_add_up_and_an_unknown_customer_is_kept(
    new_tenant: NewTenant,
) -> None:
    tenant = new_tenant(LATEST)
    tenant.backfill([sent("a", 1, "10T10", "11T10")])
    stranger = sent("a", 1, "10T10", "11T10", external_customer_id="stranger")
    counts = tenant.backfill([sent("b", "2", "10T10", "11T10"), stranger])
    assert counts == {
        "read": 2,
        "accepted": 2,
        "duplicate": 0,
        "conflict": 0,
        "quarantined": 0,
        "meter_errors": 0,
        "unattributed": 1,
        "rows": 3,
    }
    assert sums(tenant.usage()) == {bucket("10T10"): (3, 2)}
    assert tenant.written("events") == 3


def test_numbers_that_lose_digits_are_counted(new_tenant: NewTenant) -> None:
    tenant = new_tenant(LATEST)
    lossy = ["0.1234567890125", 1e-13, "1.5000000000000", "0.5", "1e-12"]
    events = [sent(n, x, "10T10", "11T10") for n, x in enumerate(lossy)]
    tenant.backfill([*events, sent("x", "0.1234567890123", "10T10", "11T10", event_name="other")])
    assert tenant.rounded == 2
    tenant.backfill(events[2:])
    assert tenant.rounded == 0


def test_from_and_to_select_by_timestamp_half_open(new_tenant: NewTenant) -> None:
    hours = ["10T09", "10T10", "10T11", "10T12"]
    events = [sent(n, n + 1, at, "11T10") for n, at in enumerate(hours)]
    broken = [event("x", timestamp="never"), event("y", properties="[]")]
    first, last = (microseconds(parse_timestamp(events[n]["timestamp"])) for n in (1, 3))
    tenant = new_tenant(LATEST)
    file = tenant.file([*events, *broken[:1]])
    counts = tenant.backfill(file, span=(first, last))
    assert (counts["read"], counts["accepted"], counts["quarantined"]) == (3, 2, 1)
    assert sums(tenant.usage()) == {bucket("10T10"): (2, 1), bucket("10T11"): (3, 1)}
    assert tenant.written("events") == 2
    assert tenant.backfill(file, span=(last, None))["accepted"] == 1
    assert tenant.backfill(file, span=(None, first))["accepted"] == 1
    assert tenant.usage() == plain_usage(LATEST, events)


@pytest.mark.parametrize("at_once", [1, 3, 250_000], ids=["all", "events", "none"])
def test_what_is_refused_is_in_quarantine_once_with_where_it_stood(
    new_tenant: NewTenant, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which rows are so many that they are written before the end of their bundle.
    monkeypatch.setattr(ingest, "INSERT_ROWS", at_once)
    tenant = new_tenant(LATEST)
    file = tenant.file(
        [
            sent("a", 1, "10T10", "11T10"),
            sent("x", 1, "10T10", "11T10", event_id=""),
            sent("b", "no", "10T10", "11T10"),
            sent("a", 2, "10T10", "11T11"),
        ]
    )
    for _ in range(2):
        counts = tenant.backfill(file)
        assert counts == {
            "read": 4,
            "accepted": 2,
            "duplicate": 1,
            "conflict": 1,
            "quarantined": 1,
            "meter_errors": 1,
            "unattributed": 0,
            "rows": 3,
        }
        assert [(row["origin_row"], row["reason"], row["meter"]) for row in tenant.refused()] == [
            (2, "empty_field", ""),
            (3, "invalid_number", "m"),
            (4, "conflict", ""),
        ]


def test_a_conflict_is_the_copy_that_differs_and_no_other_event_of_the_same_content(
    new_tenant: NewTenant,
) -> None:
    tenant = new_tenant(LATEST)
    # What loses under one id is what counts under the other.
    file = tenant.file(
        [
            sent("a", 1, "10T10", "11T10"),
            sent("a", 2, "10T10", "11T11"),
            sent("b", 2, "10T10", "11T10"),
            sent("b", 1, "10T10", "11T11"),
            sent("c", 1, "10T10", "11T10"),
        ]
    )
    assert tenant.backfill(file)["conflict"] == 2
    rows = [(row["origin_row"], row["event_id"]) for row in tenant.refused()]
    assert rows == [(2, "event a"), (4, "event b")]


def test_a_conflict_with_what_an_earlier_run_stored_is_in_quarantine_too(
    new_tenant: NewTenant,
) -> None:
    tenant = new_tenant(LATEST)
    first = tenant.file([sent("a", 1, "10T10", "11T10"), sent("b", 2, "10T10", "11T10")])
    second = tenant.file([sent("a", 7, "20T10", "21T10"), sent("b", 9, "10T10", "11T09")])
    tenant.backfill(first)
    # The counts describe the input alone.
    assert tenant.backfill(second)["conflict"] == 0
    assert {(row["origin"], row["event_id"], row["reason"]) for row in tenant.refused()} == {
        (str(second), "event a", "conflict"),
        (str(first), "event b", "conflict"),
    }


def test_a_copy_written_in_other_json_is_a_duplicate_and_no_conflict(
    new_tenant: NewTenant,
) -> None:
    tenant = new_tenant(LATEST)
    first = sent("a", 1, "10T10", "11T10")
    odd = '{"x": 1,"z":1e99999999999999999999,"y":' + "9" * 5000 + "}"
    copies = [
        {**first, "properties": '{"x":1,"y":"é"}'},
        {**first, "properties": '{ "y":"\\u00e9", "x":1.0 }'},
        {**first, "event_id": "deep", "properties": '{"x":1,"y":' + "[" * 900 + "]" * 900 + "}"},
        {**first, "event_id": "deep", "properties": '{"x":2,"y":' + "[" * 900 + "]" * 900 + "}"},
        {**first, "event_id": "odd", "properties": odd},
        {**first, "event_id": "odd", "properties": odd.replace("1,", "2,")},
    ]
    counts = tenant.backfill(tenant.verbatim(copies))
    assert (counts["accepted"], counts["duplicate"], counts["conflict"]) == (3, 3, 2)


def test_events_at_the_ends_of_time_do_not_stop_a_run(new_tenant: NewTenant) -> None:
    tenant = new_tenant(LATEST)
    far = "2299-12-31T23:59:59.999999Z"
    events = [
        event(1, timestamp="1970-01-01T00:00:00Z", properties={"x": 1}),
        event(2, timestamp=far, ingested_at=far, properties={"x": 1}),
        event(3, timestamp="9999-12-31T23:59:59Z", ingested_at="9999-12-31T23:59:59Z"),
    ]
    for some in (events[1:2], events):
        assert tenant.backfill(some)["accepted"] == min(len(some), 2)
    assert tenant.usage() == plain_usage(LATEST, events[:2])


def test_without_events_there_is_nothing_to_write(new_tenant: NewTenant) -> None:
    tenant = new_tenant(LATEST)
    assert sum(tenant.backfill([]).values()) == 0
    tenant.backfill([sent("a", 1, "10T10", "11T10")])
    assert tenant.backfill([], [event(event_id="")])["quarantined"] == 1
    assert sums(tenant.usage()) == {bucket("10T10"): (1, 1)}
