"""`beammeter serve`: the HTTP service in this process, until it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from meters.catalog import Catalog
from meters.catalog_file import load_catalog
from runners.cli_options import catalog_path
from runners.commands import Url, open_warehouse, remember
from runners.journals import existing_journal, journal_url
from runners.local_stream import LocalStream
from runners.output import notice
from runners.quarantine import replay_counts
from service.app import create_app
from service.context import Service, now
from service.health import Monitor, waiting_in_kafka
from service.intake import Intake
from service.kafka_sink import KafkaSink
from service.keys import RIGHTS, KeyStore, write_private
from service.log_sink import LogSink
from service.server import serve
from service.settings import GIB, Limits, Settings
from service.sinks import Sink
from service.spooled_sink import SpooledSink
from transforms.event_log import EventLog
from transforms.kafka_client import KafkaSettings, check_topic, group_of
from warehouse.client import Warehouse
from warehouse.failures import ONCE
from warehouse.tracing import begin

SPOOL = "beammeter-spool"
"""The folder of the local log where none is given."""


@dataclass(frozen=True)
class ServeCommand:
    """What the command line asks for. Without `bootstrap`, events go to the local pipeline."""

    host: str
    port: int
    tenant: str
    bootstrap: str | None
    topic: str
    properties: str | None
    spool: str | None
    spool_gib: float
    requests_rate: float | None
    events_rate: float | None
    journal: str | None


def run_serve(path: str | None, url: Url, key_file: Path, command: ServeCommand) -> None:
    """Serve until SIGINT or SIGTERM."""
    begin()
    rates = Limits(requests_rate=command.requests_rate, events_rate=command.events_rate)
    settings = Settings(command.host, command.port, command.tenant, rates)
    keys = KeyStore(key_file)
    keys.all()
    if path is None and command.bootstrap is not None:
        # Takes events alone: needs no catalog, and no warehouse.
        first_key(keys, command.tenant)
        with _kafka(command, settings.limits) as sink:
            service = Service(settings, keys, intake=_intake(sink, settings))
            serve(create_app(service), settings, notice)
        return
    catalog = load_catalog(catalog_path(path))
    with open_warehouse(url) as warehouse, ExitStack() as stack:
        service = Service(
            settings,
            keys,
            catalog,
            warehouse,
            # Opened for each request, as it may come to be while the server runs.
            journal=partial(
                existing_journal, journal_url(command.journal, url[0]), warehouse, command.tenant
            ),
            replay=partial(replay_counts, catalog, url, tenant=command.tenant),
        )
        if command.bootstrap is not None:
            remember(warehouse, command.tenant, catalog)
            sink = stack.enter_context(_kafka(command, settings.limits))
            service = replace(service, intake=_intake(sink, settings))
            waiting = waiting_in_kafka(_settings(command, group_of(command.tenant)))
        else:
            given = (command, settings, warehouse, url[0], catalog)
            sink, stream = stack.enter_context(_local(*given))
            service = replace(
                service,
                intake=_intake(sink, settings),
                only_tenant=command.tenant,
            )
            waiting = stream.waiting
        # What looks at the warehouse says at once that it is away.
        hasty = Warehouse.connect(url[0], from_environment=url[1], retries=ONCE)
        watched = stack.enter_context(hasty)
        monitor = Monitor(watched, command.tenant, clock=now, waiting=waiting)
        service = replace(service, monitor=monitor)
        first_key(keys, command.tenant)
        serve(create_app(service), settings, notice)


def _intake(sink: Sink, settings: Settings) -> Intake:
    return Intake(sink, settings.limits)


def _settings(command: ServeCommand, group: str) -> KafkaSettings:
    assert command.bootstrap is not None
    return KafkaSettings(
        bootstrap=command.bootstrap,
        topic=command.topic,
        group=group,
        splits=1,
        properties=command.properties,
    )


@contextmanager
def _kafka(command: ServeCommand, limits: Limits) -> Iterator[Sink]:
    """Kafka, with the spool behind it where a folder is given."""
    settings = _settings(command, "beammeter-serve")
    if command.spool is None:
        check_topic(settings)
        yield KafkaSink(settings, limits)
        return
    log = EventLog(Path(command.spool))
    try:
        kafka = KafkaSink(settings, limits)
        yield SpooledSink(kafka, LogSink(log, limits, _bytes(command)), log)
    finally:
        log.close()


@contextmanager
def _local(
    command: ServeCommand, settings: Settings, warehouse: Warehouse, url: str, catalog: Catalog
) -> Iterator[tuple[Sink, LocalStream]]:
    """The local log, and the pipeline that reads it."""
    log = EventLog(Path(command.spool or SPOOL))
    stream = LocalStream(log, warehouse, url, command.tenant, catalog)
    stream.start()
    try:
        yield LogSink(log, settings.limits, _bytes(command)), stream
    finally:
        if not stream.stop():
            failed = stream.has_ended and stream.problem is not None
            why = "has failed" if failed else "was not done in time"
            notice(
                f"the pipeline {why}: what it has not counted waits in "
                f"{log.folder} for the next start, and its hours stay the stream's until then"
            )
        if stream.has_ended:
            # Before, the stream may still write there: then its folder stays this process's.
            log.close()


def _bytes(command: ServeCommand) -> int:
    return round(command.spool_gib * GIB)


def first_key(keys: KeyStore, tenant: str) -> None:
    """Make a key where there is none, and keep it in a file that only its owner can read."""
    if keys.all():
        return
    _, text = keys.create(tenant, RIGHTS, label="made at the first start")
    place = keys.path.with_name(f"{keys.path.name}.first")
    write_private(place, f"{text}\n".encode())
    notice(f"made a first API key with all rights: {place}")
