"""The commands `serve` and `keys`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from meters.errors import ConfigurationError
from runners.cli_options import common, journal_option, kafka_properties, warehouse_url

KEYS = "beammeter-keys.json"
"""The file of API keys where none is given."""

keys_option = click.option(
    "--keys",
    "key_file",
    metavar="FILE",
    help=f"The file of API keys. Default: $BEAMMETER_KEYS, else ./{KEYS}.",
)


def key_path(given: str | None) -> Path:
    """The file of API keys to use."""
    return Path(given or os.environ.get("BEAMMETER_KEYS") or KEYS).absolute()


@click.command()
@common
@keys_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="The port to listen at; 0 takes a free one and says which.",
)
@click.option(
    "--bootstrap-servers",
    "bootstrap",
    metavar="HOST:PORT,...",
    help="Kafka, which takes the events. Without it a pipeline in this process does.",
)
@click.option("--topic", default="events", show_default=True, help="The topic for events.")
@kafka_properties
@click.option(
    "--spool",
    metavar="FOLDER",
    help="Where events wait on disk: for the pipeline in this process (./beammeter-spool), or, "
    "if given, for a broker that is away.",
)
@click.option(
    "--spool-gib",
    type=click.FloatRange(0.001),
    default=10.0,
    show_default=True,
    help="The most that may wait there.",
)
@click.option(
    "--requests-rate", type=click.FloatRange(0, min_open=True), help="Requests a second by key."
)
@click.option(
    "--events-rate", type=click.FloatRange(0, min_open=True), help="Events a second by key."
)
@journal_option
def serve(
    catalog: str | None, clickhouse: str | None, key_file: str | None, **options: Any
) -> None:
    """Take events over HTTP and answer with usage, until stopped.

    The first start without keys makes one and keeps it beside the file of keys.
    """
    from runners.serve import ServeCommand, run_serve

    options.pop("form")
    command = ServeCommand(**options)
    run_serve(catalog, warehouse_url(clickhouse), key_path(key_file), command)


@click.command()
@common
@click.option(
    "--bootstrap-servers",
    "bootstrap",
    metavar="HOST:PORT,...",
    help="Kafka, to know which events wait.",
)
@click.option("--topic", default="events", show_default=True, help="The topic of the stream.")
@click.option("--group", help="The stream's consumer group. Default: beammeter-TENANT.")
@kafka_properties
@click.option(
    "--server",
    metavar="URL",
    help="Ask this `beammeter serve`, as one must that has the embedded warehouse. A key that "
    "may read is in BEAMMETER_API_KEY.",
)
def status(
    clickhouse: str | None,
    tenant: str,
    form: Any,
    bootstrap: str | None,
    topic: str,
    group: str | None,
    properties: str | None,
    server: str | None,
    **_: object,
) -> None:
    """Show whether events become usage: rates, delays, lags, retries, what waits.

    Ends with 1 where a check fails, as /readyz does with 503.
    """
    from runners.status import show_status, status_of_server, status_of_warehouse
    from transforms.kafka_client import KafkaSettings, group_of

    if server is not None:
        for option, value in (("--clickhouse", clickhouse), ("--bootstrap-servers", bootstrap)):
            if value is not None:
                raise ConfigurationError(f"{option} must be left out with --server")
        found = status_of_server(server)
    else:
        kafka = None
        if bootstrap is not None:
            kafka = KafkaSettings(
                bootstrap, topic, group or group_of(tenant), 1, properties=properties
            )
        found = status_of_warehouse(warehouse_url(clickhouse), tenant, kafka)
    if not show_status(found, form):
        raise click.exceptions.Exit(1)


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@keys_option
@click.option("--tenant", default="default", show_default=True, help="Whose data it opens.")
@click.option(
    "--right",
    "rights",
    type=click.Choice(["write", "read", "admin"]),
    multiple=True,
    required=True,
    help="What it may do: send events, read usage and invoices, everything. Repeatable.",
)
@click.option("--label", default="", help="What it is for.")
@click.option(
    "--requests-rate", type=click.FloatRange(0, min_open=True), help="Requests a second, at most."
)
@click.option(
    "--events-rate", type=click.FloatRange(0, min_open=True), help="Events a second, at most."
)
def create(key_file: str | None, **options: Any) -> None:
    """Make a key and print it. It is shown this once: only its hash is kept."""
    from runners.keys import create_key

    create_key(key_path(key_file), **options)


@keys.command("list")
@keys_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How the result is printed.",
)
def list_(key_file: str | None, form: Any) -> None:
    """List the keys by id, without the keys themselves."""
    from runners.keys import list_keys

    list_keys(key_path(key_file), form)


@keys.command("revoke")
@keys_option
@click.argument("name", metavar="ID")
def revoke(key_file: str | None, name: str) -> None:
    """End a key; servers refuse it within a second."""
    from runners.keys import revoke_key

    revoke_key(key_path(key_file), name)
