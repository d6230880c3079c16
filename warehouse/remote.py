"""A warehouse that another process of this machine serves.

    RemoteEngine.query -> Request -> answer(warehouse, request) -> table
    (a process that rates)           (the process that owns the warehouse)

Queries alone: what several processes find out, one of them writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

import pyarrow as pa

from meters.errors import BeammeterError
from warehouse.client import Warehouse
from warehouse.parameters import Plain

_READ_ONLY = "a warehouse that another process serves must only be read"


@dataclass(frozen=True)
class Request:
    """A query and its parameters."""

    sql: str
    parameters: dict[str, Plain]


class RemoteEngine:
    """The engine of a process that asks another one; `ask` sends a request and waits."""

    one_process = True

    def __init__(self, ask: Callable[[Request], pa.Table], parameter_bytes: int) -> None:
        self._ask = ask
        self.parameter_bytes = parameter_bytes

    def query(self, sql: str, parameters: dict[str, Plain]) -> pa.Table:
        """The whole result of a query."""
        return self._ask(Request(sql, parameters))

    def stream(self, sql: str, parameters: dict[str, Plain]) -> Iterator[pa.RecordBatch]:
        """The result of a query, block by block; it comes as a whole."""
        yield from self.query(sql, parameters).to_batches()

    def command(self, sql: str, parameters: dict[str, Plain]) -> NoReturn:
        """Refused: this process does not write."""
        raise BeammeterError(f"{_READ_ONLY} (got {sql[:80]!r} with {len(parameters)} parameters)")

    def insert(self, table: str, rows: pa.Table) -> NoReturn:
        """Refused: this process does not write."""
        raise BeammeterError(f"{_READ_ONLY} (got {rows.num_rows} rows for {table})")

    def pause_merges(self, tables: Sequence[str]) -> None:
        """Merges are the business of the process that serves."""

    def resume_merges(self, tables: Sequence[str]) -> None:
        """Merges are the business of the process that serves."""

    def close(self) -> None:
        """Nothing is held."""


def answer(warehouse: Warehouse, request: Request) -> pa.Table | BeammeterError:
    """What a request finds; an error is for the process that has asked."""
    try:
        return warehouse.query_arrow(request.sql, dict(request.parameters))
    except BeammeterError as error:
        return error
    except Exception as error:
        # Whoever has asked waits for an answer, whatever has failed here.
        return BeammeterError(f"{type(error).__name__}: {error}")
