"""The catalogs of a stream while it runs: every worker learns of new ones by itself.

    table catalog_versions --asked every two seconds--> timeline --> ingest, shards

Workers learn of a change at moments of their own. What came of it in between is put
right by the shards (`transforms.shard_flush`): a shard whose events might have been
metered otherwise loads its state anew.
"""

from __future__ import annotations

import threading
import time

from meters.timeline import Names, Timeline
from warehouse.catalogs import last_announced, read_versions
from warehouse.client import Warehouse

POLL_SECONDS = 2.0


def stored_timeline(warehouse: Warehouse, tenant: str) -> Timeline | None:
    """The catalogs that were announced, in time; None where there are none."""
    versions = read_versions(warehouse, tenant)
    if not versions:
        return None
    return Timeline.from_stored([(version.at, version.content) for version in versions])


class Catalogs:
    """The timeline of one tenant, as this process knows it."""

    def __init__(self, tenant: str, first: Timeline) -> None:
        self._tenant = tenant
        self._known = {first.signature: first}
        self._current = first
        self._seen: tuple[int, int] | None = None
        self._asked = 0.0
        self._guard = threading.Lock()

    def current(self, warehouse: Warehouse) -> Timeline:
        """The timeline now; asks the warehouse where it was not asked for a while."""
        with self._guard:
            if time.monotonic() - self._asked >= POLL_SECONDS:
                self._ask(warehouse)
            return self._current

    def having(self, warehouse: Warehouse, signature: str) -> Timeline:
        """The timeline now, which a worker that has made something by `signature` knows too."""
        with self._guard:
            if signature not in self._known:
                self._ask(warehouse)
            return self._current

    def names(self, signature: str) -> Names | None:
        """What a timeline was that this process has known; None where it has not."""
        with self._guard:
            found = self._known.get(signature)
        return None if found is None else found.names

    def _ask(self, warehouse: Warehouse) -> None:
        seen = last_announced(warehouse, self._tenant)
        if seen != self._seen:
            found = stored_timeline(warehouse, self._tenant)
            if found is not None and found.signature not in self._known:
                self._known[found.signature] = found
            if found is not None:
                self._current = self._known[found.signature]
            self._seen = seen
        self._asked = time.monotonic()


class _Jobs:
    """The catalogs of the jobs of this process, which all its DoFns share."""

    def __init__(self) -> None:
        self._found: dict[str, Catalogs] = {}
        self._guard = threading.Lock()

    def of(self, job: str, tenant: str, first: Timeline) -> Catalogs:
        """Those of a job that was started with the timeline `first`."""
        with self._guard:
            return self._found.setdefault(job, Catalogs(tenant, first))

    def drop(self, job: str) -> None:
        """Forget a job that has ended."""
        with self._guard:
            self._found.pop(job, None)


CATALOGS = _Jobs()
"""Of this process."""
