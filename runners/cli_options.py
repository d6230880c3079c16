"""What the options of all commands have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from meters.errors import ConfigurationError, Rejected
from meters.timestamps import parse_timestamp

F = TypeVar("F", bound=Callable[..., Any])

EMBEDDED = "beammeter-data"
"""The folder of the embedded warehouse where no URL is given."""


class Instant(click.ParamType[datetime]):
    """An RFC 3339 time with an offset."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Parse it, or fail with what was expected."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_timestamp(str(value), "time")
        except Rejected as error:
            self.fail(error.detail, param, ctx)


class ManyValues(click.Command):
    """A command with an option that takes all values up to the next option."""

    MANY = ("--input", "--usage", "--group-by")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--input a b` as `--input a --input b`, which click understands."""
        spread: list[str] = []
        option = None
        for arg in args:
            if arg.startswith("-") and arg != "-":
                option = arg if arg in self.MANY else None
                if option is None:
                    spread.append(arg)
            elif option is not None:
                spread += [option, arg]
            else:
                spread.append(arg)
        if args and args[-1] in self.MANY:
            spread.append(args[-1])
        return super().parse_args(ctx, spread)


class OptionalValue(click.Command):
    """A command with an option whose value may be left out."""

    OPTIONAL = ("", "")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give the option its default value where another option, or nothing, follows."""
        name, default = self.OPTIONAL
        filled: list[str] = []
        for index, arg in enumerate(args):
            filled.append(arg)
            behind = args[index + 1] if index + 1 < len(args) else "-"
            if arg == name and behind.startswith("-"):
                filled.append(default)
        return super().parse_args(ctx, filled)


kafka_properties = click.option(
    "--kafka-properties",
    "properties",
    metavar="FILE",
    help="Settings of librdkafka (TLS, SASL), name=value lines; ${NAME} is from the environment.",
)
"""How `stream` and `serve` reach a broker that wants TLS or SASL."""


def common(function: F) -> F:
    """The options that every command takes."""
    return common_with()(function)


def common_with(*formats: str) -> Callable[[F], F]:
    """The options that every command takes, with more formats than these have."""

    def decorate(function: F) -> F:
        return _common(function, ["table", "json", "csv", *formats])

    return decorate


def _common(function: F, formats: list[str]) -> F:
    for option in (
        click.option(
            "--format",
            "form",
            type=click.Choice(formats),
            default="table",
            show_default=True,
            help="How the result is printed.",
        ),
        click.option("--tenant", default="default", show_default=True, help="Whose data it is."),
        click.option(
            "--clickhouse",
            metavar="URL",
            help="chdb:///absolute/path (embedded) or clickhouse://user@host:8123/db. "
            f"Default: $CLICKHOUSE_URL, else the folder ./{EMBEDDED}.",
        ),
        click.option("--catalog", metavar="PATH", help="YAML file or folder of YAML files."),
    ):
        function = option(function)
    return function


def warehouse_url(given: str | None) -> tuple[str, bool]:
    """The URL to use, and whether it comes from the environment (and may hold a secret)."""
    if given:
        return given, False
    if url := os.environ.get("CLICKHOUSE_URL"):
        return url, True
    return f"chdb://{Path.cwd() / EMBEDDED}", False


def catalog_path(given: str | None) -> str:
    """The catalog that a command needs."""
    if not given:
        raise ConfigurationError("--catalog must be given: a YAML file or a folder of them")
    return given


class Day(click.ParamType[date]):
    """A date, as 2026-11-01."""

    name = "date"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> date:
        """Parse it, or fail with what was expected."""
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"must be a date such as 2026-11-01 (got {value!r})", param, ctx)


journal_option = click.option(
    "--journal",
    metavar="URL",
    help="Where final invoices are kept: sqlite:///absolute/path or postgresql://user@host/db. "
    "Default: $BEAMMETER_JOURNAL, else a file beside the embedded warehouse.",
)
actor_option = click.option(
    "--actor", help="Who acts, for the audit log. Default: $BEAMMETER_ACTOR, else the user."
)
