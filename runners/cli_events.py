"""Commands from events to usage: backfill, stream, repair, usage."""

from __future__ import annotations

from typing import Any

import click

from runners.cli_options import (
    Instant,
    ManyValues,
    OptionalValue,
    catalog_path,
    common,
    kafka_properties,
    warehouse_url,
)


@click.command(cls=ManyValues)
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


@click.command(cls=type("UntilIdle", (OptionalValue,), {"OPTIONAL": ("--until-idle", "10")}))
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
@kafka_properties
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
    "--flink-rest",
    metavar="HOST:PORT",
    help="Flink's REST interface, where the command ends its job. Default: $BEAMMETER_FLINK_REST.",
)
@click.option("--restore", metavar="URI", help="A checkpoint or savepoint of Flink to go on from.")
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
    help="Seconds between two writes of usage.  [default: 0.2; 0.5 on flink and dataflow]",
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
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Answer /metrics and /readyz there, without a key; HOST is 127.0.0.1 if left out.",
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


@click.command()
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


@click.command(cls=ManyValues)
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
    "--group-by", "group_by", multiple=True, metavar="KEY...", help="Merge groups to these keys."
)
def usage(catalog: str | None, clickhouse: str | None, **options: Any) -> None:
    """Show usage by customer, subscription, meter, time and group."""
    from runners.commands import run_usage

    run_usage(catalog_path(catalog), warehouse_url(clickhouse), **options)
