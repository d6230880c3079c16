"""The command line `beammeter`.

stdout holds only the result, stderr progress and messages. Exit codes: 0 done,
1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click

from meters.errors import BeammeterError, ConfigurationError, Rejected
from meters.numbers import parse_number
from meters.timestamps import parse_timestamp
from runners.output import quiet

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
    """A command whose `--input` takes all values up to the next option."""

    MANY = ("--input",)

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


def common(function: F) -> F:
    """The options that every command takes."""
    for option in (
        click.option(
            "--format",
            "form",
            type=click.Choice(["table", "json", "csv"]),
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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="beammeter")
def cli() -> None:
    """Usage events to invoices that are right to the last cent."""


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


@cli.command()
@common
def validate(catalog: str | None, **_: object) -> None:
    """Check a catalog: every problem with file, line and path."""
    from runners.commands import run_validate

    run_validate(catalog_path(catalog), **_options(_))


@cli.command(cls=ManyValues)
@common
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="PATTERN...",
    help="Files or patterns: .parquet, .jsonl, .csv, also .gz and .zst; local, s3:// or gs://.",
)
@click.option(
    "--map", "maps", multiple=True, metavar="FIELD=COLUMN", help="Read a field from this column."
)
@click.option(
    "--constant",
    "constants",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Give every event this value.",
)
@click.option(
    "--time-format",
    metavar="FORMAT",
    help="strptime format of timestamps, or unix, unix_ms, unix_us.",
)
@click.option("--time-zone", metavar="ZONE", help="IANA zone of timestamps without an offset.")
@click.option("--from", "from_time", type=Instant(), help="Only events from this time on.")
@click.option("--to", "to_time", type=Instant(), help="Only events before this time.")
@click.option("--runner", default="direct", show_default=True, help="Where the pipeline runs.")
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def backfill(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Read events from object storage into usage rows.

    Options of Beam itself may follow behind `--`.
    """
    from runners.backfill import run_backfill

    run_backfill(catalog_path(catalog), warehouse_url(clickhouse), **options)


@cli.command(cls=type("UntilIdle", (OptionalValue,), {"OPTIONAL": ("--until-idle", "10")}))
@common
@click.option("--bootstrap-servers", "bootstrap", required=True, help="Kafka, HOST:PORT,...")
@click.option("--topic", default="events", show_default=True, help="Where the events are.")
@click.option("--group", help="Consumer group.  [default: beammeter-TENANT]")
@click.option(
    "--start",
    default="earliest",
    show_default=True,
    help="Where a group without offsets begins: earliest, latest, a time, or PARTITION:OFFSET,...",
)
@click.option(
    "--kafka-properties",
    "properties",
    metavar="FILE",
    help="Settings of librdkafka (TLS, SASL), name=value lines; ${NAME} is from the environment.",
)
@click.option(
    "--runner", default="prism", show_default=True, help="prism, flink, dataflow, direct."
)
@click.option("--prism-location", metavar="FILE", help="The program prism, where not on PATH.")
@click.option(
    "--job-endpoint",
    metavar="HOST:PORT",
    help="Beam's job server for Flink. Default: $BEAMMETER_FLINK_JOB_ENDPOINT, "
    "else localhost:8099.",
)
@click.option(
    "--checkpoints",
    metavar="URI",
    help="Where Flink keeps checkpoints, for all its machines. Default: ./beammeter-checkpoints.",
)
@click.option(
    "--parallelism", type=click.IntRange(1, 1024), default=2, show_default=True, help="Splits."
)
@click.option(
    "--shards",
    type=click.IntRange(1, 4096),
    default=4,
    show_default=True,
    help="Keys that share the customers; another number than before loads the state anew.",
)
@click.option(
    "--flush",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two writes of usage.",
)
@click.option(
    "--lateness",
    type=click.FloatRange(0),
    default=48 * 3600.0,
    show_default=True,
    help="Seconds that the stream keeps a bucket open behind the watermark.",
)
@click.option(
    "--until-idle",
    type=click.FloatRange(0.1),
    metavar="[SECONDS]",
    help="End when all is read and nothing came for SECONDS (10).",
)
@click.argument("beam_options", nargs=-1, type=click.UNPROCESSED)
def stream(
    catalog: str | None,
    clickhouse: str | None,
    tenant: str,
    form: str,  # noqa: ARG001 (common option: a stream prints no rows)
    start: str,
    **options: Any,
) -> None:
    """Read events from Kafka into usage rows until stopped.

    Options of Beam itself may follow behind `--`.
    """
    from runners.stream import StreamCommand, run_stream
    from transforms.kafka_client import parse_start

    command = StreamCommand(start=parse_start(start), **options)
    run_stream(catalog_path(catalog), warehouse_url(clickhouse), tenant, command)


@cli.command()
@common
@click.option("--customer", help="Only this customer.")
@click.option("--from", "from_time", type=Instant(), help="Recompute everything from this time on.")
@click.option("--to", "to_time", type=Instant(), help="Recompute everything before this time.")
@click.option("--runner", default="direct", show_default=True, help="Where the pipeline runs.")
def repair(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Recompute usage that is dirty, or a span of it, from the raw events.

    Without --from and --to it resolves every dirty mark. Hours that the stream owns are
    left alone, and their marks stay.
    """
    from runners.repair import run_repair

    run_repair(catalog_path(catalog), warehouse_url(clickhouse), **options)


@cli.command()
@common
@click.option(
    "--granularity",
    type=click.Choice(["hour", "day", "period"]),
    default="period",
    show_default=True,
    help="Local hours, local days or billing periods.",
)
@click.option("--customer", help="Only this customer.")
@click.option("--subscription", help="Only this subscription.")
@click.option("--meter", help="Only this meter.")
@click.option("--from", "from_time", type=Instant(), help="Only usage from this time on.")
@click.option("--to", "to_time", type=Instant(), help="Only usage before this time.")
@click.option(
    "--group-by", "group_by", multiple=True, metavar="KEY", help="Merge groups to these keys."
)
def usage(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Show usage by customer, subscription, meter, time and group."""
    from runners.commands import run_usage

    run_usage(catalog_path(catalog), warehouse_url(clickhouse), **options)


@cli.command()
@common
@click.option(
    "--as-of", "as_of", type=Instant(), required=True, help="Bill every period that ended by then."
)
@click.option("--customer", help="Only this customer.")
@click.option("--preview", is_flag=True, help="Show what would be billed and write nothing.")
@click.option("--runner", default="direct", show_default=True, help="Where the pipeline runs.")
def bill(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Write draft invoices for the periods that have ended."""
    from runners.commands import run_bill

    run_bill(catalog_path(catalog), warehouse_url(clickhouse), **options)


@cli.command(cls=type("ManyUsages", (ManyValues,), {"MANY": ("--usage",)}))
@common
@click.option("--plan", required=True, help="The plan to price.")
@click.option(
    "--usage", "usages", multiple=True, metavar="METER=QUANTITY...", help="How much of a meter."
)
def quote(catalog: str | None, plan: str, usages: Sequence[str], **options: Any) -> None:
    """Show what a plan would charge for given quantities, without a warehouse."""
    from runners.commands import run_quote

    run_quote(catalog_path(catalog), plan, _quantities(usages), **_options(options))


@cli.command()
@common
@click.option(
    "--folder",
    type=click.Path(file_okay=False),
    default="beammeter-demo",
    show_default=True,
    help="Where the demo keeps its files.",
)
def demo(folder: str, **options: Any) -> None:
    """Run a month of events for several customers through usage to invoices."""
    from runners.demo import run_demo

    for option in ("catalog", "clickhouse"):
        if options[option] is not None:
            raise ConfigurationError(f"--{option} must be left out: the demo brings its own")
    run_demo(Path(folder), options["form"])


def _options(options: dict[str, Any]) -> dict[str, Any]:
    return {"form": options["form"]}


def _quantities(pairs: Sequence[str]) -> dict[str, Decimal]:
    quantities: dict[str, Decimal] = {}
    for pair in pairs:
        meter, equals, number = pair.partition("=")
        if not equals or not meter:
            raise ConfigurationError(f"--usage must be METER=QUANTITY (got {pair!r})")
        if meter in quantities:
            raise ConfigurationError(f"--usage must name a meter once (got {meter!r} twice)")
        try:
            quantities[meter] = parse_number(number, f"--usage {meter}")
        except Rejected as error:
            raise ConfigurationError(error.detail) from None
    return quantities


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code instead of raising."""
    quiet()
    try:
        cli.main(args=None if args is None else list(args), standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("stopped", err=True)
        return 130
    except BeammeterError as error:
        click.echo(f"error: {error}", err=True)
        if os.environ.get("BEAMMETER_TRACEBACK"):
            raise
        return error.exit_code
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    return 0


def entry() -> None:
    """The console script.

    It leaves without tearing the interpreter down: workers of a stream that was stopped
    may still be inside the embedded engine, which does not survive that.
    """
    code = main()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
