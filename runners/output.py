"""Results on stdout: a table for people, JSON or CSV for programs.

Amounts and values are decimal strings, times RFC 3339 in UTC. Everything else that a
command has to say goes to stderr.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import click
import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

Format = Literal["table", "json", "csv"]
Row = Mapping[str, object]

_OURS = {"billing", "meters", "pipelines", "runners", "service", "transforms", "warehouse"}
_AT_ONCE = 1 << 20
"""Characters of CSV that are written together."""
_GAP = 3
"""Columns of the terminal between two columns of a table."""
_DESCRIPTION = 24
"""The least width of a description."""
_ENCODER = msgspec.json.Encoder(decimal_format="number")


def quiet() -> None:
    """Only this program's own warnings reach a user; Beam's failures come as exceptions."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.name.split(".")[0] in _OURS)


def notice(message: str) -> None:
    """One line on stderr."""
    click.echo(message, err=True)


def print_json(value: object) -> None:
    """A JSON document, indented; decimals keep their digits."""
    click.echo(json_of(value), nl=False)


def print_json_list(values: Iterable[object]) -> None:
    """A JSON list as `print_json` writes it, one value in memory at a time."""
    before = "[\n"
    for value in values:
        # JSON escapes what ends a line within a value, so these are ends of its own lines.
        shown = json_of(value).rstrip("\n").replace("\n", "\n  ")
        click.echo(f"{before}  {shown}", nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


def json_of(value: object) -> str:
    """The text of a JSON document, indented, with the end of its last line."""
    return msgspec.json.format(_ENCODER.encode(value), indent=2).decode() + "\n"


def print_csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Rows as CSV with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(text(row.get(name)) for name in columns)
        if buffer.tell() > _AT_ONCE:
            click.echo(buffer.getvalue(), nl=False)
            buffer.seek(0)
            buffer.truncate()
    click.echo(buffer.getvalue(), nl=False)


def print_table(
    rows: Iterable[Row], columns: Mapping[str, str], *, right: Iterable[str] = (), title: str = ""
) -> None:
    """Rows as a table; `columns` maps fields to headings, `right` are aligned right.

    Only descriptions are wrapped. No value is ever cut: where the terminal is too
    narrow, lines are longer than it.
    """
    cells = [[text(row.get(field)) for field in columns] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    flush = set(right)
    for field, heading in columns.items():
        table.add_column(
            heading,
            justify="right" if field in flush else "left",
            no_wrap=field != "description",
            overflow="fold",
        )
    for line in cells:
        table.add_row(*line)
    _console(_width(columns, cells)).print(table)


def _width(columns: Mapping[str, str], cells: Sequence[Sequence[str]]) -> int:
    """What a table needs at least."""
    lines = [list(columns.values()), *cells]
    widest = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    return sum(
        _GAP + (min(width, _DESCRIPTION) if field == "description" else width)
        for field, width in zip(columns, widest, strict=True)
    )


def _console(needed: int) -> Console:
    """A console for stdout, not narrower than `needed`."""
    width = Console(file=sys.stdout).width if sys.stdout.isatty() else 160
    return Console(
        file=sys.stdout, width=max(width, needed), highlight=False, markup=False, emoji=False
    )


def text(value: object) -> str:
    """A cell as text: nothing for null, compact JSON for objects."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | dict | list):
        return _ENCODER.encode(value).decode()
    return str(value)
