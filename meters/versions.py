"""Metering by several catalogs as if it were by one: for what reads, shuffles and merges columns.

    events --by version--> project --> slim columns of all versions, with `version`
                                             |
                              deduplicate, over all versions
                                             |
    cells <-- families of all versions <-- measure, version by version

`projection_of` and `measurement_of` give what has the face of `Projection` and
`Measurement`; for a timeline of one catalog they are just those. Customers are numbered
as in `Timeline.everything` until they are measured, so that copies of one event meet
whatever versions their times belong to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa

from meters.event import EVENT_SCHEMA, QUARANTINE_SCHEMA
from meters.measure import Cells, Measured, Measurement
from meters.projection import Projected, Projection, index_of
from meters.timeline import Timeline

VERSION = "version"


class VersionedProjection:
    """Projects each event by the catalog of its hour."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._customers = {c.id: n for n, c in enumerate(timeline.everything.customers)}
        self._schema = _schema(timeline)

    def project(self, events: pa.Table, *, report: bool = True) -> Projected:
        """As `Projection.project`; rows come version by version."""
        versions = self._timeline.versions(events)
        parts = []
        for version in np.unique(versions).tolist():
            here = events.filter(pa.array(versions == version))
            part = self._timeline.project(version, here, report=report)
            parts.append(replace(part, slim=self._widened(version, part)))
        empty = QUARANTINE_SCHEMA.empty_table()
        return Projected(
            events=pa.concat_tables([events.slice(0, 0), *(part.events for part in parts)]),
            slim=pl.concat([self._schema.to_frame(), *(part.slim for part in parts)]),
            broken=pa.concat_tables([empty, *(part.broken for part in parts)]),
            refused=pa.concat_tables([empty, *(part.refused for part in parts)]),
            rounded=sum(part.rounded for part in parts),
        )

    def _widened(self, version: int, part: Projected) -> pl.DataFrame:
        """The slim columns that any version has, customers as all versions number them."""
        ids = pl.Series(pl.from_arrow(part.events.column("external_customer_id")))
        customer = index_of(ids, self._customers).alias("customer")
        unknown = pl.select(pl.when(customer.is_null()).then(ids).alias("unknown")).to_series()
        slim = part.slim.with_columns(customer, unknown, pl.lit(version, pl.UInt16).alias(VERSION))
        return slim.select(
            pl.col(name) if name in slim.columns else pl.lit(None, dtype).alias(name)
            for name, dtype in self._schema.items()
        )


class VersionedMeasurement:
    """Measures what `VersionedProjection` made; families are numbered over all versions."""

    def __init__(self, timeline: Timeline) -> None:
        self.catalog = timeline.everything
        self._inner = timeline.measurements
        counts = [len(measurement.families) for measurement in self._inner]
        self._first = np.concatenate([[0], np.cumsum(counts)]).tolist()
        here = {c.id: n for n, c in enumerate(self.catalog.customers)}
        self._local = []
        self._whole = []
        for catalog in timeline.catalogs:
            ids = [customer.id for customer in catalog.customers]
            local = pl.Series([None] * len(here), dtype=pl.Int32)
            places = [here[name] for name in ids]
            self._local.append(local.scatter(places, list(range(len(ids)))) if ids else local)
            self._whole.append(pl.Series(places, dtype=pl.Int32))

    def measure(self, events: pl.DataFrame) -> Measured:
        """As `Measurement.measure`."""
        parts = []
        for (version,), rows in events.partition_by(VERSION, as_dict=True).items():
            local = self._local[version].gather(rows["customer"]).alias("customer")
            part = self._inner[version].measure(rows.drop(VERSION).with_columns(local))
            cells = [self._numbered(version, each) for each in part.cells]
            parts.append(replace(part, cells=cells))
        return Measured(
            cells=[cells for part in parts for cells in part.cells],
            meter_errors=sum(part.meter_errors for part in parts),
            unattributed=sum(part.unattributed for part in parts),
        )

    def merge(self, parts: Sequence[Cells]) -> Cells:
        """As `Measurement.merge`."""
        version, _ = self._place(parts[0].family)
        local = [self._unnumbered(part) for part in parts]
        return self._numbered(version, self._inner[version].merge(local))

    def split(self, cells: Cells, shards: int) -> Iterator[tuple[int, Cells]]:
        """As `Measurement.split`, by customers as all versions number them."""
        version, local = self._place(cells.family)
        numbers = self._whole[version]
        for shard, part in self._inner[version].split(
            Cells(local, cells.rows, cells.values), shards, numbers
        ):
            yield shard, self._numbered(version, part)

    def of(self, cells: Cells) -> tuple[Measurement, Cells]:
        """The measurement whose own cells these are, and they as it knows them."""
        version, _ = self._place(cells.family)
        return self._inner[version], self._unnumbered(cells)

    def _place(self, family: int) -> tuple[int, int]:
        version = int(np.searchsorted(self._first, family, side="right")) - 1
        return version, family - self._first[version]

    def _numbered(self, version: int, cells: Cells) -> Cells:
        return replace(cells, family=cells.family + self._first[version])

    def _unnumbered(self, cells: Cells) -> Cells:
        return replace(cells, family=self._place(cells.family)[1])


Projecting = Projection | VersionedProjection
Measuring = Measurement | VersionedMeasurement


def projection_of(timeline: Timeline) -> Projecting:
    """What projects events by the catalogs of a timeline."""
    one = len(timeline.catalogs) == 1
    return Projection(timeline.catalogs[0]) if one else VersionedProjection(timeline)


def measurement_of(timeline: Timeline) -> Measuring:
    """What measures the slim columns that `projection_of` makes."""
    one = len(timeline.catalogs) == 1
    return timeline.measurements[0] if one else VersionedMeasurement(timeline)


def _schema(timeline: Timeline) -> pl.Schema:
    """The slim columns of all versions."""
    columns: dict[str, pl.DataType] = {}
    for version, _ in enumerate(timeline.catalogs):
        slim = timeline.project(version, EVENT_SCHEMA.empty_table(), report=False).slim
        columns |= dict(slim.schema)
    return pl.Schema({**columns, VERSION: pl.UInt16()})
