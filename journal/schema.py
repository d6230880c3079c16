"""The tables of the journal, as migrations that both databases take.

    heads        the end of the audit chain, one row a tenant
    customers    how often a customer's documents have changed
    numbers      the last number of each issuer, kind and year
    documents    finalized documents, with all that was committed with them
    voids        documents that were made void
    ledger       movements of credit, two entries each, which sum to 0
    redemptions  coupons that a document of a period has taken
    audit_log    who did what: a chain of hashes

Whatever was issued never changes: triggers refuse to update or delete rows of
`documents`, `voids`, `ledger` and `audit_log`. Instants, dates and amounts are texts, as
they stand in documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from journal.database import Database
from meters.errors import ConfigurationError, JournalError
from meters.timestamps import format_instant

MIGRATIONS_LOCK = "\x01migrations"
"""Stands in for a tenant where a journal is migrated; no tenant is named like this."""

_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS journal_migrations (
    version BIGINT PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at TEXT NOT NULL
)
"""

_TABLES = (
    """
    CREATE TABLE heads (
        tenant TEXT PRIMARY KEY,
        entries BIGINT NOT NULL,
        hash TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE customers (
        tenant TEXT NOT NULL,
        customer TEXT NOT NULL,
        version BIGINT NOT NULL,
        PRIMARY KEY (tenant, customer)
    )
    """,
    """
    CREATE TABLE numbers (
        tenant TEXT NOT NULL,
        issuer TEXT NOT NULL,
        kind TEXT NOT NULL,
        year BIGINT NOT NULL,
        last BIGINT NOT NULL,
        last_date TEXT NOT NULL,
        PRIMARY KEY (tenant, issuer, kind, year)
    )
    """,
    """
    CREATE TABLE documents (
        tenant TEXT NOT NULL,
        invoice_id TEXT NOT NULL,
        customer TEXT NOT NULL,
        subscription TEXT NOT NULL,
        kind TEXT NOT NULL,
        issuer TEXT NOT NULL,
        year BIGINT NOT NULL,
        number BIGINT NOT NULL CHECK (number > 0),
        shown_number TEXT NOT NULL,
        seq BIGINT NOT NULL,
        content TEXT NOT NULL,
        PRIMARY KEY (tenant, invoice_id),
        UNIQUE (tenant, issuer, kind, year, number),
        UNIQUE (tenant, issuer, kind, shown_number)
    )
    """,
    "CREATE INDEX documents_of_customer ON documents (tenant, customer)",
    """
    CREATE TABLE voids (
        tenant TEXT NOT NULL,
        invoice_id TEXT NOT NULL,
        customer TEXT NOT NULL,
        seq BIGINT NOT NULL,
        content TEXT NOT NULL,
        PRIMARY KEY (tenant, invoice_id),
        FOREIGN KEY (tenant, invoice_id) REFERENCES documents (tenant, invoice_id)
    )
    """,
    "CREATE INDEX voids_of_customer ON voids (tenant, customer)",
    """
    CREATE TABLE ledger (
        tenant TEXT NOT NULL,
        ledger_entry_id TEXT NOT NULL,
        customer TEXT NOT NULL,
        kind TEXT NOT NULL,
        account TEXT NOT NULL,
        grant_id TEXT NOT NULL,
        invoice_id TEXT NOT NULL,
        currency TEXT NOT NULL,
        amount TEXT NOT NULL,
        at TEXT NOT NULL,
        expires_at TEXT,
        seq BIGINT NOT NULL,
        PRIMARY KEY (tenant, ledger_entry_id)
    )
    """,
    "CREATE INDEX ledger_of_customer ON ledger (tenant, customer)",
    "CREATE INDEX ledger_by_seq ON ledger (tenant, seq)",
    """
    CREATE TABLE redemptions (
        tenant TEXT NOT NULL,
        coupon TEXT NOT NULL,
        subscription TEXT NOT NULL,
        period TEXT NOT NULL,
        invoice_id TEXT NOT NULL,
        amount TEXT NOT NULL,
        PRIMARY KEY (tenant, coupon, subscription, period)
    )
    """,
    "CREATE INDEX redemptions_of_invoice ON redemptions (tenant, invoice_id)",
    """
    CREATE TABLE audit_log (
        tenant TEXT NOT NULL,
        seq BIGINT NOT NULL,
        at TEXT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        object TEXT NOT NULL,
        reason TEXT NOT NULL,
        content_hash TEXT NOT NULL,
        prev_hash TEXT NOT NULL,
        PRIMARY KEY (tenant, seq)
    )
    """,
)

_KEPT = ("documents", "voids", "ledger", "audit_log")

_SQLITE_GUARDS = tuple(
    f"CREATE TRIGGER {table}_{verb} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, 'rows of {table} never change'); END"
    for table in _KEPT
    for verb in ("UPDATE", "DELETE")
)
_POSTGRES_GUARDS = (
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'rows of % never change', TG_TABLE_NAME; END $$
    """,
    *(
        f"CREATE TRIGGER {table}_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        for table in _KEPT
    ),
)


@dataclass(frozen=True)
class JournalMigration:
    """One step of the schema: statements for both databases, then those of each."""

    version: int
    name: str
    common: tuple[str, ...]
    sqlite: tuple[str, ...]
    postgresql: tuple[str, ...]

    def statements(self, dialect: str) -> tuple[str, ...]:
        """What is run on a database."""
        return (*self.common, *(self.sqlite if dialect == "sqlite" else self.postgresql))

    def checksum(self, dialect: str) -> str:
        """SHA-256 of the statements; white space does not count."""
        text = "\n".join(" ".join(each.split()) for each in self.statements(dialect))
        return hashlib.sha256(text.encode()).hexdigest()


JOURNAL_MIGRATIONS: tuple[JournalMigration, ...] = (
    JournalMigration(1, "tables", _TABLES, _SQLITE_GUARDS, _POSTGRES_GUARDS),
)
"""All migrations; one that was released never changes."""


def migrate_journal(
    database: Database, migrations: Sequence[JournalMigration] = JOURNAL_MIGRATIONS
) -> list[int]:
    """Applies what is missing, in one transaction; returns the versions that were applied.

    Raises ConfigurationError where the journal is newer than this program, and
    JournalError where an applied migration had other statements.
    """
    done = []
    with database.writing(MIGRATIONS_LOCK) as statements:
        statements.run(_MIGRATIONS)
        applied: dict[int, str] = dict(
            statements.rows("SELECT version, checksum FROM journal_migrations")
        )
        if max(applied, default=0) > len(migrations):
            raise ConfigurationError(
                f"journal {database.name} must have schema version {len(migrations)} or older "
                f"(got {max(applied)}, written by a newer release of Beammeter)"
            )
        for migration in migrations:
            checksum = migration.checksum(database.dialect)
            if migration.version not in applied:
                for sql in migration.statements(database.dialect):
                    statements.run(sql)
                now = format_instant(datetime.now(UTC))
                row = (migration.version, migration.name, checksum, now)
                statements.run("INSERT INTO journal_migrations VALUES (?, ?, ?, ?)", [row])
                done.append(migration.version)
            elif applied[migration.version] != checksum:
                raise JournalError(
                    f"journal {database.name} must have migration {migration.version} "
                    f"({migration.name}) as this release knows it"
                )
    return done
