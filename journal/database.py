"""Two databases with real transactions behind one small interface.

    with database.writing(tenant) as statements:   one transaction, alone for its tenant
        statements.run("INSERT ...", rows)
        statements.rows("SELECT ...", (...))

Statements are constants of this package in the common part of both dialects; values go
through `?`. A transaction is either committed as a whole before its block is left, and
durable then, or not at all.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from journal.address import PostgresServer, SqliteFile
from meters.errors import ConfigurationError, JournalError, JournalUnavailable

WAIT_SECONDS = 60
"""How long a transaction waits for another one."""

Value = str | int | None
Row = tuple[Any, ...]


class Statements(Protocol):
    """What can be said within a transaction."""

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        """The rows of a query."""

    def run(self, sql: str, rows: Sequence[Sequence[Value]] = ((),)) -> None:
        """A statement for each of `rows`."""


class Database(Protocol):
    """A database with a journal in it; safe for use by several threads."""

    name: str
    dialect: str
    listed: str
    """A subquery with the texts of a JSON list that is one value."""

    def writing(self, tenant: str) -> AbstractContextManager[Statements]:
        """A transaction that no other one of the tenant runs beside."""

    def reading(self) -> AbstractContextManager[Statements]:
        """A transaction that sees one state of the database, and writes nothing."""

    def close(self) -> None:
        """Gives the connection back."""


class SqliteDatabase:
    """One file. Its rollback journal keeps it whole on its own: a copy of a file at rest is one."""

    dialect = "sqlite"
    listed = "SELECT value FROM json_each(?)"

    def __init__(self, address: SqliteFile, *, create: bool) -> None:
        self.name = str(address)
        self._lock = threading.RLock()
        path = Path(address.path)
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
                uri=True,
                timeout=WAIT_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
            # EXTRA: durable also where the machine loses power right after the commit.
            self._connection.execute("PRAGMA synchronous = EXTRA")
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"journal must be a file that can be read and written (got {self.name}: {error})"
            ) from error

    def writing(self, tenant: str) -> AbstractContextManager[Statements]:
        """The whole file has one writer at a time."""
        del tenant
        return self._transaction("BEGIN IMMEDIATE")

    def reading(self) -> AbstractContextManager[Statements]:
        """Readers wait for no more than the moment of a commit."""
        return self._transaction("BEGIN")

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Statements]:
        with self._lock, _told(sqlite3.OperationalError, sqlite3.Error, self.name):
            self._connection.execute(begin)
            try:
                yield _SqliteStatements(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class _SqliteStatements:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        return self._connection.execute(sql, tuple(values)).fetchall()

    def run(self, sql: str, rows: Sequence[Sequence[Value]] = ((),)) -> None:
        self._connection.executemany(sql, rows)


class PostgresDatabase:
    """A database of a server; any number of machines may use it."""

    dialect = "postgresql"
    listed = "SELECT json_array_elements_text(?::json)"

    def __init__(self, address: PostgresServer) -> None:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigurationError(
                "journal in PostgreSQL must have its client: pip install 'beammeter[postgres]'"
            ) from error
        self.name = str(address)
        self._lock = threading.RLock()
        self._errors = (psycopg.OperationalError, psycopg.Error)
        try:
            self._connection = psycopg.connect(address.url, autocommit=True, connect_timeout=15)
            self._connection.execute(f"SET lock_timeout = '{WAIT_SECONDS}s'")
        except psycopg.ProgrammingError as error:
            raise ConfigurationError(f"journal URL must be PostgreSQL's (got {error})") from error
        except psycopg.Error as error:
            raise JournalUnavailable(f"journal {self.name}: {_line(error)}") from error

    @contextmanager
    def writing(self, tenant: str) -> Iterator[Statements]:
        """Transactions of one tenant wait for each other."""
        with self._transaction("READ COMMITTED") as statements:
            statements.rows("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (tenant,))
            yield statements

    def reading(self) -> AbstractContextManager[Statements]:
        """Readers wait for nobody."""
        return self._transaction("REPEATABLE READ")

    @contextmanager
    def _transaction(self, level: str) -> Iterator[Statements]:
        with self._lock, _told(*self._errors, self.name), self._connection.transaction():
            self._connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            yield _PostgresStatements(self._connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _PostgresStatements:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[Row]:
        found: list[Row] = self._connection.execute(sql.replace("?", "%s"), values).fetchall()
        return found

    def run(self, sql: str, rows: Sequence[Sequence[Value]] = ((),)) -> None:
        if len(rows) == 1 and not rows[0]:
            self._connection.execute(sql)
            return
        with self._connection.cursor() as cursor:
            cursor.executemany(sql.replace("?", "%s"), rows)


def open_database(address: SqliteFile | PostgresServer, *, create: bool) -> Database:
    """Connect. `create`: make the file of SQLite where it is missing."""
    if isinstance(address, SqliteFile):
        return SqliteDatabase(address, create=create)
    return PostgresDatabase(address)


@contextmanager
def _told(unavailable: type[Exception], refused: type[Exception], name: str) -> Iterator[None]:
    try:
        yield
    except unavailable as error:
        raise JournalUnavailable(f"journal {name}: {_line(error)}") from error
    except refused as error:
        raise JournalError(f"journal {name}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
