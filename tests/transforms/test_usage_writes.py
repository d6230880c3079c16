"""Writing usage: once where nothing was, and afterwards only what a run has touched."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from meters.catalog import Catalog
from meters.measure import Cells
from meters.timeline import Timeline
from meters.usage import from_stored
from tests.meters.chain import (
    Row,
    Usage,
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
from transforms import usage as usage_module
from transforms.aggregate import MergeCells
from transforms.recompute import MarkTouchedHours, RecomputeShard, ReconcileUsage, Run
from transforms.usage import CountRows, WriteFirstRevision
from warehouse.client import Warehouse
from warehouse.queries import usage_rows, values_of
from warehouse.writes import insert_events, insert_touched

CATALOG = catalog_of(meter("sum"), meter("unique_count", id="u", group_by=["g"]))


class Site:
    """One tenant's warehouse, and the steps of a run without a pipeline around them."""

    def __init__(self, warehouse: Warehouse, url: str, catalog: Catalog = CATALOG) -> None:
        self.warehouse = warehouse
        self.url = url
        self.catalog = catalog
        self.tenant = uuid.uuid4().hex
        self.files = 0

    def store(self, events: Sequence[Row]) -> Any:
        """Raw rows, as ingest writes them."""
        self.files += 1
        table = decoded(events, f"file{self.files}").events
        column = table.schema.get_field_index("tenant_id")
        table = table.set_column(column, "tenant_id", [[self.tenant] * table.num_rows])
        insert_events(self.warehouse, table)
        return table

    def write_first(self, events: Sequence[Row]) -> None:
        """The first run's write."""
        measurement, cells, _ = measured(self.catalog, events)
        write = WriteFirstRevision(
            Timeline.of(self.catalog), tenant=self.tenant, warehouse=self.url
        )
        write.setup()
        try:
            for part in cells:
                write.process(((0, part.family), part))
            write.finish_bundle()
        finally:
            write.teardown()
        assert measurement.catalog is self.catalog

    def recompute(self, events: Sequence[Row], shards: int = 1, writers: int = 1) -> Counter[str]:
        """Store events and recompute what they touch, as a later run does; what was written."""
        run = uuid.uuid4().hex
        insert_touched(self.warehouse, self.tenant, run, self.store(events))
        to = Run(self.tenant, self.url, run, shards, writers)
        numbers = list(MarkTouchedHours(Timeline.of(self.catalog), to).process(None, None))
        fn = RecomputeShard(Timeline.of(self.catalog), to)
        fn.setup()
        keyed: dict[tuple[int, int], list[Cells]] = {}
        for shard in numbers:
            for key, cells in fn.process(shard):
                keyed.setdefault(key, []).append(cells)
        merge = MergeCells(Timeline.of(self.catalog))
        written: Counter[str] = Counter()
        reconcile = ReconcileUsage(Timeline.of(self.catalog), to)
        reconcile.setup()
        for writer in range(writers):
            mine = [merge.extract_output(parts) for key, parts in keyed.items() if key[0] == writer]
            for counts in reconcile.process((writer, [*mine, None])):
                written.update(counts)
        return written

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        rows = from_stored(usage_rows(self.warehouse, self.tenant))
        return rows, from_stored(values_of(self.warehouse, self.tenant))

    def usage(self) -> Usage:
        return as_usage(*self.frames())

    def revisions(self) -> list[tuple[str, int, int]]:
        """(meter, hour, revision) of each row."""
        rows = self.frames()[0].sort("meter", "bucket_start")
        hours = rows["bucket_start"].dt.hour()
        return list(zip(rows["meter"], hours, rows["revision"], strict=True))


@pytest.fixture
def site(embedded: Warehouse, embedded_url: str) -> Site:
    return Site(embedded, embedded_url)


def at(hour: int, number: object, x: Any = 1, ingested: int = 0, **given: Any) -> Row:
    return event(
        number,
        properties={"x": x},
        timestamp=f"2026-01-31T{hour:02}:17:33Z",
        ingested_at=f"2026-02-01T00:00:{ingested:02}Z",
        **given,
    )


def test_rows_are_counted_without_being_built():
    for seed in range(4):
        catalog, events = seeded(seed)
        measurement, cells, _ = measured(catalog, events)
        counted = sum(next(CountRows().process(((0, part.family), part)))["rows"] for part in cells)
        assert counted == stored(measurement, cells)[0].height


def test_a_first_write_is_the_usage_and_a_repetition_adds_nothing(site):
    events = [at(10, 1), at(10, 2, "a"), at(11, 3, 5)]
    for _ in range(2):
        site.write_first(events)
        assert site.usage() == plain_usage(CATALOG, events)
    assert {revision for _, _, revision in site.revisions()} == {1}


@pytest.mark.parametrize(("shards", "writers"), [(1, 1), (3, 1), (2, 4)])
def test_a_recomputation_gives_the_usage_however_it_is_sharded(
    embedded, embedded_url, shards, writers
):
    catalog, events = seeded(11)
    site = Site(embedded, embedded_url, catalog)
    half = len(events) // 2
    site.store(events[:half])
    site.write_first(events[:half])
    site.recompute(events[half:], shards, writers)
    assert site.usage() == plain_usage(catalog, events)
    before = site.revisions()
    site.recompute(events, shards, writers)
    assert site.revisions() == before


def test_only_rows_that_change_are_written_and_above_all_of_their_bucket(site):
    site.store([at(10, 1), at(11, 2)])
    site.write_first([at(10, 1), at(11, 2)])
    site.recompute([at(10, 3, "text")])  # refused by the sum, counted by the other
    assert site.revisions() == [("m", 10, 1), ("m", 11, 1), ("u", 10, 2), ("u", 11, 1)]
    site.recompute([at(10, 4, 7)])
    assert site.revisions() == [("m", 10, 3), ("m", 11, 1), ("u", 10, 3), ("u", 11, 1)]


def test_hours_that_the_run_has_not_touched_stay_as_they_are(site):
    site.store([at(9, 1), at(10, 2), at(11, 3)])
    # The stored rows of these hours are wrong, and it is not this run's task to find out.
    site.write_first([at(9, 1, 100), at(10, 2, 100), at(11, 3, 100)])
    site.recompute([at(10, 4, 5)])
    sums = {
        row["bucket_start"].hour: row["sum"]
        for row in site.frames()[0].to_dicts()
        if row["meter"] == "m"
    }
    assert sums == {9: 100, 10: 6, 11: 100}


def test_a_moved_event_leaves_a_tombstone_and_its_distinct_values_do_not_count(site):
    site.store([at(10, 1, "a")])
    site.write_first([at(10, 1, "a")])
    site.recompute([at(12, 1, "b")])
    earlier = {**at(14, 1, "c"), "ingested_at": "2026-01-31T20:00:00Z"}
    site.recompute([earlier])
    assert site.usage() == plain_usage(CATALOG, [earlier])
    rows, values = site.frames()
    assert (rows.height, values.height) == (1, 1)


def test_rows_of_meters_and_customers_that_left_the_catalog_are_left_alone(embedded, embedded_url):
    both = Catalog.model_validate(
        {"meters": CATALOG.meters, "customers": [{"id": "c"}, {"id": "d"}]}
    )
    site = Site(embedded, embedded_url, both)
    events = [at(10, 1), at(10, 2, external_customer_id="d")]
    site.store(events)
    site.write_first(events)
    site.catalog = catalog_of(CATALOG.meters[0])
    site.recompute([at(10, 3, 5), at(10, 4, external_customer_id="d")])
    found = {(key[0], key[1]): state.events for key, (_, state) in site.usage().items()}
    assert found == {("c", "m"): 2, ("c", "u"): 1, ("d", "m"): 1, ("d", "u"): 1}


@pytest.mark.parametrize("table", ["insert_usage_values", "insert_usage"])
def test_a_run_that_is_killed_between_its_writes_is_made_good_by_the_next(site, monkeypatch, table):
    first, second = [at(10, 1, "a"), at(10, 2, 1)], [at(10, 3, "b"), at(10, 4, 2)]
    site.store(first)
    site.write_first(first)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(usage_module, table, killed)
        with pytest.raises(KeyboardInterrupt):
            site.recompute(second)
    assert site.usage() == plain_usage(CATALOG, first)
    site.recompute(second)
    assert site.usage() == plain_usage(CATALOG, [*first, *second])


def test_nothing_touched_is_nothing_written(site):
    site.store([at(10, 1)])
    site.write_first([at(10, 1)])
    before = site.revisions()
    site.recompute([])
    site.recompute([at(10, 1, external_customer_id="stranger")])
    assert site.revisions() == before
