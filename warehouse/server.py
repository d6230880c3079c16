"""A ClickHouse server, through clickhouse-connect over HTTP.

Parameters that are too long for a URL travel as form fields. A server bounds such a
field (`http_max_field_value_size`, 128 KiB), so callers keep lists short; see
`warehouse.parameters.chunks`.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pyarrow as pa

from meters.errors import ConfigurationError, WarehouseError, WarehouseUnavailable
from warehouse.address import Server
from warehouse.engine import SETTINGS, normalized, quoted
from warehouse.failures import UNKNOWN_DATABASE, code_of, no_answer, one_line, translate
from warehouse.parameters import Plain

OLDEST = (24, 8)
"""The oldest release of ClickHouse that is supported."""

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_ANSWER = 1800


class ServerEngine:
    """A connection pool to one database of a server."""

    parameter_bytes = 60_000
    one_process = False

    def __init__(self, address: Server, *, create: bool) -> None:
        # Their warnings hold tracebacks and URLs; what they say is raised as an error as well.
        for name in ("clickhouse_connect", "urllib3.connectionpool"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._closed = False
        self._address = address
        self._place = str(address)
        self._client = self._open(create=create)
        self._check_version()

    def command(self, sql: str, parameters: dict[str, Plain]) -> None:
        """Runs a statement that has no result."""
        with self._failures():
            self._client.command(sql, parameters=parameters or None)

    def query(self, sql: str, parameters: dict[str, Plain]) -> pa.Table:
        """The whole result of a query."""
        with self._failures():
            try:
                table = self._client.query_arrow(
                    sql, parameters=parameters or None, use_strings=True
                )
            except pa.ArrowException as error:
                raise self._broken_off(error) from error
        return normalized(table)

    def stream(self, sql: str, parameters: dict[str, Plain]) -> Iterator[pa.RecordBatch]:
        """The result of a query, block by block, while it arrives."""
        with self._failures():
            raw = self._client.raw_stream(
                sql,
                parameters=parameters or None,
                settings={"output_format_arrow_string_as_string": "1"},
                fmt="ArrowStream",
            )
            with contextlib.closing(cast(io.IOBase, raw)):
                for batch in self._batches(raw):
                    yield from normalized(pa.Table.from_batches([batch])).to_batches()

    def insert(self, table: str, rows: pa.Table) -> None:
        """Appends rows, sent in the Arrow format."""
        if rows.num_rows == 0:
            return
        rows = _without_dictionaries(rows)
        with self._failures():
            self._client.insert_arrow(table, rows, settings={"input_format_null_as_default": "0"})

    def pause_merges(self, tables: Sequence[str]) -> None:
        """Does nothing: a server has other users and other parts to merge."""

    def resume_merges(self, tables: Sequence[str]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Closes the connections."""
        self._closed = True
        self._client.close()

    def _batches(self, raw: object) -> Iterator[pa.RecordBatch]:
        from urllib3.exceptions import HTTPError

        # A statement that fails in the middle of its result breaks the stream off.
        try:
            yield from pa.ipc.open_stream(raw)
        except (pa.ArrowException, OSError, HTTPError) as error:
            raise self._broken_off(error) from error

    def _broken_off(self, error: Exception) -> WarehouseUnavailable:
        """Half an answer: another try may get the whole."""
        return WarehouseUnavailable(
            f"warehouse {self._place} broke off a result: {one_line(str(error))}"
        )

    def _open(self, *, create: bool) -> Any:
        try:
            return self._connect(self._address.database)
        except WarehouseError as error:
            cause = error.__cause__
            if cause is None or code_of(str(cause)) != UNKNOWN_DATABASE:
                raise
            if not create:
                raise ConfigurationError(
                    f"warehouse must exist (got no database {self._address.database!r} "
                    f"at {self._place})"
                ) from error
        bootstrap = self._connect("default")
        try:
            with self._failures():
                bootstrap.command(f"CREATE DATABASE IF NOT EXISTS {quoted(self._address.database)}")
        finally:
            bootstrap.close()
        return self._connect(self._address.database)

    def _connect(self, database: str) -> Any:
        # Slow to load, and not needed with the embedded engine.
        from clickhouse_connect import get_client

        address = self._address
        with self._failures():
            return get_client(
                interface="https" if address.secure else "http",
                host=address.host,
                port=address.port,
                username=address.user,
                password=address.password,
                database=database,
                secure=address.secure,
                compress=True,
                connect_timeout=_SECONDS_TO_CONNECT,
                send_receive_timeout=_SECONDS_TO_ANSWER,
                query_retries=0,
                autogenerate_session_id=False,
                settings=dict(SETTINGS),
                client_name="beammeter",
            )

    def _check_version(self) -> None:
        version = str(self._client.server_version)
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < OLDEST:
            raise ConfigurationError(
                f"ClickHouse must be {OLDEST[0]}.{OLDEST[1]} or newer (got {version} "
                f"at {self._place})"
            )

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        if self._closed:
            raise WarehouseError(f"warehouse {self._place} is closed")
        from clickhouse_connect.driver import exceptions
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (exceptions.OperationalError, HTTPError, OSError) as error:
            raise no_answer(error, self._place) from error
        except exceptions.ClickHouseError as error:
            raise translate(error, self._place) from error


def _without_dictionaries(rows: pa.Table) -> pa.Table:
    # The Arrow file format cannot hold chunks of one column with different dictionaries.
    for position, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            decoded = rows.column(position).cast(field.type.value_type)
            rows = rows.set_column(position, field.name, decoded)
    return rows
