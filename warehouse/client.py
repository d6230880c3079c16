"""A connection to the warehouse: ClickHouse, embedded or on a server.

    with Warehouse.connect("chdb:///var/lib/beammeter") as warehouse:
        warehouse.insert("events", table)
        rows = warehouse.query_arrow(
            "SELECT event_id FROM events FINAL WHERE tenant_id = {tenant:String}",
            {"tenant": "default"},
        )

Statements are constants of this program; values go through `{name:Type}`
placeholders (see `warehouse.parameters`). Results have normal Arrow types: `string`,
`timestamp[us, UTC]`, `decimal128(38, s)` or `decimal256(76, s)`,
`fixed_size_binary(16)`, every column nullable.

Transient failures are tried again with growing pauses, also for inserts: all tables
drop repeated rows. What remains is raised as `WarehouseUnavailable` (worth another
try later) or `WarehouseError` (final), with one line of text.
"""

from __future__ import annotations

import contextlib
import re
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from meters.errors import WarehouseError
from warehouse.address import Embedded, parse_url
from warehouse.arrow_types import arrow_field
from warehouse.embedded import EmbeddedEngine
from warehouse.engine import Engine
from warehouse.failures import Retries
from warehouse.migrations import migrate
from warehouse.parameters import Parameters, Plain, plain_value
from warehouse.server import ServerEngine
from warehouse.tracing import is_on, within

_COLUMNS = """
SELECT name, type, default_kind FROM system.columns
WHERE database = currentDatabase() AND table = {table:String}
    AND default_kind NOT IN ('MATERIALIZED', 'ALIAS')
ORDER BY position
"""

_CONNECT_RETRIES = Retries(attempts=3, first_pause=0.2)

_TABLE = re.compile(r"\b(?:FROM|INTO|TABLE)\s+(\w+)")
_CLICKHOUSE: dict[str, str | int] = {"db.system.name": "clickhouse"}

_migrating = threading.Lock()


class Warehouse:
    """Runs statements on one warehouse; safe for use by several threads.

    Cannot be pickled: workers take the URL and connect by themselves, which is cheap
    where the process is connected already.
    """

    def __init__(self, engine: Engine, name: str, retries: Retries) -> None:
        self._engine = engine
        self._retries = retries
        self._columns: dict[str, _Columns] = {}
        # A warehouse that is forgotten does not keep the embedded engine on its folder.
        self._release = weakref.finalize(self, engine.close)
        self._release.atexit = False
        self.name = name
        """The URL without a password, for messages."""

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        create: bool = True,
        from_environment: bool = False,
        retries: Retries | None = None,
    ) -> Self:
        """Opens the warehouse at `url` and brings its tables up to date.

        With `create=False` a warehouse must be there already: neither folder nor
        database is made. `from_environment` says that the URL was read from the
        environment, so that it may hold a password.

        Raises ConfigurationError for a URL that is not of a known form, a missing
        warehouse or one of a newer release; WarehouseUnavailable where the server does
        not answer or another process has the folder; WarehouseError for a folder that
        cannot be written or is damaged.
        """
        address = parse_url(url, from_environment=from_environment)
        engine: Engine
        if isinstance(address, Embedded):
            engine = EmbeddedEngine(address.path, create=create)
        else:
            server = address
            engine = (retries or _CONNECT_RETRIES).run(lambda: ServerEngine(server, create=create))
        warehouse = cls(engine, str(address), retries or Retries())
        try:
            with _migrating:
                migrate(warehouse)
        except BaseException:
            warehouse.close()
            raise
        return warehouse

    def command(self, sql: str, parameters: Parameters | None = None) -> None:
        """Runs a statement that has no result."""
        values = _plain(parameters)
        with _spanned(sql):
            self._retries.run(lambda: self._engine.command(sql, values))

    def query_arrow(self, sql: str, parameters: Parameters | None = None) -> pa.Table:
        """The whole result of a query."""
        values = _plain(parameters)
        with _spanned(sql):
            return self._retries.run(lambda: self._engine.query(sql, values))

    def query_rows(self, sql: str, parameters: Parameters | None = None) -> list[dict[str, object]]:
        """The rows of a query; for results that are small."""
        rows: list[dict[str, object]] = self.query_arrow(sql, parameters).to_pylist()
        return rows

    def iter_arrow(
        self, sql: str, parameters: Parameters | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The result of a query block by block (about 65,000 rows), never held as a whole.

        Close the iterator where it is not read to its end. A failure while it is read
        is not tried again. An empty result has no batch at all.
        """
        return self._engine.stream(sql, _plain(parameters))

    def insert(self, table: str, rows: pa.Table | pa.RecordBatch) -> None:
        """Appends rows to a table of the schema.

        `rows` must have the table's columns, in any order; values are cast where that
        loses nothing. One call may become visible in parts (a part for each month and
        million rows), and a failed call may have written some: repeat it.

        Raises WarehouseError where columns or values do not fit.
        """
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        fitted = self._columns_of(table).fit(table, rows)
        told = {**_CLICKHOUSE, "db.collection.name": table, "beammeter.rows": rows.num_rows}
        with within(f"INSERT {table}", told, "client"):
            self._retries.run(lambda: self._engine.insert(table, fitted))

    def insert_rows(self, table: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Appends rows given as mappings from column to value; for few rows."""
        fields = pa.schema(self._columns_of(table).fields)
        try:
            built = pa.Table.from_pylist(list(rows), schema=fields)
        except (pa.ArrowException, OverflowError) as error:
            raise WarehouseError(f"rows for {table} must fit its columns ({error})") from error
        self.insert(table, built)

    @contextlib.contextmanager
    def loading(self, *tables: str) -> Iterator[None]:
        """Says that many rows are about to go into `tables`.

        The embedded engine merges their parts afterwards, which saves about half of the
        processor time of a load; a server merges when it likes to.
        """
        self._engine.pause_merges(tables)
        try:
            yield
        finally:
            self._engine.resume_merges(tables)

    def _columns_of(self, table: str) -> _Columns:
        columns = self._columns.get(table)
        if columns is None:
            found = self.query_rows(_COLUMNS, {"table": table})
            if not found:
                raise WarehouseError(f"table must be one of the schema's (got {table!r})")
            columns = self._columns[table] = _Columns(
                tuple(arrow_field(str(row["name"]), str(row["type"])) for row in found),
                frozenset(str(row["name"]) for row in found if row["default_kind"]),
            )
        return columns

    @property
    def parameter_bytes(self) -> int:
        """How long the text of one parameter may be; see `warehouse.parameters.chunks`."""
        return self._engine.parameter_bytes

    @property
    def one_process(self) -> bool:
        """Whether no other process can use the warehouse at the same time."""
        return self._engine.one_process

    def close(self) -> None:
        """Gives the connection back; the object cannot be used afterwards."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError("Warehouse cannot be pickled: pass its URL and connect where it is used")

    def __repr__(self) -> str:
        return f"Warehouse({self.name})"


def _spanned(sql: str) -> AbstractContextManager[object]:
    """A span that names the statement by its first word and its first table."""
    if not is_on():
        return nullcontext()
    table = _TABLE.search(sql)
    summary = " ".join(sql.split(None, 1)[:1]) + (f" {table[1]}" if table else "")
    return within(summary, {**_CLICKHOUSE, "db.query.summary": summary}, "client")


def _plain(parameters: Parameters | None) -> dict[str, Plain]:
    return {name: plain_value(value) for name, value in (parameters or {}).items()}


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that take values; `optional` ones have a default."""

    fields: tuple[pa.Field, ...]
    optional: frozenset[str]

    def fit(self, table: str, rows: pa.Table) -> pa.Table:
        """`rows` with the types of the columns; raises WarehouseError where they do not fit."""
        known = {field.name for field in self.fields}
        given = set(rows.column_names)
        if len(given) != rows.num_columns or not known - self.optional <= given <= known:
            raise WarehouseError(
                f"rows for {table} must have the columns {sorted(known)} "
                f"(got {sorted(rows.column_names)})"
            )
        fields = [field for field in self.fields if field.name in given]
        columns = [_cast(table, field, rows[field.name]) for field in fields]
        return pa.Table.from_arrays(columns, names=[field.name for field in fields])


def _cast(table: str, field: pa.Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count and not field.nullable:
        raise WarehouseError(f"{table}.{field.name} must be without nulls")
    if column.type.equals(field.type) or _is_text(column.type, field.type):
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        raise WarehouseError(
            f"{table}.{field.name} must be {field.type} (got {column.type}: {error})"
        ) from error


def _is_text(given: pa.DataType, wanted: pa.DataType) -> bool:
    # ClickHouse takes these as they are, and a cast would copy every byte.
    if pa.types.is_dictionary(given):
        given = given.value_type
    return bool(pa.types.is_string(wanted)) and given in (pa.string(), pa.large_string())
