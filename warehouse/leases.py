"""Who may recompute usage: runs of one tenant exclude each other.

    claim -> does anybody else hold a claim? -- no --> run, renewing the claim -> withdraw
                     |
                    yes --> withdraw, wait a little, try again

ClickHouse compares and sets nothing, but two claims cannot miss each other: each is
written before the others are read, so the later reader sees both and withdraws. Claims
expire by the warehouse's clock, so a run that was killed keeps others out for
`LEASE_SECONDS` at most; on the embedded engine not at all, since one process at a time
has its folder. On a cluster of replicas, inserts and reads of `leases` must go to the
same replica.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from meters.errors import UsageClaimed, WarehouseError
from warehouse.client import Warehouse

LEASE_SECONDS = 60
RENEW_SECONDS = 15
WAIT_SECONDS = 120

_PROCESS = uuid.uuid4().hex

_WRITE = """
INSERT INTO leases (tenant_id, resource, holder, process, expires_at, updated_at)
SELECT {tenant:String}, 'usage', {holder:String}, {process:String},
    now64(6, 'UTC') + toIntervalSecond({seconds:UInt32}), now64(6, 'UTC')
"""

_OTHERS = """
SELECT holder FROM leases FINAL
WHERE tenant_id = {tenant:String} AND resource = 'usage' AND holder != {holder:String}
    AND expires_at > now64(6, 'UTC')
    AND ({process:String} = '' OR process = {process:String})
"""


class Lease:
    """A claim that is held and renewed by a thread of its own."""

    def __init__(self, warehouse: Warehouse, tenant: str) -> None:
        self._warehouse = warehouse
        self._tenant = tenant
        self._holder = uuid.uuid4().hex
        self._done = threading.Event()
        self._lost = False
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def check(self) -> None:
        """Raises WarehouseError where the claim expired before it was renewed."""
        if self._lost:
            raise WarehouseError(
                f"the lease on the usage of tenant {self._tenant!r} expired while this run had "
                "it, so another one may have written the same hours; run this command again"
            )

    def _acquire(self, wait: float) -> None:
        until = time.monotonic() + wait
        while True:
            if not self._others():
                self._write(LEASE_SECONDS)
                if not self._others():
                    break
                self._write(0)
            if time.monotonic() >= until:
                raise UsageClaimed(
                    f"another backfill or repair of tenant {self._tenant!r} is running; "
                    "try again when it is done"
                )
            time.sleep(min(2.0, wait) * random.uniform(0.25, 1))
        self._renewing.start()

    def _release(self) -> None:
        self._done.set()
        self._renewing.join()
        if not self._lost:
            self._write(0)

    def _others(self) -> bool:
        process = _PROCESS if self._warehouse.one_process else ""
        found = self._warehouse.query_rows(
            _OTHERS, {"tenant": self._tenant, "holder": self._holder, "process": process}
        )
        return bool(found)

    def _write(self, seconds: int) -> None:
        self._warehouse.command(
            _WRITE,
            {
                "tenant": self._tenant,
                "holder": self._holder,
                "process": _PROCESS,
                "seconds": seconds,
            },
        )

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(RENEW_SECONDS):
            begun = time.monotonic()
            try:
                self._write(LEASE_SECONDS)
            except WarehouseError:
                begun = renewed
            if time.monotonic() - renewed >= LEASE_SECONDS:
                self._lost = True
                return
            renewed = begun


@contextmanager
def exclusive(warehouse: Warehouse, tenant: str, *, wait: float = WAIT_SECONDS) -> Iterator[Lease]:
    """Keeps other backfills and repairs of the tenant out while the body runs.

    Waits up to `wait` seconds for one that is running. Raises UsageClaimed where
    it runs on, and WarehouseError at the end where the lease was lost in the meantime.
    """
    lease = Lease(warehouse, tenant)
    lease._acquire(wait)
    try:
        yield lease
        lease.check()
    finally:
        lease._release()
