"""Nothing that was issued changes: the tables refuse it, and the chain shows it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.address import parse_journal_url
from journal.chain import GENESIS, AuditEntry
from journal.database import open_database
from journal.journal import Journal
from meters.errors import JournalError
from tests.journal.postings import burning, finalized, plain

KEPT = ("documents", "voids", "ledger", "audit_log")


@pytest.mark.parametrize("table", KEPT)
@pytest.mark.parametrize("verb", ["UPDATE {} SET seq = seq + 1", "DELETE FROM {}"])
def test_rows_that_were_issued_cannot_be_changed(
    journal: Journal, journal_url: str, tenant: str, table: str, verb: str
) -> None:
    finalized(journal, tenant, burning("a", "4.00"))
    journal.void(tenant, "a", actor="ben", reason="x")
    database = open_database(parse_journal_url(journal_url), create=False)
    with (
        pytest.raises(JournalError, match=f"rows of {table} never change"),
        database.writing(tenant) as statements,
    ):
        statements.run(verb.format(table))
    database.close()
    assert journal.problems(tenant) == []


@pytest.fixture
def forged(tmp_path: Path) -> Iterator[tuple[Journal, sqlite3.Connection]]:
    """A journal with history, and somebody who has taken its guards away."""
    file = tmp_path / "journal.sqlite3"
    with Journal.connect(f"sqlite://{file}") as journal:
        finalized(journal, "t", burning("a", "4.00"), plain("b"), plain("c"))
        journal.void("t", "b", actor="ben", reason="x")
        assert journal.problems("t") == []
        connection = sqlite3.connect(file, isolation_level=None)
        for table in KEPT:
            for verb in ("UPDATE", "DELETE"):
                connection.execute(f"DROP TRIGGER {table}_{verb}")
        yield journal, connection
        connection.close()


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (
            "UPDATE documents SET content = replace(content, '1.00', '9.00') "
            "WHERE invoice_id = 'c'",
            "c: its content is not what was committed (audit entry 3)",
        ),
        (
            "UPDATE audit_log SET reason = 'forged' WHERE seq = 2",
            "audit entry 3 does not follow the one before: one of them was changed",
        ),
        (
            "UPDATE audit_log SET actor = 'forged' WHERE seq = 4",
            "the head of the audit chain is not the hash of its last entry",
        ),
        (
            "DELETE FROM audit_log WHERE seq = 4",
            "the head of the audit chain is not the hash of its last entry",
        ),
        ("DELETE FROM audit_log WHERE seq = 2", "audit entry 2 is missing"),
        (
            "DELETE FROM documents WHERE invoice_id = 'c'",
            "what audit entry 3 (finalize) is about is missing",
        ),
        (
            "DELETE FROM documents WHERE invoice_id = 'a'",
            "numbers of invoice 2026 of issuer eu have a gap",
        ),
        ("DELETE FROM voids", "what audit entry 4 (void) is about is missing"),
        (
            "UPDATE ledger SET amount = '-1.00' WHERE account = 'grant:g' AND kind = 'burn'",
            "the ledger is not what was committed with audit entry 1",
        ),
        (
            "DELETE FROM ledger WHERE account = 'grant:g' AND kind = 'burn'",
            "the ledger does not sum to 0 in EUR (got 4.00)",
        ),
        (
            "INSERT INTO ledger SELECT tenant, 'x', customer, kind, account, grant_id, invoice_id, "
            "currency, '0', at, expires_at, 99 FROM ledger LIMIT 1",
            "the ledger has entries that were committed with nothing (number 99)",
        ),
    ],
)
def test_what_was_changed_behind_its_back_is_found(
    forged: tuple[Journal, sqlite3.Connection], sql: str, problem: str
) -> None:
    journal, connection = forged
    connection.execute(sql)
    assert problem in journal.problems("t")


def test_every_field_of_an_entry_is_in_its_hash() -> None:
    entry = AuditEntry("t", 1, "now", "ana", "finalize", "inv", "", "c", GENESIS)
    changed = {
        AuditEntry(**{**entry.__dict__, name: value}).hash
        for name, value in [
            ("tenant", "u"),
            ("seq", 2),
            ("at", "then"),
            ("actor", "ben"),
            ("action", "void"),
            ("object", "inv2"),
            ("reason", "x"),
            ("content_hash", "d"),
            ("prev_hash", "1" * 64),
        ]
    }
    assert len({entry.hash, *changed}) == 10
