"""The catalogs of a tenant in time: which one an event is metered by.

A catalog may be announced to take effect at an instant. From then on it meters every
hour that starts at or after that instant; an hour that has begun stays with the catalog
before it, so that no bucket is metered by two. What decides is the event's own time,
so a replay gives the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from meters.buckets import bucket_of
from meters.catalog import Catalog, catalog_of
from meters.catalog_file import catalog_from_content, catalog_hash
from meters.event import QUARANTINE_SCHEMA
from meters.measure import Measurement
from meters.projection import Projected, Projection, index_of
from meters.shards import owner_hash
from meters.zones import LEAST_US, microseconds

ALWAYS = LEAST_US
"""The instant from which the first catalog of a timeline holds."""

Names = tuple[tuple[int, str], ...]
"""The instants and hashes of a timeline's catalogs, which say all that it is."""


@dataclass(frozen=True)
class Metered:
    """What a batch of events is for the meters.

    `frames` has the slim events of each version of the catalog, with the column `owner`
    (`meters.shards.owner_hash`), in the order of the batch. `events` are those whose
    properties are a JSON object; `quarantine` has what was refused. `rounded` counts the
    numbers that lost digits beyond the 12th place.
    """

    events: pa.Table
    frames: list[tuple[int, pl.DataFrame]]
    quarantine: pa.Table
    broken: int
    rounded: int


@dataclass
class Timeline:
    """Catalogs with the instants (microseconds) at which they take effect, ascending.

    The first one holds since ever. Picklable.
    """

    entries: Sequence[tuple[int, Catalog]]
    catalogs: list[Catalog] = field(init=False)
    measurements: list[Measurement] = field(init=False)
    everything: Catalog = field(init=False)
    """All that any of the catalogs has; of what several have, the last one's."""
    names: Names = field(init=False)
    signature: str = field(init=False)
    """The same for the same catalogs at the same instants, anywhere."""

    def __post_init__(self) -> None:
        self.catalogs = [catalog for _, catalog in self.entries]
        self.measurements = [Measurement(catalog) for catalog in self.catalogs]
        self._projections = [Projection(catalog) for catalog in self.catalogs]
        self.everything = _together(self.catalogs)
        self.names = tuple((at, catalog_hash(catalog)) for at, catalog in self.entries)
        hashes = [f"{at} {name}" for at, name in self.names]
        self.signature = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:32]

    @classmethod
    def of(cls, catalog: Catalog) -> Timeline:
        """One catalog, since ever."""
        return cls([(ALWAYS, catalog)])

    @classmethod
    def from_stored(cls, stored: Sequence[tuple[int, str]]) -> Timeline:
        """Instants and the contents (`catalog_content`) of their catalogs, ascending."""
        return cls(
            [
                (at if index else ALWAYS, catalog_from_content(content))
                for index, (at, content) in enumerate(stored)
            ]
        )

    def __reduce__(self) -> tuple[Callable[..., Timeline], tuple[tuple[int, bytes], ...]]:
        """Every step of a pipeline carries a timeline: a process prepares it once."""
        entries = tuple((at, catalog.pickled) for at, catalog in self.entries)
        _prepared.setdefault(entries, self)
        return _unpickled, entries

    def with_last(self, catalog: Catalog) -> Catalog:
        """All that any of the catalogs has; of what several have, that of `catalog`."""
        return _together([*self.catalogs, catalog])

    def meter(self, tenant: str, events: pa.Table, *, report: bool = True) -> Metered:
        """Project a batch of `EVENT_SCHEMA` by the catalogs of its events.

        With `report` off nothing is said about what was refused.
        """
        if len(self.entries) == 1:
            return self._meter(0, tenant, events, report)
        versions = self.versions(events)
        parts = []
        for version in np.unique(versions).tolist():
            here = pa.array(versions == version)
            parts.append(self._meter(version, tenant, events.filter(here), report))
        return Metered(
            events=pa.concat_tables(part.events for part in parts) if parts else events,
            frames=[frame for part in parts for frame in part.frames],
            quarantine=pa.concat_tables(
                [QUARANTINE_SCHEMA.empty_table(), *(part.quarantine for part in parts)]
            ),
            broken=sum(part.broken for part in parts),
            rounded=sum(part.rounded for part in parts),
        )

    def version_at(self, customer: str, at: datetime) -> int:
        """The version that meters the customer's local hour around `at`; see `versions`."""
        found = 0
        for version, (effective, catalog) in enumerate(self.entries):
            known = catalog.customers_by_id.get(customer)
            zone = known.time_zone if known is not None else "UTC"
            if version and microseconds(bucket_of(at, zone, ()).start) >= effective:
                found = version
        return found

    def project(self, version: int, events: pa.Table, *, report: bool = True) -> Projected:
        """Project events that belong to one version of the catalog."""
        return self._projections[version].project(events, report=report)

    def _meter(self, version: int, tenant: str, events: pa.Table, report: bool) -> Metered:
        projected = self.project(version, events, report=report)
        events = projected.events
        slim = projected.slim.with_columns(owners(tenant, events.column("external_customer_id")))
        quarantine = pa.concat_tables([projected.broken, projected.refused])
        frames = [(version, slim)] if slim.height else []
        return Metered(events, frames, quarantine, projected.broken.num_rows, projected.rounded)

    def versions(self, events: pa.Table) -> npt.NDArray[np.int64]:
        """The catalog of each event: the last one in effect when its local hour began."""
        at = events.column("timestamp").cast(pa.int64()).to_numpy()
        ids = pl.Series(pl.from_arrow(events.column("external_customer_id")))
        result = np.zeros(len(at), dtype=np.int64)
        for version, (effective, catalog) in enumerate(self.entries):
            if version == 0:
                continue
            table = {customer.id: index for index, customer in enumerate(catalog.customers)}
            customer = index_of(ids, table)
            starts, _ = self.measurements[version].hours(customer, pl.Series(at))
            result[starts >= effective] = version
        return result


def first_difference(one: Names, other: Names) -> int | None:
    """The first instant from which two timelines meter differently; None where never."""
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            return min(mine[0], theirs[0])
    longer = max(one, other, key=len)[min(len(one), len(other)) :]
    return longer[0][0] if longer else None


def _together(catalogs: Sequence[Catalog]) -> Catalog:
    if len(catalogs) == 1:
        return catalogs[0]
    found: dict[str, list[object]] = {}
    for section in Catalog.model_fields:
        items = {item.id: item for catalog in catalogs for item in getattr(catalog, section)}
        found[section] = list(items.values())
    return Catalog.model_construct(**found)  # type: ignore[arg-type]


def owners(tenant: str, customers: pa.ChunkedArray) -> pl.Series:
    """The owner hash of each customer id, hashed once an id."""
    encoded = pc.dictionary_encode(customers.combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    hashes = [owner_hash(tenant, name) for name in encoded.dictionary.to_pylist()]
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return pl.Series("owner", np.array(hashes, dtype=np.uint64)[codes])


_prepared: WeakValueDictionary[tuple[tuple[int, bytes], ...], Timeline] = WeakValueDictionary()
"""The timelines of this process, by what they are pickled as."""


def _unpickled(*entries: tuple[int, bytes]) -> Timeline:
    found = _prepared.get(entries)
    if found is None:
        found = Timeline([(at, catalog_of(content)) for at, content in entries])
        _prepared[entries] = found
    return found
