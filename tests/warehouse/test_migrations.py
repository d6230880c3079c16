from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meters.errors import ConfigurationError, WarehouseError
from warehouse.client import Warehouse
from warehouse.migrations import migrate
from warehouse.parameters import Parameters
from warehouse.schema import MIGRATIONS, Migration


class Elsewhere:
    """Statements of a migration, run in another database of the same engine."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self.name = "elsewhere"
        self.database = f"m{uuid.uuid4().hex}"
        self.fails_at: int | None = None
        self.commands = 0
        warehouse.command(f"CREATE DATABASE {self.database}")

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        self.commands += 1
        if self.commands == self.fails_at:
            raise KeyboardInterrupt
        self._warehouse.command(self._there(sql), parameters)

    def query_rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, object]]:
        return self._warehouse.query_rows(self._there(sql), parameters)

    def _there(self, sql: str) -> str:
        for word in ("TABLE IF NOT EXISTS ", "INSERT INTO ", "FROM ", "ALTER TABLE "):
            sql = sql.replace(word, f"{word}{self.database}.")
        return sql

    def tables(self) -> list[str]:
        rows = self._warehouse.query_rows(
            "SELECT name FROM system.tables WHERE database = {d:String} ORDER BY name",
            {"d": self.database},
        )
        return [str(row["name"]) for row in rows]


@pytest.fixture
def elsewhere(warehouse: Warehouse) -> Iterator[Elsewhere]:
    place = Elsewhere(warehouse)
    yield place
    warehouse.command(f"DROP DATABASE {place.database}")


NEXT = len(MIGRATIONS) + 1
TABLES = sum("CREATE TABLE" in statement for each in MIGRATIONS for statement in each.statements)
EVERY = [migration.version for migration in MIGRATIONS]
SECOND = Migration(
    NEXT, "colour", ("ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS colour String",)
)


def test_all_tables_are_there_after_the_last_migration(elsewhere: Elsewhere) -> None:
    assert migrate(elsewhere) == EVERY
    assert elsewhere.tables() == [
        "audit_log",
        "catalog_versions",
        "catalogs",
        "credit_ledger",
        "dirty",
        "events",
        "ingest_stats",
        "invoice_lines",
        "invoices",
        "leases",
        "progress",
        "quarantine",
        "quarantine_settled",
        "schema_migrations",
        "touched",
        "touched_hours",
        "touched_slots",
        "usage",
        "usage_days",
        "usage_hours",
        "usage_kept",
        "usage_values",
    ]


def test_a_second_start_applies_nothing(elsewhere: Elsewhere) -> None:
    migrate(elsewhere)
    assert migrate(elsewhere) == []


def test_a_later_release_applies_what_is_missing(elsewhere: Elsewhere) -> None:
    migrate(elsewhere)
    assert migrate(elsewhere, [*MIGRATIONS, SECOND]) == [NEXT]


@pytest.mark.parametrize("fails_at", [2, 5, len(MIGRATIONS[0].statements) + 2])
def test_a_start_that_was_cut_off_is_finished_by_the_next(
    elsewhere: Elsewhere, fails_at: int
) -> None:
    elsewhere.fails_at = fails_at
    with pytest.raises(KeyboardInterrupt):
        migrate(elsewhere)
    assert migrate(elsewhere) == EVERY
    assert len(elsewhere.tables()) == 1 + TABLES
    assert migrate(elsewhere) == []


def test_several_starts_at_once_leave_one_schema(elsewhere: Elsewhere) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            migrate(elsewhere)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    rows = elsewhere.query_rows(
        "SELECT version, checksum FROM schema_migrations FINAL ORDER BY version"
    )
    assert rows == [{"version": each.version, "checksum": each.checksum} for each in MIGRATIONS]


def test_a_warehouse_of_a_newer_release_is_refused(elsewhere: Elsewhere) -> None:
    migrate(elsewhere, [*MIGRATIONS, SECOND])
    message = rf"must have schema version {NEXT - 1} or older \(got {NEXT}, written by a newer"
    with pytest.raises(ConfigurationError, match=message):
        migrate(elsewhere)


def test_a_migration_that_changed_is_refused(elsewhere: Elsewhere) -> None:
    migrate(elsewhere)
    changed = replace(MIGRATIONS[0], statements=MIGRATIONS[0].statements[:-1])
    with pytest.raises(WarehouseError, match=r"must have migration 1 \(tables\)"):
        migrate(elsewhere, [changed, *MIGRATIONS[1:]])


def test_versions_count_from_one_without_gaps() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_white_space_does_not_change_a_checksum() -> None:
    one = Migration(1, "a", ("SELECT 1",))
    assert replace(one, statements=("  SELECT\n\t1 ",)).checksum == one.checksum
    assert replace(one, statements=("SELECT 2",)).checksum != one.checksum


def test_every_key_starts_with_the_tenant(warehouse: Warehouse) -> None:
    rows = warehouse.query_rows(
        "SELECT name, sorting_key FROM system.tables WHERE database = currentDatabase() "
        "AND name NOT IN ('schema_migrations', 'usage_kept')"  # what no tenant has
    )
    assert len(rows) >= 14
    assert [row for row in rows if not str(row["sorting_key"]).startswith("tenant_id")] == []
