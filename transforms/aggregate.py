"""Deduplicate, measure and aggregate: slim frames by shard -> merged cells.

    (shard, slim)* --GroupByKey--> deduplicate -> measure -> cells
    cells --CombinePerKey(customer shard, family)--> one cell table, one writer

Shards are cut by identity, so copies meet and shards are even however large one
customer is; the partial cells of all shards meet again in the combine, which the
runner lifts in front of the shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.coders import Coder, coders
from apache_beam.pvalue import TaggedOutput

from meters.catalog import Catalog
from meters.decode import payload
from meters.deduplicate import Deduplicated, conflicts, deduplicate
from meters.event import QUARANTINE_SCHEMA, content_prefix
from meters.measure import Cells, Measurement
from meters.scalars import canonical_json, parse_json
from meters.zones import microseconds
from transforms.batches import CellsCoder, unpack
from transforms.connection import connect
from transforms.ingest import COUNTS
from warehouse.affected import copies_of
from warehouse.writes import insert_quarantine

Row = dict[str, Any]

CellKey = tuple[int, int]
"""(customer shard, family)."""


@beam.typehints.with_output_types(tuple[tuple[int, int], Cells])
class AggregateShard(beam.DoFn):  # type: ignore[misc]
    """(shard, packed slim frames) -> (cell key, partial cells), and `Counts` under `COUNTS`."""

    def __init__(self, catalog: Catalog, *, tenant: str, warehouse: str, writers: int) -> None:
        self._catalog = catalog
        self._tenant = tenant
        self._url = warehouse
        self._writers = writers

    def setup(self) -> None:
        """Open the warehouse and prepare the meters once a worker."""
        self._warehouse = connect(self._url)
        self._measurement = Measurement(self._catalog)

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[object]:
        """One shard: it holds all copies of its identities."""
        _, packed = element
        unique = deduplicate(pl.concat([unpack(frame) for frame in packed], rechunk=False))
        measured = self._measurement.measure(unique.events)
        counts = {
            "accepted": unique.events.height,
            "duplicate": unique.duplicates,
            "conflict": self._conflicts(unique),
            "meter_errors": measured.meter_errors,
            "unattributed": measured.unattributed,
        }
        yield TaggedOutput(COUNTS, counts)
        for cells in measured.cells:
            for shard, part in self._measurement.split(cells, self._writers):
                yield (shard, cells.family), part

    def _conflicts(self, unique: Deduplicated) -> int:
        """Count copies that say something else, and send them to quarantine."""
        if unique.differing.is_empty():
            return 0
        copies = self._stored(unique.differing)
        said = {row["content_hash"][:8]: _canonical(row) for row in copies}
        found = conflicts(unique.differing, said)
        wanted = {
            (*self._identity(row), row["content"].to_bytes(8, "big"))
            for row in found.iter_rows(named=True)
        }
        losers = [
            row
            for row in copies
            if (row["external_customer_id"], row["identity_hash"], row["content_hash"][:8])
            in wanted
        ]
        rows = pa.Table.from_pylist(
            [_conflict(row, self._tenant) for row in losers], QUARANTINE_SCHEMA
        )
        insert_quarantine(self._warehouse, rows)
        return found.height

    def _stored(self, differing: pl.DataFrame) -> list[Row]:
        identities = {self._identity(row) for row in differing.iter_rows(named=True)}
        rows: list[Row] = copies_of(self._warehouse, self._tenant, sorted(identities)).to_pylist()
        return rows

    def _identity(self, row: Row) -> tuple[str, bytes]:
        customer = row["unknown"]
        if customer is None:
            customer = self._catalog.customers[row["customer"]].id
        return customer, row["identity"].to_bytes(8, "big") + row["identity_low"].to_bytes(8, "big")


def _canonical(row: Row) -> str:
    """What an event says, however its JSON is written."""
    prefix = content_prefix(
        str(row["event_name"]),
        _text(row["external_subscription_id"]),
        _text(row["source"]),
    )
    properties = str(row["properties"])
    # What Python cannot hold (deep nesting, endless digits) is compared as it is written.
    with suppress(ValueError, RecursionError):
        properties = canonical_json(parse_json(properties))
    return f"{prefix}{microseconds(row['timestamp'])}{properties}"


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _conflict(row: Row, tenant: str) -> dict[str, object]:
    shown = {
        name: row[name]
        for name in (
            "event_id",
            "event_name",
            "external_customer_id",
            "external_subscription_id",
            "timestamp",
            "ingested_at",
            "source",
            "properties",
        )
    }
    return {
        "tenant_id": tenant,
        "origin": row["origin"],
        "origin_row": row["origin_row"],
        "reason": "conflict",
        "meter": "",
        "field": "event_id",
        "detail": "event_id must be unique for its customer, or a copy must say the same "
        f"(got {row['event_id']!r} again with other content)",
        "event_id": row["event_id"],
        "external_customer_id": row["external_customer_id"],
        "payload": payload(shown),
    }


@beam.typehints.with_input_types(Cells)
@beam.typehints.with_output_types(Cells)
class MergeCells(beam.CombineFn):  # type: ignore[misc]
    """Merges the partial cells of one key by the columnar algebra."""

    COMPACT = 8

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._measurement: Measurement | None = None

    def setup(self) -> None:
        """Prepare the meters once a worker."""
        self._measurement = Measurement(self._catalog)

    def _merged(self, parts: list[Cells]) -> list[Cells]:
        if self._measurement is None:
            self._measurement = Measurement(self._catalog)
        return [self._measurement.merge(parts)] if parts else []

    def create_accumulator(self) -> list[Cells]:
        """No cells."""
        return []

    def add_input(self, accumulator: list[Cells], element: Cells) -> list[Cells]:
        """Keep the part; merge once some have gathered, which costs less than each time."""
        parts = [*accumulator, element]
        return self._merged(parts) if len(parts) >= self.COMPACT else parts

    def merge_accumulators(self, accumulators: Iterable[list[Cells]]) -> list[Cells]:
        """Merge all parts at once."""
        return self._merged([part for parts in accumulators for part in parts])

    def compact(self, accumulator: list[Cells]) -> list[Cells]:
        """Merge before the shuffle."""
        return self._merged(accumulator)

    def extract_output(self, accumulator: list[Cells]) -> Cells | None:
        """The cells of the key."""
        merged = self._merged(accumulator)
        return merged[0] if merged else None

    def get_accumulator_coder(self) -> Coder:
        """A list of cell tables."""
        return coders.IterableCoder(CellsCoder())
