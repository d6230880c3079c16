"""Metrics for Prometheus: requests of this process, and the pipeline as the warehouse has it.

    GET /metrics    requests by route, method and status; their duration
                    events by what became of them at this server, and requests that had none
                    the pipeline's condition (`service.health`), looked at when asked

The stream runs in other processes, on other machines; what it leaves in the warehouse is
the same for all, and says more than a worker that is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Receive, Scope, Send

from service.answered import answered
from service.health import Monitor, Report
from service.outcomes import Outcomes
from warehouse.condition import Delay
from warehouse.pulse import COUNTS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one server."""

    def __init__(
        self, tenant: str, monitor: Monitor | None, outcomes: Outcomes | None = None
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "beammeter_http_requests",
            "Requests that were answered.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "beammeter_http_request_seconds",
            "How long answers took.",
            ("route", "method"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        if outcomes is not None:
            self.registry.register(_Sent(outcomes))
        if monitor is not None:
            self.registry.register(_Pipeline(tenant, monitor))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)


class _Sent:
    """What became of the events and requests that were sent to this server; a collector."""

    def __init__(self, outcomes: Outcomes) -> None:
        self._outcomes = outcomes

    def collect(self) -> Iterator[Metric]:
        """The counts since the start."""
        text = "Events that were sent to this server, by what became of them."
        family = CounterMetricFamily("beammeter_sent_events", text, labels=("outcome",))
        for name, number in self._outcomes.totals.items():
            family.add_metric([name], number)
        yield family
        text = "Requests for events that were refused before their events were known, by code."
        family = CounterMetricFamily("beammeter_refused_requests", text, labels=("code",))
        for code, number in self._outcomes.refused_requests.items():
            family.add_metric([code], number)
        yield family


class _Pipeline:
    """The condition of a tenant's pipeline; a collector."""

    def __init__(self, tenant: str, monitor: Monitor) -> None:
        self._tenant = tenant
        self._monitor = monitor

    def describe(self) -> Iterable[Metric]:
        """Nothing: the warehouse is not asked before somebody asks this."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What is known now; a metric that is not known is left out."""
        report = self._monitor.report()
        checks = self._family("check_ok", "Whether a check of /readyz holds (1) or not.", "check")
        for check in report.checks:
            checks.add_metric([self._tenant, check.name], int(check.ok))
        yield checks
        yield from self._condition(report)

    def _condition(self, report: Report) -> Iterator[Metric]:
        if report.lag is not None:
            yield self._one("waiting_events", "Events that wait to be read.", report.lag)
        found = report.condition
        if found is None:
            return
        counts = self._family(
            "recent_events", "Events of the last five minutes by what became of them.", "result"
        )
        for name in COUNTS:
            counts.add_metric([self._tenant, name], found.counts[name])
        yield counts
        yield self._one(
            "recent_batches", "Batches of the last five minutes.", found.counts["batches"]
        )
        yield self._one(
            "recent_rounded_numbers",
            "Numbers of the last five minutes that lost digits beyond the 12th decimal place.",
            found.counts["rounded"],
        )
        dirty = self._family("dirty_marks", "Marks that wait for a repair.", "reason")
        for reason, number in found.dirty.items():
            dirty.add_metric([self._tenant, reason], number)
        yield dirty
        refused = self._family("quarantined_events", "Refused events that are open.", "reason")
        for reason, number in found.quarantined.items():
            refused.add_metric([self._tenant, reason], number)
        yield refused
        yield self._delay(
            "stored_delay_seconds", "From acceptance to the stored raw row.", found.stored
        )
        yield self._delay(
            "usage_delay_seconds",
            "From acceptance to usage that can be read: each flush by its slowest event.",
            found.usage,
        )
        yield self._one(
            "recent_sink_rows",
            "Rows that the stream wrote in the last five minutes.",
            found.sink_rows,
        )
        yield self._one(
            "recent_sink_retries",
            "Statements of the stream that were tried again in the last five minutes.",
            found.sink_retries,
        )
        yield self._one("owned_shards", "Shards that own buckets.", len(found.shards))
        for name, text, seconds in (
            ("silent_seconds", "Since a shard was heard last.", report.silent_seconds),
            (
                "watermark_lag_seconds",
                "How far the watermark is behind the clock.",
                report.watermark_lag_seconds,
            ),
            (
                "closed_lag_seconds",
                "How far closed buckets are behind: the allowed lateness and the watermark's lag.",
                report.closed_lag_seconds,
            ),
        ):
            if seconds is not None:
                yield self._one(name, text, seconds)

    def _delay(self, name: str, text: str, found: Delay) -> GaugeMetricFamily:
        family = self._family(name, f"{text} Of the last five minutes.", "quantile")
        if found.number:
            for quantile, value in (("0.5", found.median), ("0.95", found.p95), ("1", found.most)):
                family.add_metric([self._tenant, quantile], value)
        return family

    def _family(self, name: str, text: str, label: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"beammeter_{name}", text, labels=("tenant", label))

    def _one(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"beammeter_{name}", text, labels=("tenant",))
        family.add_metric([self._tenant], value)
        return family


class CountRequests:
    """Middleware that counts answers by route, so that ids in paths make no series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        def told(route: str, method: str, status: int) -> None:
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route, method).observe(time.perf_counter() - began)

        await answered(self._app, scope, receive, send, told)
