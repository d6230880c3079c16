"""Events of an input that lie in hours which the stream owns: a backfill refuses them."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import polars as pl

from meters.catalog import Catalog
from meters.decode import decode
from meters.mapping import Mapping
from meters.touched import CUSTOMER, owned_events
from meters.usage import INSTANT
from transforms.sources import FileSplit, read_split
from warehouse.ownership import Owners

Found = tuple[str, int, str, int, int]
"""Origin, row, customer, timestamp and closed_until (microseconds) of an owned event."""


@beam.typehints.with_output_types(tuple[str, int, str, int, int])
class FindOwnedEvents(beam.DoFn):  # type: ignore[misc]
    """`FileSplit` -> its first event in an hour that the stream owns, if there is one.

    Only events within the half-open `span` (microseconds) are looked at, and of these
    only customers and timestamps.
    """

    def __init__(
        self,
        catalog: Catalog,
        owners: Owners,
        *,
        mapping: Mapping,
        span: tuple[int | None, int | None],
    ) -> None:
        self._catalog = catalog
        self._owners = owners
        self._mapping = mapping
        self._span = span

    def setup(self) -> None:
        """Nobody has been looked up yet."""
        self._zones = {c.id: c.time_zone for c in self._catalog.customers}
        self._closed: dict[str, int | None] = {}

    def process(self, split: FileSplit) -> Iterator[Found]:
        """Read the split up to the first one."""
        for batch in read_split(split, self._mapping):
            events = decode(batch.columns, self._owners.tenant, batch.origin, batch.rows).events
            frame = pl.DataFrame(
                pl.from_arrow(events.select([CUSTOMER, "timestamp", "origin_row"]))
            )
            found = self._owned(frame.with_columns(pl.col("timestamp").cast(INSTANT)))
            if found.height:
                columns = "origin_row", CUSTOMER, pl.col("timestamp").cast(pl.Int64), "closed"
                row, customer, at, closed = found.select(*columns).sort("origin_row").row(0)
                yield batch.origin, row, customer, at, closed
                return

    def _owned(self, frame: pl.DataFrame) -> pl.DataFrame:
        first, last = self._span
        at = pl.col("timestamp").cast(pl.Int64)
        if first is not None:
            frame = frame.filter(at >= first)
        if last is not None:
            frame = frame.filter(at < last)
        for name in frame[CUSTOMER].unique().to_list():
            if name not in self._closed:
                self._closed[name] = self._owners.closed_until(name)
        return owned_events(frame, self._zones, self._closed)
