"""Metrics for Prometheus: requests of this process, and the pipeline as the warehouse has it.

    GET /metrics    requests by route, method and status; their duration
                    the pipeline's condition (`service.health`), looked at when asked

The stream runs in other processes, on other machines; what it leaves in the warehouse is
the same for all, and says more than a worker that is gone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.health import Monitor, Report
from warehouse.pulse import COUNTS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one server."""

    def __init__(self, tenant: str, monitor: Monitor | None) -> None:
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
        if monitor is not None:
            self.registry.register(_Pipeline(tenant, monitor))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)


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
        dirty = self._family("dirty_marks", "Marks that wait for a repair.", "reason")
        for reason, number in found.dirty.items():
            dirty.add_metric([self._tenant, reason], number)
        yield dirty
        refused = self._family("quarantined_events", "Refused events that are open.", "reason")
        for reason, number in found.quarantined.items():
            refused.add_metric([self._tenant, reason], number)
        yield refused
        delay = self._family(
            "stored_delay_seconds",
            "From arrival to the stored raw row, of the last five minutes.",
            "quantile",
        )
        if found.delay.events:
            for name, value in (
                ("0.5", found.delay.median),
                ("0.95", found.delay.p95),
                ("1", found.delay.most),
            ):
                delay.add_metric([self._tenant, name], value)
        yield delay
        yield self._one("owned_shards", "Shards that own buckets.", len(found.shards))
        if found.shards:
            silent = max((found.at - each.seen_at).total_seconds() for each in found.shards)
            yield self._one("silent_seconds", "Since a shard was heard last.", silent)
            behind = max((found.at - each.closed_until).total_seconds() for each in found.shards)
            yield self._one(
                "closed_lag_seconds",
                "How far closed buckets are behind: the allowed lateness and the watermark's lag.",
                behind,
            )

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
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if route != "none" else "any"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route, method).observe(time.perf_counter() - began)
