"""A run that finalizes documents of a hundred customers, as a process of its own.

    python -m tests.journal.finalizer URL TENANT [KILLED_AT]

Every customer has a grant of 10.00, of which each of its two documents burns 4.00. It computes
proposals from the journal's history and tries again where they are stale, like
`beammeter bill --finalize`. With KILLED_AT it gets a SIGKILL within the transaction, when so many
statements were sent.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from journal import commit
from journal.database import Statements
from journal.journal import Journal
from journal.records import NO_HISTORY, History, Proposal
from tests.journal.postings import burning, proposal

CUSTOMERS = [f"c{number}" for number in range(100)]
AT_ONCE = 7


def proposed(customer: str, history: History) -> Proposal:
    """Its documents that are not final yet."""
    ids = [f"{customer}-{number}" for number in range(2)]
    made = [burning(each, "4.00", f"g-{customer}", customer) for each in ids]
    left = [each for each in made if each.document["invoice_id"] not in history.documents]
    return proposal(*left, version=history.version, customer=customer)


def finalize(journal: Journal, tenant: str) -> None:
    """Until nothing is stale."""
    left = list(CUSTOMERS)
    while left:
        some, left = left[:AT_ONCE], left[AT_ONCE:]
        histories = journal.histories(tenant, some)
        proposals = [proposed(name, histories.get(name, NO_HISTORY)) for name in some]
        _, stale = journal.finalize(tenant, proposals, actor="run")
        left += stale


class Killed:
    """Statements, the last of which is never sent."""

    sent = 0

    def __init__(self, statements: Statements, last: int) -> None:
        self._statements = statements
        self._last = last

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """As it is."""
        return self._statements.rows(sql, values)

    def run(self, sql: str, rows: Sequence[Sequence[Any]] = ((),)) -> None:
        """Die in the middle of the transaction."""
        Killed.sent += 1
        if Killed.sent == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self._statements.run(sql, rows)


def main(url: str, tenant: str, killed_at: str = "") -> None:
    """Run it."""
    if killed_at:
        plain = commit.Commit.__init__

        def killing(self: commit.Commit, statements: Statements, *rest: Any) -> None:
            plain(self, Killed(statements, int(killed_at)), *rest)

        commit.Commit.__init__ = killing  # type: ignore[method-assign]
    with Journal.connect(url) as journal:
        finalize(journal, tenant)


if __name__ == "__main__":
    main(*sys.argv[1:])
