"""Deduplication: one copy counts, whatever the order in which copies come."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.deduplicate import IDENTITY, conflicts, deduplicate
from tests.generators import to_json
from tests.meters.chain import Row, catalog_of, decoded, event, meter, slim_of

CATALOG = catalog_of(meter("latest"), meter("unique_count", id="u", group_by=["g"]))


def slim(*events: Row) -> pl.DataFrame:
    return slim_of(CATALOG, events)


def said(*events: Row) -> dict[bytes, str]:
    """What each content says, as `conflicts` takes it."""
    table = decoded(events).events
    hashes = [value[:8] for value in table["content_hash"].to_pylist()]
    return {
        word: to_json({**sent, "event_id": None, "ingested_at": None})
        for word, sent in zip(hashes, events, strict=True)
    }


def numbers(frame: pl.DataFrame) -> list[Any]:
    return sorted(frame["n:x"].to_list())


def at(second: int) -> str:
    return f"2026-01-31T11:00:{second:02}Z"


def copy(x: object = 1, ingested: int = 0, **given: Any) -> Row:
    return event(**{"ingested_at": at(ingested), "properties": {"x": x}, **given})


def test_the_copy_that_was_ingested_first_counts():
    found = deduplicate(slim(copy(3, 30), copy(1, 10), copy(2, 20)))
    assert numbers(found.events) == [1]
    assert found.duplicates == 2


def test_of_copies_ingested_together_the_smallest_content_hash_counts():
    copies = [copy(x, 10) for x in range(20)]
    hashes = decoded(copies).events["content_hash"].to_pylist()
    winner = min(range(20), key=hashes.__getitem__)
    assert numbers(deduplicate(slim(*copies)).events) == [winner]


def test_an_identity_is_of_its_customer_whatever_else_the_copies_say():
    copies = [
        copy(1, 1, timestamp="2026-01-30T00:00:00Z"),
        copy(2, 2, timestamp="2026-01-01T00:00:00Z", event_name="other"),
        copy(3, 3, external_subscription_id="s", source="s"),
    ]
    assert numbers(deduplicate(slim(*copies)).events) == [1]


def test_the_same_id_of_two_customers_is_two_events():
    other = {"external_customer_id": "d"}
    found = deduplicate(slim(copy(1), copy(2, **other), copy(3, 9), copy(4, 9, **other)))
    assert numbers(found.events) == [1, 2]
    assert found.duplicates == 2


def test_unknown_customers_are_kept_apart_from_each_other_too():
    strangers = [copy(1, external_customer_id=name) for name in ("x", "y", "x")]
    found = deduplicate(slim(*strangers, copy(2)))
    assert found.events.height == 3
    assert sorted(found.events["unknown"].to_list(), key=str) == [None, "x", "y"]


def test_events_without_copies_stay_as_they_are():
    frame = slim(*(event(n, properties={"x": n}) for n in range(5)))
    found = deduplicate(frame)
    assert found.events.equals(frame)
    assert (found.duplicates, found.differing.height) == (0, 0)
    assert found.differing.columns == [*IDENTITY, "content"]
    assert deduplicate(frame.clear()).events.is_empty()


def test_a_copy_that_says_something_else_is_a_conflict_and_one_written_otherwise_is_not():
    first = copy(1, 1)
    same, spaced, other = copy(1, 2), copy(1, 3), copy(2, 4)
    spaced["properties"] = '{ "x": 1.0 }'
    found = deduplicate(slim(first, same, spaced, other))
    assert found.duplicates == 3
    assert found.differing.height == 4
    canonical = said(first, same, {**spaced, "properties": {"x": 1}}, other)
    contents = decoded([first, same, spaced, other]).events["content_hash"].to_pylist()
    canonical[contents[2][:8]] = canonical[contents[0][:8]]
    found_conflicts = conflicts(found.differing, canonical)
    words = [word.to_bytes(8, "big") for word in found_conflicts["content"].to_list()]
    assert words == [contents[3][:8]]


def test_no_copies_that_differ_are_no_conflicts():
    found = deduplicate(slim(copy(1, 1), copy(1, 2), copy(1, 3)))
    assert found.duplicates == 2
    assert found.differing.is_empty()
    assert conflicts(found.differing, {}).is_empty()


def test_identities_that_share_half_of_their_hash_are_two():
    frame = slim(event(1, properties={"x": 1}), event(2, properties={"x": 2}))
    frame = frame.with_columns(pl.lit(7, pl.UInt64).alias("identity"))
    found = deduplicate(frame)
    assert numbers(found.events) == [1, 2]
    assert found.duplicates == 0


copies = st.builds(
    lambda number, x, ingested, customer: event(
        number,
        properties={"x": x},
        ingested_at=at(ingested),
        external_customer_id=customer,
    ),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 3),
    st.sampled_from(["c", "stranger"]),
)


def expected(events: list[Row]) -> tuple[list[Row], int]:
    """The copies that count, and how many copies say something else."""
    hashes = decoded(events).events["content_hash"].to_pylist()
    best: dict[tuple[str, str], tuple[str, bytes, Row]] = {}
    for sent, content in zip(events, hashes, strict=True):
        key = sent["external_customer_id"], sent["event_id"]
        arrival = sent["ingested_at"], content, sent
        if key not in best or arrival[:2] < best[key][:2]:
            best[key] = arrival
    winners = {key: sent for key, (_, _, sent) in best.items()}
    others = sum(
        sent["properties"] != winners[sent["external_customer_id"], sent["event_id"]]["properties"]
        for sent in events
    )
    return list(winners.values()), others


@settings(max_examples=30)
@given(st.lists(copies, min_size=1, max_size=14), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_events_and_conflicts(events, random):
    shuffled = random.sample(events, len(events))
    winners, others = expected(events)
    for each in (events, shuffled):
        found = deduplicate(slim(*each))
        columns = ["customer", "unknown", "identity", "identity_low", "ingested_at", "content"]
        rows = found.events.select(columns).rows()
        assert sorted(map(str, rows)) == sorted(map(str, slim(*winners).select(columns).rows()))
        assert found.duplicates == len(events) - len(winners)
        assert conflicts(found.differing, said(*each)).height == others


@pytest.mark.parametrize("shards", [2, 7])
def test_shards_by_identity_give_the_same_as_one(shards):
    frame = slim(*(copy(x, x, event_id=f"{x % 5}") for x in range(20)))
    parts = frame.with_columns(shard=pl.col("identity") % shards).partition_by("shard")
    found = [deduplicate(part.drop("shard")) for part in parts]
    whole = deduplicate(frame)
    assert numbers(pl.concat(part.events for part in found)) == numbers(whole.events)
    assert sum(part.duplicates for part in found) == whole.duplicates == 15
