"""What the embedded engine and a server have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from warehouse.parameters import Plain

SETTINGS: dict[str, str] = {
    # Rows of one insert are not merged while it waits: FINAL does that when it reads.
    "optimize_on_insert": "0",
    # A null for a column that takes none is an error, never a silent default.
    "insert_null_as_default": "0",
    # A backfill of years writes to a partition for each month.
    "max_partitions_per_insert_block": "0",
    # The partition key of a table that is read with FINAL is a function of its sorting key, so
    # copies share a partition.
    "do_not_merge_across_partitions_select_final": "1",
    "session_timezone": "UTC",
}
"""Settings of every statement, on both engines."""


class Engine(Protocol):
    """Runs statements; errors are `WarehouseError`s. Safe for use by several threads."""

    parameter_bytes: int
    """How long the text of one parameter may be."""

    one_process: bool
    """Whether no other process can use the warehouse at the same time."""

    def command(self, sql: str, parameters: dict[str, Plain]) -> None:
        """Runs a statement that has no result."""

    def query(self, sql: str, parameters: dict[str, Plain]) -> pa.Table:
        """The whole result of a query."""

    def stream(self, sql: str, parameters: dict[str, Plain]) -> Iterator[pa.RecordBatch]:
        """The result of a query, block by block."""

    def insert(self, table: str, rows: pa.Table) -> None:
        """Appends rows to the columns of the same names."""

    def pause_merges(self, tables: Sequence[str]) -> None:
        """Leaves parts of these tables apart for now, where this process owns the engine."""

    def resume_merges(self, tables: Sequence[str]) -> None:
        """Ends `pause_merges`."""

    def close(self) -> None:
        """Gives the connection back."""


def normalized(table: pa.Table) -> pa.Table:
    """`table` with every column nullable, so that results of equal columns have equal types."""
    if all(field.nullable for field in table.schema):
        return table
    fields = [field.with_nullable(True) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields))


def quoted(identifier: str) -> str:
    """`identifier` (a table or column of the schema, never input) quoted for a statement."""
    if "`" in identifier or "\\" in identifier:
        raise ValueError(f"identifier must be without quotes (got {identifier!r})")
    return f"`{identifier}`"
