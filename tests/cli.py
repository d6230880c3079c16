"""Runs the command line as its users do: a process, its words, its streams, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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


class Running:
    """A command under way."""

    def __init__(self, words: tuple[str, ...], env: dict[str, str], module: str) -> None:
        self.args = words
        self.folder = tempfile.TemporaryDirectory()
        self.paths = [Path(self.folder.name) / name for name in ("stdout", "stderr")]
        self.began = time.monotonic()
        with self.paths[0].open("wb") as out, self.paths[1].open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def wait(self, timeout: float = 120) -> Result:
        """The result; a command that takes longer than `timeout` seconds gets a SIGKILL."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        seconds = time.monotonic() - self.began
        out, err = (path.read_text("utf-8", "replace") for path in self.paths)
        self.folder.cleanup()
        return Result(self.args, code, out, err, seconds)


def start(*args: object, env: dict[str, str] | None = None) -> Running:
    """Starts a command without waiting for it."""
    return Running(tuple(map(str, args)), env or {}, "runners.cli")


def run(*args: object, env: dict[str, str] | None = None) -> Result:
    """Runs a command to its end."""
    return start(*args, env=env).wait()


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
        return (command, *common, *tenant, "--format", "json", *more)

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

    def query(self, *statements: str) -> list[list[list[Any]]]:
        """The rows of each statement; `{table}` is a table's qualified name."""
        words = (str(self.warehouse), *statements)
        rows: list[list[list[Any]]] = Running(words, {}, "tests.cli").wait().json
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


# The warehouse is asked in a process of its own: an embedded one serves one path a process.


def _query(path: str, *statements: str) -> None:
    import clickhouse_connect

    client = clickhouse_connect.get_client(dsn=f"chdb://{path}")
    try:
        names = client.query("SELECT database, name FROM system.tables").result_rows
        tables = {
            name: f"{database}.{name}"
            for database, name in names
            if database.lower() not in ("system", "information_schema")
        }
        rows = [client.query(sql.format(**tables)).result_rows for sql in statements]
        sys.stdout.write(json.dumps(rows, default=str))
    finally:
        client.close()


if __name__ == "__main__":
    _query(*sys.argv[1:])
