"""Runs at once, and runs that are killed: no number, burn or document twice, and none missing."""

from __future__ import annotations

import signal
from decimal import Decimal

from journal.journal import Journal
from tests.cli import Running
from tests.journal.finalizer import CUSTOMERS

MODULE = "tests.journal.finalizer"


def assert_each_once(journal: Journal, tenant: str) -> None:
    documents = journal.documents(tenant)
    ids = sorted(str(each["invoice_id"]) for each in documents)
    assert ids == sorted(f"{name}-{number}" for name in CUSTOMERS for number in range(2))
    numbers = [f"EU-2026-{number:03}" for number in range(1, len(ids) + 1)]
    assert [each["number"] for each in documents] == numbers
    histories = journal.histories(tenant, CUSTOMERS)
    balances = {name: dict(history.balances) for name, history in histories.items()}
    assert balances == {name: {f"g-{name}": Decimal("2.00")} for name in CUSTOMERS}
    assert journal.problems(tenant) == []


def test_three_runs_at_once_finalize_each_document_once(
    journal: Journal, journal_url: str, tenant: str
) -> None:
    runs = [Running((journal_url, tenant), {}, MODULE) for _ in range(3)]
    for run in runs:
        done = run.wait()
        assert done.code == 0, done
    assert_each_once(journal, tenant)


def test_runs_that_are_killed_within_their_transactions_leave_nothing_half(
    journal: Journal, journal_url: str, tenant: str
) -> None:
    for killed_at in (1, 2, 4, 6, 15):
        done = Running((journal_url, tenant, str(killed_at)), {}, MODULE).wait()
        assert done.code == -signal.SIGKILL, done
        assert journal.problems(tenant) == []
        assert len(journal.documents(tenant)) % 14 == 0, "all of a transaction, or nothing"
    assert Running((journal_url, tenant), {}, MODULE).wait().code == 0
    assert_each_once(journal, tenant)
