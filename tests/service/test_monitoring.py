"""Health that tells the truth, metrics that exist, and files of deploy/ that name them."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from meters.errors import BeammeterError
from meters.zones import microseconds
from service.health import PATIENCE, Monitor
from tests.service.world import World
from warehouse.client import Warehouse
from warehouse.ownership import Progress, write_progress
from warehouse.stats import Stats, insert_stats

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bbeammeter_[a-z_]+\b")


@pytest.fixture
def name() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def progress(warehouse: Warehouse, tenant: str, at: datetime, *, owned: bool = True) -> None:
    row = Progress(1, 0, microseconds(at), owned, microseconds(at))
    write_progress(warehouse, tenant, [row])


def monitor(warehouse: Warehouse, tenant: str, at: datetime, lag: int | None = None) -> Monitor:
    return Monitor(warehouse, tenant, clock=lambda: at, lag=lambda: lag)


def test_a_stream_that_is_silent_is_not_ready(embedded: Warehouse, name: str) -> None:
    now = datetime.now(UTC)
    progress(embedded, name, now)
    assert monitor(embedded, name, now + PATIENCE / 2).report().ok
    late = monitor(embedded, name, now + PATIENCE * 2).report()
    assert [check.name for check in late.checks if not check.ok] == ["stream"]
    progress(embedded, name, now + timedelta(seconds=1), owned=False)
    assert monitor(embedded, name, now + PATIENCE * 2).report().ok


def test_events_that_wait_while_nothing_is_read_are_a_failure(
    embedded: Warehouse, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.health._FRESH_SECONDS", -1)
    now = datetime.now(UTC)
    clock = [now]
    found = Monitor(embedded, name, clock=lambda: clock[0], lag=lambda: 5)
    assert found.report().ok
    clock[0] = now + PATIENCE * 2
    late = found.report()
    assert [check.name for check in late.checks if not check.ok] == ["lag"]
    insert_stats(embedded, name, [Stats("t/0", 1, microseconds(now), read=1, accepted=1)])
    assert found.report().ok


def test_a_broker_that_is_away_is_said(embedded: Warehouse, name: str) -> None:
    def away() -> int:
        raise BeammeterError("the broker does not answer")

    found = Monitor(embedded, name, clock=lambda: datetime.now(UTC), lag=away).report()
    assert [check.detail for check in found.checks if not check.ok] == [
        "the broker does not answer"
    ]


def test_readyz_turns_red_and_needs_no_key(world: World) -> None:
    assert world.client.get("/readyz").status_code == 200
    now = datetime.now(UTC)
    before = world.service.monitor
    try:
        silent = f"tenant-{uuid.uuid4().hex}"
        progress(world.warehouse, silent, now - PATIENCE * 3)
        world.service.monitor = monitor(world.warehouse, silent, now)
        got = world.client.get("/readyz")
        assert got.status_code == 503
        assert got.json()["status"] == "failing"
        assert "detail" not in got.text
    finally:
        world.service.monitor = before


def exported(world: World) -> set[str]:
    """The names of all metrics, with something of everything to tell."""
    full = f"tenant-{uuid.uuid4().hex}"
    now = datetime.now(UTC)
    progress(world.warehouse, full, now)
    metrics = type(world.service.metrics)(full, monitor(world.warehouse, full, now, lag=3))
    metrics.requests.labels("/x", "GET", "200").inc()
    metrics.seconds.labels("/x", "GET").observe(0.1)
    return {
        sample.name
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    } | {family.name for family in text_string_to_metric_families(metrics.text().decode())}


def test_every_metric_that_deploy_names_exists(world: World) -> None:
    known = exported(world)
    rules = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    expressions += [
        target["expr"] for panel in board["panels"] for target in panel.get("targets", [])
    ]
    named = {name for text in expressions for name in NAME.findall(text)}
    assert len(named) > 8
    assert named <= known


def test_metrics_count_requests_by_route_and_hold_no_id(world: World) -> None:
    world.get("/v1/invoices/secret-id")
    text = world.get("/metrics").text
    assert 'route="/v1/invoices/{invoice_id}"' in text
    assert "secret-id" not in text
    assert world.client.get("/metrics").status_code == 401
    assert world.get("/metrics", key=world.key("read", tenant="other")).status_code == 403


def test_the_status_says_what_the_checks_found(world: World) -> None:
    found = world.read("/v1/status")
    assert found["status"] == "ok"
    assert {check["name"] for check in found["checks"]} == {"warehouse", "stream", "lag"}
    assert found["quarantined"]["invalid_timestamp"] == 1
    assert replace(world.service.settings).tenant == world.tenant.name
