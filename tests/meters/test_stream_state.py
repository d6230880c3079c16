"""A shard that takes events in any pieces, any number of times, has the usage of a batch."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.buckets import HOUR_US
from meters.event import INSTANT
from meters.stream_state import HORIZON_SLICES, ShardState, Step, stamped
from meters.timeline import ALWAYS, Timeline
from meters.usage import KEY, USAGE, USAGE_VALUES, usage_rows
from tests.meters.chain import decoded, seeded

TENANT = "default"


class Written:
    """What a warehouse would hold: of each key the row with the most events."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.values: set[tuple[Any, ...]] = set()

    def take(self, state: ShardState, step: Step) -> None:
        for version, cells in step.changed:
            rows, values = usage_rows(state.timeline.measurements[version], cells)
            self.add(rows, values)

    def add(self, rows: pl.DataFrame, values: pl.DataFrame) -> None:
        self.values.update(values.select(USAGE_VALUES.names()).iter_rows())
        for row in rows.iter_rows(named=True):
            key = tuple(row[name] for name in KEY)
            if key not in self.rows or self.rows[key]["events"] <= row["events"]:
                self.rows[key] = row


def first_arrivals(events: pa.Table) -> pa.Table:
    seen: dict[tuple[str, str], int] = {}
    pairs = zip(
        events["external_customer_id"].to_pylist(), events["event_id"].to_pylist(), strict=True
    )
    for index, pair in enumerate(pairs):
        seen.setdefault(pair, index)
    return events.take(pa.array(sorted(seen.values()), pa.int64()))


def batch(timeline: Timeline, events: pa.Table) -> Written:
    written = Written()
    for version, slim in timeline.meter(TENANT, first_arrivals(events), report=False).frames:
        measurement = timeline.measurements[version]
        for cells in measurement.measure(slim).cells:
            written.add(*usage_rows(measurement, cells))
    return written


@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 25), min_size=1, max_size=8),
    st.integers(1, 4),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_pieces_with_repetitions_give_the_usage_of_a_batch(
    seed: int, sizes: list[int], together: int, repeat: bool
) -> None:
    catalog, rows = seeded(seed)
    timeline = Timeline([(ALWAYS, catalog)])
    events = decoded(rows).events
    state, written = ShardState(timeline), Written()
    accepted, start, number = 0, 0, 0
    while start < events.num_rows:
        frames = []
        for _ in range(together):
            piece = events.slice(start, sizes[number % len(sizes)])
            start, number = start + piece.num_rows, number + 1
            frames += timeline.meter(TENANT, piece, report=False).frames
        for _ in range(1 + repeat):
            if frames:
                step = state.step(frames)
                accepted += step.accepted
                assert step.late.is_empty()
                written.take(state, step)
    wanted = batch(timeline, timeline.meter(TENANT, events, report=False).events)
    assert written.rows == wanted.rows
    assert written.values == wanted.values
    kept = timeline.meter(TENANT, events, report=False).events
    assert accepted == first_arrivals(kept).num_rows


def test_an_event_of_a_closed_hour_is_late_and_counts_nowhere() -> None:
    catalog, rows = seeded(1)
    timeline = Timeline([(ALWAYS, catalog)])
    events = timeline.meter(TENANT, decoded(rows).events, report=False).events
    newest = max(events["timestamp"].cast(pa.int64()).to_pylist())
    state = ShardState(timeline)
    assert state.close(newest + 2 * HOUR_US)
    step = state.step(timeline.meter(TENANT, events, report=False).frames)
    known = [customer.id for customer in catalog.customers]
    late = first_arrivals(events)["external_customer_id"].to_pylist()
    assert step.changed == []
    assert step.late.height == sum(customer in known for customer in late)


def test_differing_copies_are_told_beside_the_one_that_counts() -> None:
    catalog, rows = seeded(1)
    timeline = Timeline([(ALWAYS, catalog)])
    events = timeline.meter(TENANT, decoded(rows).events, report=False).events.slice(0, 1)
    at = events["timestamp"].cast(pa.int64())[0].as_py()
    moved = pa.array([at + 1], pa.int64()).cast(INSTANT)
    place = events.schema.get_field_index("timestamp")
    other = events.set_column(place, events.schema.field(place), moved)
    hashes = pa.array([bytes(16)], pa.binary(16))
    place = events.schema.get_field_index("content_hash")
    other = other.set_column(place, events.schema.field(place), hashes)
    state = ShardState(timeline)
    first = state.step(timeline.meter(TENANT, events, report=False).frames)
    again = state.step(timeline.meter(TENANT, other, report=False).frames)
    assert first.differing.is_empty()
    assert again.duplicates == 1
    content = int.from_bytes(events["content_hash"][0].as_py()[:8], "big")
    assert again.differing["content"].to_list() == [content, 0]


def test_slices_outside_the_horizon_are_forgotten() -> None:
    catalog, rows = seeded(1)
    timeline = Timeline([(ALWAYS, catalog)])
    frames = timeline.meter(TENANT, decoded(rows).events, report=False).frames
    state = ShardState(timeline)
    state.turn(100)
    accepted = state.step(frames).accepted
    assert 100 not in state.turn(100 + HORIZON_SLICES)
    assert state.step(frames).accepted == 0
    assert 100 in state.turn(101 + HORIZON_SLICES)
    assert len(state.identities) == 0
    assert state.step(frames).accepted == accepted


def test_changed_rows_have_the_columns_of_usage() -> None:
    catalog, rows = seeded(2)
    timeline = Timeline([(ALWAYS, catalog)])
    state = ShardState(timeline)
    for version, cells in state.step(timeline.meter(TENANT, decoded(rows).events).frames).changed:
        made, _ = usage_rows(timeline.measurements[version], cells)
        assert made.schema == USAGE
        assert stamped(made, state.floors)["revision"].unique().to_list() in ([], [1])
