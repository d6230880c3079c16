"""Aggregating shards: merged cells, counts, and conflicts in quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from apache_beam.pvalue import TaggedOutput

from meters.deduplicate import deduplicate
from meters.measure import Cells, Measurement
from meters.projection import Projection
from meters.timeline import Timeline
from tests.meters.chain import (
    Row,
    as_usage,
    catalog_of,
    decoded,
    event,
    measured,
    meter,
    plain_usage,
    seeded,
    stored,
)
from tests.transforms.combining import assert_combines
from transforms import aggregate, frames
from transforms.aggregate import AggregateShard, MergeCells
from transforms.frames import frames_of
from transforms.ingest import COUNTS
from transforms.spill import IN_MEMORY
from warehouse.client import Warehouse
from warehouse.queries import quarantine_rows
from warehouse.writes import insert_events

CATALOG = catalog_of(meter("sum"), meter("unique_count", id="u", group_by=["g"]))


@pytest.mark.parametrize("seed", [2, 5])
@pytest.mark.parametrize("shards", [1, 5, 20])
def test_merging_cells_gives_the_same_merged_compacted_and_sequential(seed, shards):
    catalog, events = seeded(seed)
    measurement, _, unique = measured(catalog, events)
    parts: dict[int, list[Cells]] = {}
    for part in unique.with_columns(shard=pl.col("identity") % shards).partition_by("shard"):
        for cells in measurement.measure(part.drop("shard")).cells:
            parts.setdefault(cells.family, []).append(cells)
    whole = {cells.family: cells for cells in measurement.measure(unique).cells}

    def usage(cells: Cells) -> Any:
        return as_usage(*stored(measurement, [cells]))

    for family, found in parts.items():
        assert_combines(
            lambda: MergeCells(Timeline.of(catalog)), found, usage(whole[family]), usage
        )


def test_nothing_merges_to_nothing():
    assert_combines(lambda: MergeCells(Timeline.of(CATALOG)), [], None)


def unwindowed(output: Any) -> Any:
    """What `finish_bundle` gives, as `process` would."""
    if isinstance(output, TaggedOutput):
        return TaggedOutput(output.tag, output.value.value)
    return output.value


class Shard:
    """One shard of a tenant, whose raw events are stored as ingest does."""

    def __init__(self, warehouse: Warehouse, url: str, tenant: str) -> None:
        self.warehouse = warehouse
        self.tenant = tenant
        self.fn = AggregateShard(Timeline.of(CATALOG), tenant=tenant, warehouse=url)
        self.fn.setup()

    def process(
        self, *batches: Sequence[Row], origin: str = "file"
    ) -> tuple[dict[str, int], list[Any]]:
        packed = []
        for number, batch in enumerate(batches):
            events = decoded(batch, f"{origin}{number}").events
            column = events.schema.get_field_index("tenant_id")
            renamed = events.set_column(column, "tenant_id", [[self.tenant] * len(batch)])
            insert_events(self.warehouse, renamed)
            slim = Projection(CATALOG).project(events).slim
            packed += [frame for _, frame in frames_of(slim, 1, IN_MEMORY)]
        self.fn.start_bundle()
        given = [*self.fn.process((0, packed)), *map(unwindowed, self.fn.finish_bundle())]
        [counts] = [each for each in given if isinstance(each, TaggedOutput)]
        assert counts.tag == COUNTS
        return counts.value, [each for each in given if each is not counts]

    def quarantine(self) -> list[tuple[Any, ...]]:
        rows = quarantine_rows(self.warehouse, self.tenant).to_pylist()
        return sorted(
            (row["origin"], row["origin_row"], row["reason"], row["event_id"]) for row in rows
        )


def sent(number: object, x: Any = 1, second: int = 0, **given: Any) -> Row:
    return event(number, properties={"x": x}, ingested_at=f"2026-01-31T11:00:{second:02}Z", **given)


def test_a_shard_counts_copies_conflicts_refused_values_and_strangers(
    embedded, embedded_url, tenant
):
    shard = Shard(embedded, embedded_url, tenant)
    counts, cells = shard.process(
        [sent(1), sent(2, "no"), sent(3, external_customer_id="stranger")],
        [sent(1, second=1), sent(1, 2, 2), sent(3, 9, 5, external_customer_id="stranger")],
    )
    assert counts == {
        "accepted": 3,
        "duplicate": 3,
        "conflict": 2,
        "meter_errors": 1,
        "unattributed": 1,
    }
    assert {key for key, _ in cells} == {(0, 0), (0, 1)}
    assert shard.quarantine() == [
        ("file1", 2, "conflict", "event 1"),
        ("file1", 3, "conflict", "event 3"),
    ]


def test_the_copy_that_counts_is_not_in_quarantine_where_another_id_said_the_same_later(
    embedded, embedded_url, tenant
):
    shard = Shard(embedded, embedded_url, tenant)
    counts, _ = shard.process(
        [sent("a", 1), sent("b", 2), sent("a", 2, 1), sent("b", 1, 1)],
        [sent("a", 1, external_customer_id="d"), sent("a", 2, 1, external_customer_id="d")],
    )
    assert counts["conflict"] == 3
    assert shard.quarantine() == [
        ("file0", 3, "conflict", "event a"),
        ("file0", 4, "conflict", "event b"),
        ("file1", 2, "conflict", "event a"),
    ]


def test_the_same_in_other_words_is_no_conflict(embedded, embedded_url, tenant):
    shard = Shard(embedded, embedded_url, tenant)
    texts = ['{"x":1,"y":"é"}', '{ "y" : "\\u00e9", "x":1.0}', '{"x":10e-1,"y":"é"}']
    counts, _ = shard.process(
        [{**sent(1, second=n), "properties": text} for n, text in enumerate(texts)]
    )
    assert (counts["duplicate"], counts["conflict"]) == (2, 0)
    assert shard.quarantine() == []


@pytest.mark.parametrize(
    ("origin", "conflicts"), [("kafka://events/", 1), ("log://spool/", 1), ("file", 3)]
)
def test_a_time_that_the_api_has_filled_in_makes_no_conflict(
    embedded, embedded_url, tenant, origin, conflicts
):
    """The sender said no time in the first three; of a file nobody filled in anything."""
    shard = Shard(embedded, embedded_url, tenant)
    received = [f"2026-01-31T{hour}:59:59.500001Z" for hour in (10, 10, 11)]
    received[1] = "2026-01-31T10:59:59.7005Z"
    filled_in = [event(1, timestamp=at, ingested_at=at) for at in received]
    said = event(1, timestamp="2026-01-31T11:00:00Z", ingested_at="2026-01-31T11:59:59.7Z")
    counts, _ = shard.process([*filled_in, said], origin=origin)
    assert (counts["accepted"], counts["duplicate"]) == (1, 3)
    assert counts["conflict"] == conflicts


def test_the_time_of_a_record_that_is_the_events_own_was_said(embedded, embedded_url, tenant):
    """A producer of Kafka gives the record the event's time, and no `ingested_at`."""
    shard = Shard(embedded, embedded_url, tenant)
    times = [f"2026-01-31T10:59:{second}Z" for second in ("59", "59.7", "59.123")]
    recorded = [event(1, timestamp=at, ingested_at=at) for at in times]
    counts, _ = shard.process(recorded, origin="kafka://events/")
    assert (counts["accepted"], counts["duplicate"], counts["conflict"]) == (1, 2, 2)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("sliced", [1, 6, 100])
def test_a_shard_in_several_passes_gives_the_same_cells_and_counts(
    embedded, embedded_url, tenant, monkeypatch, rows, sliced
):
    monkeypatch.setattr(frames, "SLICED_ROWS", sliced)
    monkeypatch.setattr(aggregate, "ROWS_PER_PASS", rows)
    events = [sent(n % 7, n % 7, n) for n in range(12)]
    shard = Shard(embedded, embedded_url, tenant)
    counts, cells = shard.process(events[:5], events[5:])
    assert (counts["accepted"], counts["duplicate"]) == (7, 5)
    assert {key for key, _ in cells} == {(0, 0), (0, 1)}
    usage = as_usage(*stored(Measurement(CATALOG), [part for _, part in cells]))
    assert usage == plain_usage(CATALOG, events)


def test_frames_of_many_batches_are_one_shard(embedded, embedded_url, tenant):
    shard = Shard(embedded, embedded_url, tenant)
    batches = [[sent(n % 4, n % 4, n)] for n in range(12)]
    counts, cells = shard.process(*batches)
    assert (counts["accepted"], counts["duplicate"], counts["conflict"]) == (4, 8, 0)
    slim = Projection(CATALOG).project(decoded([b[0] for b in batches]).events).slim
    whole = Measurement(CATALOG).measure(deduplicate(slim).events)
    measurement = Measurement(CATALOG)
    assert as_usage(*stored(measurement, [part for _, part in cells])) == as_usage(
        *stored(measurement, whole.cells)
    )
