"""Brings a warehouse to the schema of this program.

Several processes may start at once: every statement may run any number of times, and
the record of a migration is the same whoever writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

from meters.errors import ConfigurationError, WarehouseError
from warehouse.parameters import Parameters
from warehouse.schema import MIGRATIONS, MIGRATIONS_TABLE, Migration


class Statements(Protocol):
    """What a migration needs of a warehouse."""

    name: str

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        """Runs a statement that has no result."""

    def query_rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, object]]:
        """The rows of a query."""


def migrate(warehouse: Statements, migrations: Sequence[Migration] = MIGRATIONS) -> list[int]:
    """Applies what is missing of `migrations`; returns the versions that were applied.

    Raises ConfigurationError where the warehouse is newer than this program, and
    WarehouseError where an applied migration had other statements.
    """
    warehouse.command(MIGRATIONS_TABLE)
    rows = warehouse.query_rows(
        "SELECT version, name, checksum FROM schema_migrations FINAL ORDER BY version"
    )
    applied = {row["version"]: row for row in rows}
    newest = max((int(str(version)) for version in applied), default=0)
    if newest > len(migrations):
        raise ConfigurationError(
            f"warehouse {warehouse.name} must have schema version {len(migrations)} or older "
            f"(got {newest}, written by a newer release of Beammeter)"
        )
    done = []
    for migration in migrations:
        row = applied.get(migration.version)
        if row is None:
            _apply(warehouse, migration)
            done.append(migration.version)
        elif row["checksum"] != migration.checksum:
            raise WarehouseError(
                f"warehouse {warehouse.name} must have migration {migration.version} "
                f"({migration.name}) as this release knows it "
                f"(got checksum {str(row['checksum'])[:12]} instead of {migration.checksum[:12]})"
            )
    return done


def _apply(warehouse: Statements, migration: Migration) -> None:
    for statement in migration.statements:
        warehouse.command(statement)
    warehouse.command(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) SELECT "
        "{version:UInt32}, {name:String}, {checksum:String}, {now:DateTime64(6, 'UTC')}",
        {
            "version": migration.version,
            "name": migration.name,
            "checksum": migration.checksum,
            "now": datetime.now(UTC),
        },
    )
