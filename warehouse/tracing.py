"""Spans of OpenTelemetry, for all layers: off unless a process was told where to send them.

    POST /v1/events --> accept --> header `traceparent` of the request's first message
                                                    : linked
    ingest (a bundle) --> INSERT events ............:
    flush (shards)    --> INSERT usage .............:
    GET /v1/usage     --> SELECT usage

Needs the extra `otel`; the variables of the environment are OpenTelemetry's own (`OTEL_*`).
A span says how long something took, of how much, and whether it failed. It never holds what
was sent: no key, no value, no id of a customer or an event, no path, no parameter of a
statement. While tracing is off, a span costs a comparison.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import entry_points
from typing import Any

_LOG = logging.getLogger(__name__)

MOST_LINKS = 32
"""Spans that one may refer to; the first ones, where there are more."""

_NOTHING = nullcontext()
_guard = threading.Lock()

Value = str | int
Traced = str
"""The W3C `traceparent` of a span."""

TRACED_LENGTH = 55

_tracer: Any = None
_decided = False


def begin() -> None:
    """Start to send spans where the environment says where to; once a process.

    An endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, or that of `_TRACES_`) or an exporter
    (`OTEL_TRACES_EXPORTER`) must be named. What is missing or wrong is said in the log, and
    nothing is sent: traces are never worth a process that does not start.
    """
    global _decided
    with _guard:
        if _decided:
            return
        _decided = True
        name = _exporter_name()
        if name is None:
            return
        try:
            use(_provider(name))
        except ImportError as error:
            _LOG.warning("OTEL_*: no traces are sent: install beammeter[otel] (%s)", error)
        except Exception as error:
            # Exporters of anybody read settings of their own, and raise what they like.
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            _LOG.warning("OTEL_*: no traces are sent: the settings are wrong (%s)", reason)


def use(provider: Any) -> None:
    """Give spans to a provider of tracers; None ends it."""
    global _tracer
    _tracer = None if provider is None else provider.get_tracer("beammeter")


def is_on() -> bool:
    """Whether spans are made at all."""
    return _tracer is not None


def span(
    name: str,
    attributes: Mapping[str, Value] | None = None,
    *,
    kind: str = "internal",
    parent: Traced | None = None,
    links: Sequence[Traced] = (),
    since: int | None = None,
) -> AbstractContextManager[Any]:
    """A span around the block, which gets it, or None where tracing is off.

    `kind` is OpenTelemetry's (`server`, `client`, `producer`, `consumer`, `internal`).
    Without a `parent` it is within the span around it. Of `links` the first ones are kept.
    `since` is when it began, in microseconds.
    """
    if _tracer is None:
        return _NOTHING
    return _span(name, attributes, kind, parent, links, since)


def within(name: str, attributes: Mapping[str, Value], kind: str) -> AbstractContextManager[Any]:
    """As `span`, for what is only of interest as a part of another one: else there is none."""
    if _tracer is None or current() is None:
        return _NOTHING
    return _span(name, attributes, kind, None, (), None)


def current() -> Traced | None:
    """The span around the caller, for what is done on its behalf elsewhere.

    None where there is none, or where it is not recorded.
    """
    if _tracer is None:
        return None
    from opentelemetry import trace

    found = trace.get_current_span()
    context = found.get_span_context()
    if not found.is_recording() or not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def _span(
    name: str,
    attributes: Mapping[str, Value] | None,
    kind: str,
    parent: Traced | None,
    links: Sequence[Traced],
    since: int | None,
) -> Iterator[Any]:
    from opentelemetry import trace

    around = None
    if parent is not None and (remote := _context_of(parent)) is not None:
        around = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    linked = [_context_of(each) for each in list(dict.fromkeys(links))[:MOST_LINKS]]
    tracer = _tracer
    if tracer is None:
        yield None
        return
    with tracer.start_as_current_span(
        name,
        context=around,
        kind=trace.SpanKind[kind.upper()],
        attributes=dict(attributes or {}),
        links=[trace.Link(each) for each in linked if each is not None],
        start_time=None if since is None else since * 1000,
        # Its text may hold what was sent: the name of its kind has to do.
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            made.set_attribute("error.type", type(error).__name__)
            made.set_status(trace.StatusCode.ERROR)
            raise


def _context_of(traced: Traced) -> Any:
    """The W3C `traceparent` as a context; None where it is none."""
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    read = TraceContextTextMapPropagator().extract({"traceparent": traced})
    context = trace.get_current_span(read).get_span_context()
    return context if context.is_valid and context.is_remote else None


def _exporter_name() -> str | None:
    """The exporter of the environment by OpenTelemetry's names; None where none is asked for."""
    told = os.environ.get
    name = told("OTEL_TRACES_EXPORTER", "").strip()
    endpoint = told("OTEL_EXPORTER_OTLP_ENDPOINT") or told("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if told("OTEL_SDK_DISABLED", "").strip().lower() == "true" or name == "none":
        return None
    return name or ("otlp" if endpoint else None)


def _provider(name: str) -> Any:
    """What sends spans in the background. Raises ImportError where a part is not installed."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if name == "otlp":
        told = os.environ.get
        protocol = told("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or told("OTEL_EXPORTER_OTLP_PROTOCOL")
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = list(entry_points(group="opentelemetry_traces_exporter", name=name))
    if not found:
        raise ImportError(f"no exporter has the name {name!r}")
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "beammeter"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(_Told(found[0].load()())))
    return provider


class _Told:
    """An exporter whose failures are told once, when they begin, and once when they are over.

    What the exporter itself logs is of its own kind, at each batch, and may hold its URL.
    """

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self._fails = False

    def export(self, spans: Sequence[Any]) -> Any:
        """Send them; what cannot be sent is dropped."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        reason = "they are not taken"
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            reason = type(error).__name__
            result = SpanExportResult.FAILURE
        fails = result is not SpanExportResult.SUCCESS
        if fails and not self._fails:
            _LOG.warning("OTEL_*: traces are lost (%s); all else goes on", reason)
        elif self._fails and not fails:
            _LOG.warning("OTEL_*: traces are sent again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        """Nothing more comes."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Whether nothing waits in it."""
        return bool(self._exporter.force_flush(timeout_millis))
