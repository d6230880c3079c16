"""Runs the command line as its users do: in a process of its own, by argv, stdout and exit code.

Importing Beam takes seconds. So one helper process imports `runners.cli` once and
then forks for each command: the command still has its own process, working folder,
environment and descriptors, and ends through the interpreter's own exit. `python=True`
starts a fresh interpreter (`python -m runners.cli`) instead.

    pytest --request line--> helper --fork--> command -> stdout, stderr files
           <--pid, code----
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from tests.generators import write
from tests.oracle import scalar

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    args: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def json(self) -> Any:
        """`stdout` as JSON, with exact numbers."""
        assert self.code == 0, self
        return json.loads(self.stdout, parse_float=Decimal)

    def __str__(self) -> str:
        command = " ".join(self.args)
        return (
            f"beammeter {command}\nexit {self.code}\n{self.stdout[-3000:]}\n{self.stderr[-3000:]}"
        )


class Helper:
    """The forking process of this test run."""

    _started: Helper | None = None

    @classmethod
    def get(cls) -> Helper:
        """The helper, started on first use."""
        if cls._started is None:
            cls._started = cls()
            atexit.register(cls._started.stop)
        return cls._started

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> Any:
        """One request, one answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the helper process has ended; its stderr says why"
        return json.loads(line)

    def stop(self) -> None:
        """Ends the helper."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        self.process.wait(10)


class Running:
    """A command under way."""

    def __init__(self, args: tuple[str, ...], env: dict[str, str], kind: str = "cli") -> None:
        self.args = args
        self.folder = tempfile.TemporaryDirectory()
        self.paths = [os.path.join(self.folder.name, name) for name in ("out", "err")]
        self.began = time.monotonic()
        self.pid = Helper.get().ask(
            kind=kind, args=args, env=env, cwd=self.folder.name, paths=self.paths
        )

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 120) -> Result:
        """Waits; a command that takes longer than `timeout` seconds is killed."""
        code = Helper.get().ask(kind="wait", pid=self.pid, timeout=timeout)
        with self.folder:
            out, err = (Path(path).read_text("utf-8", "replace") for path in self.paths)
        return Result(self.args, code, out, err, time.monotonic() - self.began)


def start(*args: object, env: dict[str, str] | None = None) -> Running:
    """Starts a command without waiting for it."""
    return Running(tuple(map(str, args)), env or {})


def run(*args: object, env: dict[str, str] | None = None, python: bool = False) -> Result:
    """Runs a command to its end; in a fresh interpreter where `python` is set."""
    if not python:
        return start(*args, env=env).wait()
    words = tuple(map(str, args))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "runners.cli", *words],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(words, done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@dataclass
class Site:
    """A folder with a catalog, inputs and an embedded warehouse (its own or a shared one)."""

    folder: Path
    catalog: Row = field(default_factory=dict)
    tenant: str | None = None
    shared: Path | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write_catalog(self.catalog)

    @property
    def url(self) -> str:
        """The warehouse, as `--clickhouse` takes it."""
        return f"chdb://{self.warehouse}"

    @property
    def warehouse(self) -> Path:
        """The folder of the warehouse."""
        return self.shared or self.folder / "warehouse"

    def write(self, name: str, events: Sequence[Row]) -> Path:
        """Writes an input file; its name says the format."""
        return write(self.folder / "input" / name, events)

    def write_catalog(self, catalog: Row) -> None:
        """Replaces the catalog."""
        self.catalog = catalog
        text = yaml.safe_dump(catalog, sort_keys=False, allow_unicode=True)
        (self.folder / "catalog.yaml").write_text(text, "utf-8")

    def args(self, command: str, *more: object) -> tuple[object, ...]:
        """The words of a command on this folder."""
        tenant = ("--tenant", self.tenant) if self.tenant else ()
        common = ("--catalog", self.folder / "catalog.yaml", "--clickhouse", self.url)
        return (command, *common, *tenant, *more, "--format", "json")

    def run(self, command: str, *more: object) -> Result:
        """Runs a command on this folder."""
        return run(*self.args(command, *more))

    def backfill(self, *inputs: object, options: tuple[object, ...] = ()) -> Row:
        """Backfills these patterns and returns the counts."""
        words = [word for pattern in inputs for word in ("--input", pattern)]
        counts: Row = self.run("backfill", *words, *options).json
        return counts

    def usage(self, granularity: str = "hour", *more: object) -> list[Row]:
        """Usage rows as printed."""
        rows: list[Row] = self.run("usage", "--granularity", granularity, *more).json
        return rows

    def bill(self, as_of: str, *more: object) -> list[Row]:
        """Invoices as printed."""
        rows: list[Row] = self.run("bill", "--as-of", as_of, *more).json
        return rows

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of the warehouse itself; `{table}` is its qualified name."""
        result = Running((str(self.warehouse), sql), {}, kind="query").wait()
        rows: list[list[Any]] = result.json
        return rows


def comparable(rows: list[Row]) -> list[tuple[Any, ...]]:
    """Usage rows in one order, group values by their JSON type."""
    names = ("customer", "subscription", "meter", "start", "end", "value", "events")
    found = []
    for row in rows:
        assert set(row) >= {*names, "group"}, row
        assert isinstance(row["value"], str), row
        group = sorted((key, _number(value)) for key, value in row["group"].items())
        found.append((*(row[name] for name in names), tuple(group)))
    return sorted(found, key=repr)


def _number(value: Any) -> Any:
    return ("number", value) if isinstance(value, Fraction) else scalar(value)


# The helper process


def _serve() -> None:
    import runners.cli

    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if request["kind"] == "wait":
            answer = _wait(request["pid"], request["timeout"])
        else:
            answer = os.fork()
            if answer == 0:
                break
            children.add(answer)
        sys.__stdout__.write(json.dumps(answer) + "\n")
        sys.__stdout__.flush()
    else:
        return
    for number, path in enumerate(request["paths"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = ["beammeter", *request["args"]]
    if request["kind"] == "query":
        _query(*request["args"])
    else:
        sys.exit(runners.cli.main())


def _wait(pid: int, timeout: float) -> int:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999


def _query(path: str, sql: str) -> None:
    with _client(path) as client:
        names = client.query("SELECT database, name FROM system.tables").result_rows
        tables = {
            name: f"{database}.{name}"
            for database, name in names
            if database.lower() not in ("system", "information_schema")
        }
        rows = client.query(sql.format(**tables)).result_rows
        print(json.dumps(rows, default=str))  # noqa: T201


@contextmanager
def _client(path: str) -> Iterator[Any]:
    import clickhouse_connect

    client = clickhouse_connect.get_client(dsn=f"chdb://{path}")
    try:
        yield client
    finally:
        client.close()


if __name__ == "__main__":
    _serve()
