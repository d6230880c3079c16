"""Traces go from request to usage row, hold nothing that was sent, and are off by default."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from runners.stream import StreamCommand, run_stream
from service.app import create_app
from service.context import Service
from service.intake import Intake
from service.kafka_sink import KafkaSink
from service.keys import KeyStore
from service.settings import Limits, Settings
from tests.service.servers import CATALOG, Server, events, post
from tests.service.test_serve import await_usage
from tests.service.world import World
from tests.services.kafka import Kafka
from tests.services.process import LOCALHOST
from transforms.event_log import EventLog
from transforms.kafka_client import KafkaSettings
from warehouse import tracing
from warehouse.client import Warehouse
from warehouse.tracing import MOST_LINKS

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "do-not-tell"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.use(provider)
    yield exporter
    tracing.use(None)
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def parent_of(span: ReadableSpan, spans: InMemorySpanExporter) -> str | None:
    found = {each.context.span_id: each.name for each in spans.get_finished_spans()}
    return None if span.parent is None else found.get(span.parent.span_id)


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def command(kafka: Kafka, topic: str) -> StreamCommand:
    return StreamCommand(
        bootstrap=kafka.bootstrap,
        topic=topic,
        group=None,
        start="earliest",
        properties=None,
        runner="direct",
        parallelism=1,
        shards=2,
        flush=0.5,
        lateness=48 * 3600.0,
        until_idle=1.0,
        prism_location=None,
        job_endpoint=None,
        checkpoints=None,
        flink_rest=None,
        restore=None,
        metrics=None,
        beam_options=(),
    )


def test_a_request_is_followed_to_its_usage_and_nothing_it_held_is_told(
    kafka: Kafka,
    embedded: Warehouse,
    embedded_url: str,
    tenant: str,
    tmp_path: Path,
    spans: InMemorySpanExporter,
) -> None:
    topic = f"events-{tenant}"
    kafka.create_topic(topic)
    keys = KeyStore(tmp_path / "keys.json")
    _, key = keys.create(tenant, ["write"])
    settings = KafkaSettings(kafka.bootstrap, topic, "traced", splits=1)
    service = Service(
        Settings(tenant=tenant), keys, intake=Intake(KafkaSink(settings, Limits()), Limits())
    )
    sent = events(SECRET, 0, 5)
    for event in sent:
        event["properties"]["region"] = SECRET
        event["external_customer_id"] = f"customer-{SECRET}"
    headers = {"x-api-key": key, "traceparent": f"00-{TRACE}-{CALLER}-01"}
    with TestClient(create_app(service)) as client:
        for part in (sent[:3], sent[3:]):
            assert client.post("/v1/events/bulk", json={"events": part}, headers=headers).is_success
        del headers["traceparent"]
        assert client.post(f"/v1/{SECRET}", headers=headers).status_code == 404
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(CATALOG, "utf-8")
    run_stream(str(catalog), (embedded_url, False), tenant, command(kafka, topic))

    requests = named(spans, "POST /v1/events/bulk")
    assert [span.kind for span in requests] == [SpanKind.SERVER] * 2
    for span in requests:
        assert span.context.trace_id == int(TRACE, 16)
        assert span.parent is not None
        assert span.parent.span_id == int(CALLER, 16)
        assert span.attributes is not None
        assert span.attributes["http.response.status_code"] == 202
    accepts = named(spans, "accept")
    assert {parent_of(span, spans) for span in accepts} == {"POST /v1/events/bulk"}
    assert sorted(dict(span.attributes or {})["beammeter.events"] for span in accepts) == [2, 3]
    mine = {span.context.span_id for span in accepts}
    ingests, flushes = named(spans, "ingest"), named(spans, "flush")
    assert set().union(*map(linked, ingests)) == mine
    assert set().union(*map(linked, flushes)) == mine
    assert sum(int(dict(span.attributes or {})["beammeter.events"]) for span in ingests) == 5
    stored = [parent_of(span, spans) for span in named(spans, "INSERT events")]
    assert set(stored) == {"ingest"}
    assert len(named(spans, "any none")) == 1
    told = "\n".join(span.to_json() for span in spans.get_finished_spans())
    for hidden in (SECRET, key, key.rpartition("_")[2], tenant):
        assert hidden not in told
    assert (
        len(
            embedded.query_rows(
                "SELECT 1 FROM events FINAL WHERE tenant_id = {tenant:String}", {"tenant": tenant}
            )
        )
        == 5
    )


def test_a_question_is_followed_into_the_warehouse(
    world: World, spans: InMemorySpanExporter
) -> None:
    with TestClient(create_app(world.service)) as client:
        secret = {"x-api-key": world.reader}
        path = f"/v1/invoices/{world.invoices[0]['invoice_id']}"
        assert client.get(path, headers=secret).status_code == 200
    (request,) = named(spans, "GET /v1/invoices/{invoice_id}")
    inner = [span for span in spans.get_finished_spans() if span.name.startswith("SELECT ")]
    assert inner
    assert {parent_of(span, spans) for span in inner} == {request.name}
    told = "\n".join(span.to_json() for span in spans.get_finished_spans())
    assert world.reader not in told
    assert world.invoices[0]["invoice_id"] not in told
    # What nobody asked for is no trace of its own.
    spans.clear()
    world.warehouse.query_rows("SELECT 1")
    assert spans.get_finished_spans() == ()


def test_a_failure_is_told_by_its_kind_alone(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match=SECRET), tracing.span("work"):
        raise ValueError(SECRET)
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {}) == {"error.type": "ValueError"}
    assert SECRET not in span.to_json()


@pytest.mark.parametrize("parent", ["", "00-x", f"00-{'0' * 32}-{CALLER}-01", "é" * 60])
def test_a_parent_that_is_none_is_left_out(spans: InMemorySpanExporter, parent: str) -> None:
    with tracing.span("work", parent=parent, links=[parent]):
        pass
    (span,) = spans.get_finished_spans()
    assert (span.parent, list(span.links)) == (None, [])


@pytest.mark.parametrize(
    ("variables", "on"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"}, False),
        ({"OTEL_TRACES_EXPORTER": "of nobody"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
    ],
)
def test_nothing_is_sent_unless_the_environment_says_where_to(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], on: bool
) -> None:
    for name in ("TRACES_EXPORTER", "EXPORTER_OTLP_ENDPOINT", "SDK_DISABLED"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    used = []
    monkeypatch.setattr(tracing, "_decided", False)
    monkeypatch.setattr(tracing, "use", used.append)
    tracing.begin()
    tracing.begin()
    assert len(used) == on
    for provider in used:
        provider.shutdown()


@pytest.mark.parametrize(
    ("protocols", "exporter"),
    [
        ({}, "http"),
        ({"PROTOCOL": "grpc"}, "grpc"),
        ({"TRACES_PROTOCOL": "grpc"}, "grpc"),
        ({"PROTOCOL": "grpc", "TRACES_PROTOCOL": "http/protobuf"}, "http"),
    ],
)
def test_the_protocol_is_that_of_traces_before_that_of_all(
    monkeypatch: pytest.MonkeyPatch, protocols: dict[str, str], exporter: str
) -> None:
    for name in ("PROTOCOL", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name, value in protocols.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    asked = []

    def none_installed(*, group: str, name: str) -> list[object]:
        asked.append((group, name))
        return []

    monkeypatch.setattr(tracing, "entry_points", none_installed)
    monkeypatch.setattr(tracing, "_decided", False)
    tracing.begin()
    assert asked == [("opentelemetry_traces_exporter", f"otlp_proto_{exporter}")]
    assert not tracing.is_on()


def provider_with(monkeypatch: pytest.MonkeyPatch, exporter: Callable[[], Any]) -> list[Any]:
    """Begin with an exporter that the environment names; what was used then."""
    entry = SimpleNamespace(load=lambda: exporter)
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "own")
    monkeypatch.setattr(tracing, "entry_points", lambda **_: [entry])
    monkeypatch.setattr(tracing, "_decided", False)
    used: list[Any] = []
    monkeypatch.setattr(tracing, "use", used.append)
    tracing.begin()
    return used


def test_an_exporter_with_wrong_settings_stops_nothing_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong() -> None:
        raise ValueError("OTEL_EXPORTER_OWN_TIMEOUT must be a number (got 'ten')\nand so on")

    assert provider_with(monkeypatch, wrong) == []
    tracing.begin()
    (record,) = caplog.records
    assert record.getMessage() == (
        "OTEL_*: no traces are sent: the settings are wrong "
        "(ValueError: OTEL_EXPORTER_OWN_TIMEOUT must be a number (got 'ten'))"
    )


def test_a_collector_that_is_away_is_told_once_and_so_is_its_return(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[SpanExportResult | Exception] = []

    class Own(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            super().export(spans)
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    failed = SpanExportResult.FAILURE
    answers += [OSError(SECRET), failed, failed, SpanExportResult.SUCCESS, failed]
    (provider,) = provider_with(monkeypatch, Own)
    told = []
    for _ in range(5):
        with provider.get_tracer("test").start_as_current_span("one"):
            pass
        provider.force_flush()
        told.append([record.getMessage() for record in caplog.records])
        caplog.clear()
    provider.shutdown()
    assert answers == []
    assert told == [
        ["OTEL_*: traces are lost (OSError); all else goes on"],
        [],
        [],
        ["OTEL_*: traces are sent again"],
        ["OTEL_*: traces are lost (they are not taken); all else goes on"],
    ]


def spans_of(body: bytes) -> list[Any]:
    """The spans of a request to a collector."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_the_log_forgets_the_spans_of_what_is_durable_elsewhere(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    try:
        for number in range(3):
            log.append([(b"k", b"1"), (b"k", b"2")], 0, [f"span {number}"])
        log.append([(b"k", b"3")], 0)
        assert log.traced(0, 7) == ("span 0", "span 1", "span 2")
        assert log.traced(2, 4) == ("span 1",)
        log.commit(4)
        assert log.traced(0, 7) == ("span 2",)
        log.commit(7)
        assert log.traced(0, 7) == ()
    finally:
        log.close()


def test_the_log_remembers_no_more_spans_than_one_may_refer_to(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log")
    try:
        for start in (0, 1000):
            log.append([(b"k", b"1")], 0, [f"span {start + n // 2}" for n in range(1000)])
        assert [len(spans) for spans in log._traced.values()] == [MOST_LINKS] * 2
        assert log.traced(0, 2) == tuple(f"span {n}" for n in range(MOST_LINKS))
        assert log.traced(1, 2) == tuple(f"span {1000 + n}" for n in range(MOST_LINKS))
    finally:
        log.close()


class Collector:
    """Takes traces as OTLP over HTTP."""

    def __init__(self) -> None:
        bodies = self.bodies = list[bytes]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer((LOCALHOST, 0), Handler)
        self.url = f"http://{LOCALHOST}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_a_server_sends_its_traces_to_a_collector_also_the_last_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    server = Server(tmp_path, "--clickhouse", f"chdb://{tmp_path / 'data'}")
    server.process._command += ["--catalog", str(server.catalog), "--spool", str(tmp_path / "log")]
    try:
        server.start()
        with server.client() as client:
            assert post(client, events(SECRET, 0, 20)).status_code == 202
        await_usage(server, {"eu": 20})
        assert server.end() == 0
    finally:
        server.process.kill()
        collector.close()
    told = b"".join(collector.bodies)
    for name in (
        b"beammeter",
        b"POST /v1/events/bulk",
        b"accept",
        b"ingest",
        b"INSERT events",
        b"flush",
    ):
        assert name in told
    sent = [span for body in collector.bodies for span in spans_of(body)]
    accepted = {span.span_id for span in sent if span.name == "accept"}
    assert len(accepted) == 1
    for name in ("ingest", "flush"):
        links = {link.span_id for span in sent if span.name == name for link in span.links}
        assert links == accepted, f"{name} knows what brought the events of the local log"
    assert SECRET.encode() not in told
    assert server.key.encode() not in told
