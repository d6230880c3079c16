"""`beammeter stream`: launch the stream, watch it, and end it when it is idle."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

import apache_beam as beam
from apache_beam.runners.runner import PipelineState
from confluent_kafka import KafkaException

from meters.catalog_file import load_catalog
from meters.errors import BeammeterError, ConfigurationError
from pipelines.streaming import Streaming, StreamingRound
from runners.catalogs import begin
from runners.commands import Url, open_warehouse
from runners.flink_jobs import cancel_jobs, check_flink
from runners.launch import cause, reported, run
from runners.launch import options as launch_options
from runners.output import notice
from runners.stream_runners import stream_options
from service.context import now
from service.health import Monitor, waiting_in_kafka
from service.metrics_server import metrics_server, parse_address
from transforms.catalogs import CATALOGS
from transforms.connection import connect_patiently
from transforms.dead_letters import ensure_topic
from transforms.kafka_client import KafkaSettings, check_topic, group_of, lag
from transforms.kafka_source import CONSUMERS
from transforms.shard_memory import MEMORY
from transforms.stream_options import StreamOptions
from warehouse.client import Warehouse
from warehouse.failures import ONCE
from warehouse.leases import exclusive
from warehouse.ownership import read_progress, take_over
from warehouse.recovery import newest

_WATCH_SECONDS = 0.5
_COMMIT_SECONDS = 10.0
_FLUSH = 0.2
_FLUSH_KEYED = 0.5
_MICRO = 1_000_000


@dataclass(frozen=True)
class StreamCommand:
    """What the command line asks for; times are seconds."""

    bootstrap: str
    topic: str
    group: str | None
    start: Any
    properties: str | None
    runner: str
    parallelism: int
    shards: int
    flush: float | None
    lateness: float
    until_idle: float | None
    prism_location: str | None
    job_endpoint: str | None
    checkpoints: str | None
    flink_rest: str | None
    restore: str | None
    metrics: str | None
    beam_options: Sequence[str]


def run_stream(path: str, url: Url, tenant: str, command: StreamCommand) -> None:
    """Kafka -> ClickHouse until stopped, or until idle."""
    catalog = load_catalog(path)
    if url[0].startswith("chdb:") and command.runner not in ("prism", "direct"):
        raise ConfigurationError(
            f"--clickhouse must be a server for --runner {command.runner}: "
            "an embedded warehouse serves one process"
        )
    settings = KafkaSettings(
        bootstrap=command.bootstrap,
        topic=command.topic,
        group=command.group or group_of(tenant),
        splits=command.parallelism,
        start=command.start,
        properties=command.properties,
    )
    keyed = command.runner in ("flink", "dataflow")
    answers_at = None if command.metrics is None else parse_address(command.metrics)
    beam_options = None
    job_name = f"beammeter-{tenant}-{uuid.uuid4().hex[:12]}"
    rest = _flink_rest(command)
    if command.runner != "direct":
        beam_options = stream_options(
            command.runner,
            prism_location=command.prism_location,
            job_endpoint=command.job_endpoint,
            parallelism=command.parallelism,
            state=command.checkpoints,
            extra=command.beam_options,
            job_name=job_name,
            restore=command.restore,
        )
    partitions = check_topic(settings)
    with open_warehouse(url) as warehouse:
        options = StreamOptions(
            job=uuid.uuid4().hex,
            tenant=tenant,
            warehouse=url[0],
            kafka=settings,
            shards=command.shards,
            flush_seconds=command.flush or (_FLUSH_KEYED if keyed else _FLUSH),
            idle_seconds=command.until_idle,
            lateness_us=round(command.lateness * _MICRO),
            dead_letters=ensure_topic(settings, f"{command.topic}.dlq"),
        )
        notice(
            f"reading {command.topic} ({partitions} partitions) at {command.bootstrap} "
            f"as group {settings.group}, by {command.runner}"
        )
        with exclusive(warehouse, tenant):
            first = max(0, newest(warehouse, tenant).timestamp - options.lateness_us)
            now = time.time_ns() // 1000
            timeline = begin(warehouse, tenant, catalog)
            take_over(warehouse, tenant, options.shards, first, now)
        stream = Streaming(options, timeline, keyed=keyed)
        try:
            counters = ("read", "stored", "quarantined", "duplicates", "rounded")
            with (
                _stopping() as stop,
                connect_patiently(url[0], options.job) as watched,
                _answering(answers_at, url, tenant, settings),
            ):
                if command.runner == "direct":
                    with reported(counters):
                        _run_rounds(stream, watched, stop, command.beam_options)
                else:
                    job = _Job(job_name, rest)
                    with reported(counters):
                        job.run(stream, beam_options, watched, stop)
                    job.end()
        finally:
            CONSUMERS.close(options.job)
            MEMORY.drop(options.job)
            CATALOGS.drop(options.job)


def _flink_rest(command: StreamCommand) -> str | None:
    """Where Flink answers. Raises ConfigurationError for options of Flink elsewhere."""
    if command.runner != "flink":
        given = (("--flink-rest", command.flink_rest), ("--restore", command.restore))
        for option, value in given:
            if value is not None:
                raise ConfigurationError(f"{option} must come with --runner flink (got {value!r})")
        return None
    rest = command.flink_rest or os.environ.get("BEAMMETER_FLINK_REST") or None
    if rest is not None:
        check_flink(rest)
    return rest


@contextmanager
def _answering(
    address: tuple[str, int] | None, url: Url, tenant: str, kafka: KafkaSettings
) -> Iterator[None]:
    """Tell metrics and health at this address, where one was asked for."""
    if address is None:
        yield
        return
    with Warehouse.connect(url[0], from_environment=url[1], retries=ONCE) as asked:
        monitor = Monitor(asked, tenant, clock=now, waiting=waiting_in_kafka(kafka))
        with metrics_server(address, tenant, monitor) as port:
            notice(f"metrics at http://{address[0]}:{port}/metrics")
            yield


@contextmanager
def _stopping() -> Iterator[Event]:
    """An event that is set when the process is asked to end."""
    stop = Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Job:
    """A stream that runs on its runner: watched until it is asked, or allowed, to end."""

    def __init__(self, name: str, flink: str | None) -> None:
        self._name = name
        self._flink = flink
        self._result: Any = None

    def run(self, stream: Streaming, options: Any, warehouse: Warehouse, stop: Event) -> None:
        """Launch and watch it. Raises BeammeterError where it fails, and ends what is left."""
        started = time.time_ns() // 1000
        pipeline = beam.Pipeline(options=options)
        stream.build(pipeline)
        try:
            self._result = pipeline.run()
            self._watch(stream.options, warehouse, stop, started)
        except Exception as error:
            if self._flink is not None:
                with suppress(BeammeterError):
                    cancel_jobs(self._flink, self._name)
            if isinstance(error, BeammeterError):
                raise
            raise BeammeterError(cause(error)) from error

    def _watch(
        self, options: StreamOptions, warehouse: Warehouse, stop: Event, started: int
    ) -> None:
        while not stop.wait(_WATCH_SECONDS):
            if PipelineState.is_terminal(self._result.state):
                self._result.wait_until_finish()
                raise BeammeterError(f"the stream must go on (got state {self._result.state})")
            if options.idle_seconds is not None and _is_released(warehouse, options, started):
                _await_commits(options)
                break

    def end(self) -> None:
        """End the job. Its workers complain, each with a traceback, about a runner that is gone.

        Raises BeammeterError where Flink does not end it.
        """
        before, sys.stderr = sys.stderr, open(os.devnull, "w")  # noqa: SIM115 (for good)
        with suppress(Exception):
            self._result.cancel()
        if self._flink is not None:
            try:
                cancel_jobs(self._flink, self._name)
            except BeammeterError:
                sys.stderr = before
                raise


def _run_rounds(stream: Streaming, warehouse: Warehouse, stop: Event, extra: Sequence[str]) -> None:
    """Round after round on the DirectRunner, in this process."""
    options = stream.options
    started = time.time_ns() // 1000
    rounds = StreamingRound(options, stream.timeline)
    while not stop.is_set():
        run(rounds.build, launch_options("direct", extra))
        if options.idle_seconds is not None and _is_released(warehouse, options, started):
            _await_commits(options)
            break


def _is_released(warehouse: Warehouse, options: StreamOptions, started: int) -> bool:
    """Whether every shard has flushed and given its buckets away since the start."""
    released = {
        row.shard
        for row in read_progress(warehouse, options.tenant)
        if row.shards == options.shards and not row.owned and row.updated_at >= started
    }
    return len(released) == options.shards


def _await_commits(options: StreamOptions) -> None:
    """Offsets are committed after their bundle; all is stored already."""
    until = time.monotonic() + _COMMIT_SECONDS
    with suppress(KafkaException):
        while time.monotonic() < until and lag(options.kafka):
            time.sleep(_WATCH_SECONDS)
