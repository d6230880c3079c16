"""The command line `beammeter`.

stdout holds only the result, stderr progress and messages. Exit codes: 0 done,
1 failed, 2 wrong usage or configuration.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from meters.errors import BeammeterError, ConfigurationError
from runners import cli_bills, cli_catalogs, cli_events, cli_invoices, cli_quarantine, cli_service
from runners.cli_options import catalog_path, common
from runners.output import Format, quiet


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="beammeter")
def cli() -> None:
    """Usage events to invoices that are right to the last cent."""


@cli.command()
@common
def validate(catalog: str | None, form: Format, **_: object) -> None:
    """Check a catalog: every problem with file, line and path."""
    from runners.commands import run_validate

    run_validate(catalog_path(catalog), form)


@cli.command()
@common
@click.option(
    "--folder",
    type=click.Path(file_okay=False),
    default="beammeter-demo",
    show_default=True,
    help="Where the demo keeps its files.",
)
def demo(folder: str, form: Format, **options: object) -> None:
    """Run a month of events for several customers through usage to invoices."""
    from runners.demo import run_demo

    for option in ("catalog", "clickhouse"):
        if options[option] is not None:
            raise ConfigurationError(f"--{option} must be left out: the demo brings its own")
    run_demo(Path(folder), form)


for command in (
    cli_events.backfill,
    cli_events.stream,
    cli_events.repair,
    cli_events.usage,
    cli_bills.bill,
    cli_bills.quote,
    cli_invoices.explain,
    cli_invoices.invoice,
    cli_invoices.reconcile,
    cli_service.serve,
    cli_service.status,
    cli_service.keys,
    cli_catalogs.catalog,
    cli_quarantine.quarantine,
    cli_quarantine.replay,
):
    cli.add_command(command)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code instead of raising."""
    quiet()
    try:
        # What `Exit` says, and nothing where a command has come to its end.
        code: int | None = cli.main(
            args=None if args is None else list(args), standalone_mode=False
        )
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
    return code or 0


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
