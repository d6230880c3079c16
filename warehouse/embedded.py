"""The embedded engine: chDB in this process, its data in one folder.

chDB hosts one engine, bound to one folder, in a process, and any number of
connections to it. So all warehouses of a process share one `_Process` entry that
counts its users; when the last one closes, the engine stops and another folder may
be opened. Statements of several threads run side by side, each on a connection of
its own that is lent from a pool: a connection whose stream is still open answers
other queries with nothing, silently.

Another process is kept out by a lock on `beammeter.lock` in the folder, which holds
the id of the process that has it; the kernel frees it when that process ends,
however it ends. chDB has a lock of its own, but its message does not say who.

Rows go in through chDB's table function `Python(name)`, which reads an Arrow table
in place. It looks the name up among the variables of the calling frames.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from meters.errors import ConfigurationError, WarehouseError, WarehouseUnavailable
from warehouse.engine import SETTINGS, normalized, quoted
from warehouse.failures import one_line, translate
from warehouse.parameters import Plain, parameter_text

LOCK_FILE = "beammeter.lock"

_ENGINE_SETTINGS = {
    **SETTINGS,
    # Results stay in this process: compressing them costs time and saves nothing.
    "output_format_arrow_compression_method": "none",
    "output_format_arrow_string_as_string": "1",
}

# The Bloom filters of `events`.
_UNINDEXED = "exclude_materialize_skip_indexes_on_insert = 'by_identity,by_event_id'"

# ClickHouse slows inserts down from 1000 parts in a partition on.
_MOST_UNMERGED_INSERTS = 400


class EmbeddedEngine:
    """One user of the process-wide engine for the folder `path`."""

    parameter_bytes = 1 << 24
    one_process = True

    def __init__(self, path: str, *, create: bool) -> None:
        self._shared: _Process | None = _Process.acquire(path, create=create)
        self._place = f"chdb://{path}"

    def command(self, sql: str, parameters: dict[str, Plain]) -> None:
        """Runs a statement that has no result."""
        with self._connection() as connection:
            connection.query(sql, "Arrow", params=_texts(parameters))

    def query(self, sql: str, parameters: dict[str, Plain]) -> pa.Table:
        """The whole result of a query."""
        with self._connection() as connection:
            content = connection.query(sql, "Arrow", params=_texts(parameters)).bytes()
        if not content:
            return pa.table({})
        return normalized(pa.ipc.open_file(content).read_all())

    def stream(self, sql: str, parameters: dict[str, Plain]) -> Iterator[pa.RecordBatch]:
        """The result of a query, block by block (about 65,000 rows each)."""
        with self._connection() as connection:
            result = connection.send_query(sql, "Arrow", params=_texts(parameters))
            try:
                while (block := result.fetch()) is not None:
                    content = block.bytes()
                    if content:
                        yield from normalized(pa.ipc.open_file(content).read_all()).to_batches()
            finally:
                result.close()

    def insert(self, table: str, rows: pa.Table) -> None:
        """Appends rows; chDB reads them from the variable `rows` in place."""
        if rows.num_rows == 0:
            return
        columns = ", ".join(quoted(name) for name in rows.column_names)
        owner = self._owner()
        loading = f" SETTINGS {_UNINDEXED}" if table in owner.paused else ""
        sql = f"INSERT INTO {quoted(table)} ({columns}){loading} SELECT {columns} FROM Python(rows)"
        with self._connection() as connection:
            connection.query(sql, "Arrow")
        if owner.count_insert(table):
            self.resume_merges([table])

    def pause_merges(self, tables: Sequence[str]) -> None:
        """Leaves new parts of these tables apart, for as long as they are few.

        While a load lasts, merging costs as much as inserting does. Bloom filters are left to
        merges too: until then a search by an id reads the ids of such a part.
        """
        for table in tables:
            self.command(f"SYSTEM STOP MERGES {quoted(table)}", {})
            self._owner().paused[table] = 0

    def resume_merges(self, tables: Sequence[str]) -> None:
        """Ends `pause_merges`."""
        for table in tables:
            self._owner().paused.pop(table, None)
            self.command(f"SYSTEM START MERGES {quoted(table)}", {})

    def close(self) -> None:
        """Gives up this use; the last one stops the engine."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.release()

    def _owner(self) -> _Process:
        if self._shared is None:
            raise WarehouseError(f"warehouse {self._place} is closed")
        return self._shared

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        shared = self._owner()
        connection = shared.lend()
        try:
            yield connection
        except RuntimeError as error:
            raise translate(error, self._place) from error
        finally:
            shared.give_back(connection)


class _Process:
    """The engine of this process: its folder, lock, idle connections and users."""

    current: ClassVar[_Process | None] = None
    guard: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        self.users = 0
        self.pid = os.getpid()
        self.paused: dict[str, int] = {}
        self._idle: list[Any] = []
        _prepare(path, create=create)
        self._lock = _lock(path)
        try:
            self._idle.append(self._connect())
        except BaseException:
            os.close(self._lock)
            raise

    @classmethod
    def acquire(cls, path: str, *, create: bool) -> _Process:
        """The shared entry for `path`, opened if it is the first."""
        with cls.guard:
            entry = cls.current
            if entry is not None and entry.pid != os.getpid():
                raise WarehouseError(
                    f"warehouse chdb://{entry.path} cannot be used in a forked process: "
                    f"the embedded engine lives in process {entry.pid}"
                )
            if entry is not None and entry.path != path:
                raise ConfigurationError(
                    f"embedded warehouse must be one folder for each process "
                    f"(got {path!r} while {entry.path!r} is open)"
                )
            if entry is None:
                entry = cls.current = cls(path, create=create)
            entry.users += 1
            return entry

    def release(self) -> None:
        """One user less; the last one stops the engine and frees the folder."""
        with self.guard:
            self.users -= 1
            if self.users:
                return
            for connection in self._idle:
                connection.close()
            self._idle.clear()
            os.close(self._lock)
            type(self).current = None

    def lend(self) -> Any:
        """A connection for one statement."""
        if self.pid != os.getpid():
            raise WarehouseError(
                f"warehouse chdb://{self.path} cannot be used in a forked process: "
                f"the embedded engine lives in process {self.pid}"
            )
        with self.guard:
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def give_back(self, connection: Any) -> None:
        """Takes a lent connection back."""
        with self.guard:
            if self.users:
                self._idle.append(connection)
                return
        connection.close()

    def count_insert(self, table: str) -> bool:
        """Whether `table` has its merges paused, and for too many inserts."""
        with self.guard:
            if table not in self.paused:
                return False
            self.paused[table] += 1
            return self.paused[table] >= _MOST_UNMERGED_INSERTS

    def _connect(self) -> Any:
        from chdb import connect  # slow to load, and not needed with a server

        try:
            connection = connect(self.path)
            for name, value in _ENGINE_SETTINGS.items():
                connection.query(f"SET {name} = '{value}'", "TabSeparated")
        except RuntimeError as error:
            reason = one_line(str(error))
            raise WarehouseError(
                f"warehouse chdb://{self.path} cannot be opened, its folder may be damaged: "
                f"{reason}"
            ) from error
        return connection


def _texts(parameters: dict[str, Plain]) -> dict[str, str]:
    return {name: parameter_text(value) for name, value in parameters.items()}


def _prepare(path: str, *, create: bool) -> None:
    """Makes the folder, and refuses one that is not a warehouse's."""
    folder = Path(path)
    try:
        if not folder.exists():
            if not create:
                raise ConfigurationError(
                    f"warehouse must exist (got no folder {path!r}); "
                    f"`beammeter backfill` and `beammeter demo` create it"
                )
            folder.mkdir(parents=True)
        entries = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise WarehouseError(
            f"warehouse folder must be a folder that can be written "
            f"(got {path!r}: {error.strerror})"
        ) from error
    if entries and not entries & {"store", "metadata", LOCK_FILE}:
        raise ConfigurationError(
            f"warehouse folder must be empty or hold a warehouse "
            f"(got {path!r} with {sorted(entries)[0]!r} in it)"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise WarehouseError(
            f"warehouse folder must be a folder that can be written (got {path!r})"
        )


def _lock(path: str) -> int:
    """The open lock file of the folder, locked for this process."""
    file = os.path.join(path, LOCK_FILE)
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WarehouseError(
            f"warehouse folder must be a folder that can be written "
            f"(got {path!r}: {error.strerror})"
        ) from error
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise WarehouseUnavailable(
            f"warehouse chdb://{path} is in use by process {holder or 'unknown'}; "
            f"an embedded warehouse serves one process at a time"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
