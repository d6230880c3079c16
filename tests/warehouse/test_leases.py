"""Leases: one run of a tenant at a time, on both engines."""

from __future__ import annotations

import threading
import time

import pytest

from meters.errors import WarehouseError, WarehouseUnavailable
from warehouse import leases
from warehouse.client import Warehouse
from warehouse.leases import exclusive


def test_a_second_run_of_the_tenant_waits_and_then_gives_up(
    warehouse: Warehouse, tenant: str
) -> None:
    with exclusive(warehouse, tenant):
        with exclusive(warehouse, tenant + "x"):
            pass
        with (
            pytest.raises(WarehouseUnavailable, match=r"another backfill or repair of tenant"),
            exclusive(warehouse, tenant, wait=0),
        ):
            pytest.fail("two at once")
    with exclusive(warehouse, tenant, wait=0):
        pass


def test_a_run_that_fails_lets_others_in(warehouse: Warehouse, tenant: str) -> None:
    with pytest.raises(KeyError), exclusive(warehouse, tenant):
        raise KeyError
    with exclusive(warehouse, tenant, wait=0):
        pass


def test_never_two_at_once_and_all_in_the_end(warehouse: Warehouse, tenant: str) -> None:
    inside: list[int] = []
    most: list[int] = []

    def run(number: int) -> None:
        with exclusive(warehouse, tenant):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def claim(warehouse: Warehouse, tenant: str, process: str, seconds: int) -> None:
    warehouse.command(
        leases._WRITE,
        {"tenant": tenant, "holder": "other", "process": process, "seconds": seconds},
    )


def test_the_claim_of_a_killed_process_keeps_others_out_until_it_expires(
    warehouse: Warehouse, tenant: str
) -> None:
    claim(warehouse, tenant, "gone", 600)
    if warehouse.one_process:
        # It cannot be alive: this process has the folder.
        with exclusive(warehouse, tenant, wait=0):
            return
    with pytest.raises(WarehouseUnavailable), exclusive(warehouse, tenant, wait=0):
        pytest.fail("it may be alive")
    claim(warehouse, tenant, "gone", 0)
    with exclusive(warehouse, tenant, wait=0):
        pass


def expiry(warehouse: Warehouse, tenant: str) -> object:
    [row] = warehouse.query_rows(
        "SELECT expires_at FROM leases FINAL WHERE tenant_id = {tenant:String}", {"tenant": tenant}
    )
    return row["expires_at"]


def test_a_long_run_renews_its_claim(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    with exclusive(warehouse, tenant) as lease:
        first = expiry(warehouse, tenant)
        while expiry(warehouse, tenant) == first:
            time.sleep(0.05)
        lease.check()


def test_a_claim_that_could_not_be_renewed_is_lost_and_said_so(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1)

    def away(*_: object) -> None:
        raise WarehouseUnavailable("away")

    def run() -> None:
        with exclusive(warehouse, tenant) as lease:
            monkeypatch.setattr(leases.Lease, "_write", away)
            lease._renewing.join()

    with pytest.raises(WarehouseError, match="expired while this run had it"):
        run()
