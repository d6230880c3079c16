"""The catalogs of a server's tenant in time: what reads usage, what bills, what meters an event.

    the catalog that was given  --> all three, until others were announced
    those that were announced   --> reading: all that any of them has
                                    billing: the one in force now
                                    timeline: which one meters an event

A server learns of a new catalog within seconds, as the workers of a stream do. One that was
given a catalog which was never announced bills by that, as commands do.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

from meters.catalog import Catalog
from meters.catalog_file import catalog_hash
from meters.timeline import Timeline
from meters.zones import microseconds
from transforms.catalogs import Catalogs
from warehouse.client import Warehouse


@dataclass(frozen=True)
class InTime:
    """The catalogs at one moment."""

    timeline: Timeline
    reading: Catalog
    billing: Catalog

    def metering(self, customer: str, at: datetime) -> Catalog:
        """The catalog that meters an event of a customer at an instant."""
        return self.timeline.catalogs[self.timeline.version_at(customer, at)]


class ServedCatalogs:
    """The catalogs of one tenant, as this server knows them; safe for several threads."""

    def __init__(self, given: Catalog, tenant: str, warehouse: Warehouse) -> None:
        self._given = given
        self._hash = catalog_hash(given)
        self._alone = Timeline.of(given)
        self._warehouse = warehouse
        self._stored = Catalogs(tenant, self._alone)
        self._guard = threading.Lock()
        self._key: tuple[str, int] | None = None
        self.known = InTime(self._alone, given, given)
        """What it knew last, without asking the warehouse."""

    def at(self, now: datetime) -> InTime:
        """The catalogs at `now`. Raises WarehouseUnavailable where it cannot be asked."""
        timeline = self._stored.current(self._warehouse)
        if len(timeline.entries) < 2:
            timeline = self._alone
        version = self._in_force(timeline, now)
        with self._guard:
            key = timeline.signature, version
            if key != self._key:
                billing = self._given if version < 0 else timeline.catalogs[version]
                self.known = InTime(timeline, timeline.with_last(billing), billing)
                self._key = key
            return self.known

    def _in_force(self, timeline: Timeline, now: datetime) -> int:
        """The version in force, or -1 where the given catalog is none of them."""
        if self._hash not in {name for _, name in timeline.names}:
            return -1
        begun = [at for at, _ in timeline.entries if at <= microseconds(now)]
        return max(len(begun) - 1, 0)
