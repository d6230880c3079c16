"""Health that tells the truth, metrics that exist, and files of deploy/ that name them."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from meters.errors import BeammeterError, ConfigurationError, WarehouseUnavailable
from meters.timestamps import format_instant
from meters.zones import microseconds
from service.health import PATIENCE, Monitor, Report
from service.metrics import CONTENT_TYPE, Metrics
from service.metrics_server import metrics_server, parse_address
from service.outcomes import Outcomes
from tests.meters.chain import catalog_of, event, meter
from tests.pipelines.runs import Tenant
from tests.service.world import World
from tests.services.process import LOCALHOST
from transforms.connection import patience
from transforms.kafka_client import Waiting
from transforms.stream_counts import STATS
from warehouse.client import Warehouse
from warehouse.ownership import Progress, write_progress
from warehouse.stats import SHARD, SINK, Stats, insert_stats

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bbeammeter_[a-z_]+\b")


@pytest.fixture
def name() -> str:
    return f"tenant-{uuid.uuid4().hex}"


def progress(warehouse: Warehouse, tenant: str, at: datetime, *, owned: bool = True) -> None:
    now = microseconds(at)
    row = Progress(1, 0, now, owned, now, watermark=now - 10_000_000)
    write_progress(warehouse, tenant, [row])


def monitor(warehouse: Warehouse, tenant: str, at: datetime, lag: int | None = None) -> Monitor:
    waiting = None if lag is None else Waiting(lag)
    return Monitor(warehouse, tenant, clock=lambda: at, waiting=lambda _: waiting)


def test_a_stream_that_is_silent_is_not_ready(embedded: Warehouse, name: str) -> None:
    now = datetime.now(UTC)
    progress(embedded, name, now)
    heard = monitor(embedded, name, now + PATIENCE / 2).report()
    assert heard.ok
    assert [check.detail for check in heard.checks if check.name == "stream"] == [
        "1 shard, heard 30 s ago"
    ]
    late = monitor(embedded, name, now + PATIENCE * 2).report()
    assert [check.name for check in late.checks if not check.ok] == ["stream"]
    progress(embedded, name, now + timedelta(seconds=1), owned=False)
    assert monitor(embedded, name, now + PATIENCE * 2).report().ok


def test_events_that_wait_while_nothing_is_read_are_a_failure(
    embedded: Warehouse, name: str
) -> None:
    now = datetime.now(UTC)
    sent = now - PATIENCE / 2

    def report(at: datetime) -> Report:
        def waiting(before: datetime) -> Waiting:
            return Waiting(5, overdue=sent < before)

        return Monitor(embedded, name, clock=lambda: at, waiting=waiting).report()

    assert report(now).ok
    # What a shard or a worker notes of its own is no sign that anything was read.
    own = [Stats(f"{kind}0", 1, microseconds(now), late=1) for kind in (SHARD, SINK)]
    insert_stats(embedded, name, own)
    late = report(now + PATIENCE * 0.6)
    assert [check.name for check in late.checks if not check.ok] == ["lag"]
    insert_stats(embedded, name, [Stats("t/0", 1, microseconds(now), read=1, accepted=1)])
    assert report(now + PATIENCE * 0.6).ok
    # It was behind and reads no more.
    assert not report(now + PATIENCE * 2).ok


def test_work_of_the_sink_and_delays_are_added_up(embedded: Warehouse, name: str) -> None:
    now = datetime.now(UTC)
    at = microseconds(now)
    empty = monitor(embedded, name, now).report().to_dict()
    assert empty["usage_delay_seconds"]["flushes"] == 0
    rows = [Stats("t/0", 1, at, read=10, accepted=8, quarantined=2, rounded=4)]
    rows += [
        Stats(f"{SINK}a", at, at, sink_rows=7, sink_retries=2, usage_delay_ms=1500),
        Stats(f"{SINK}b", at, at, sink_rows=5, usage_delay_ms=500),
        Stats(f"{SINK}b", at + 1, at, sink_retries=1),
    ]
    insert_stats(embedded, name, rows)
    progress(embedded, name, now)
    found = monitor(embedded, name, now + timedelta(seconds=5)).report().to_dict()
    assert found["sink"] == {"rows": 12, "retries": 3}
    assert found["usage_delay_seconds"] | {"median": 0} == {
        "flushes": 2,
        "median": 0,
        "p95": 1.5,
        "most": 1.5,
    }
    assert (found["success_rate"], found["counts"]["batches"]) == ("0.8000", 1)
    assert found["counts"]["rounded"] == 4
    told = Metrics(name, monitor(embedded, name, now)).text().decode()
    assert f'beammeter_recent_rounded_numbers{{tenant="{name}"}} 4.0' in told
    assert (found["silent_seconds"], found["watermark_lag_seconds"]) == (5, 15)


def test_rows_of_files_tell_nothing_of_the_delay(
    embedded: Warehouse, embedded_url: str, name: str, tmp_path: Path
) -> None:
    tenant = Tenant(embedded, embedded_url, name, catalog_of(meter("sum"), zone="UTC"), tmp_path)
    now = datetime.now(UTC)
    tenant.backfill([event(1, properties={"x": 1})])
    assert tenant.usage()
    assert monitor(embedded, name, now).report().to_dict()["delay_seconds"]["events"] == 0
    sent = format_instant(now - timedelta(hours=1))
    tenant.store([event(2, properties={"x": 1}, ingested_at=sent)])
    found = monitor(embedded, name, now).report().to_dict()["delay_seconds"]
    assert found["events"] == 1
    assert found["most"] >= 3600


def test_a_retry_is_counted_for_its_own_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.connection.time.sleep", lambda _: None)
    left = [WarehouseUnavailable("away")] * 3

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    job = uuid.uuid4().hex
    assert patience(job).run(action) == "done"
    assert [stats.sink_retries for stats in STATS.take(job)] == [3]
    assert STATS.take(job) == []


def test_a_broker_that_is_away_is_said(embedded: Warehouse, name: str) -> None:
    def away(_: datetime) -> Waiting:
        raise BeammeterError("the broker does not answer")

    found = Monitor(embedded, name, clock=lambda: datetime.now(UTC), waiting=away).report()
    failing = [(check.name, check.detail) for check in found.checks if not check.ok]
    assert failing == [("lag", "the broker does not answer")]


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


def test_a_stream_tells_metrics_and_health_by_itself(embedded: Warehouse, name: str) -> None:
    now = datetime.now(UTC)
    progress(embedded, name, now)
    clock = [now]
    found = Monitor(embedded, name, clock=lambda: clock[0])
    with metrics_server((LOCALHOST, 0), name, found) as port:
        with httpx2.Client(base_url=f"http://{LOCALHOST}:{port}") as client:
            told = client.get("/metrics")
            assert f'beammeter_check_ok{{check="stream",tenant="{name}"}} 1.0' in told.text
            assert told.headers["content-type"] == CONTENT_TYPE
            assert client.get("/readyz").json()["status"] == "ok"
            assert client.get("/healthz").status_code == 200
            assert client.get(f"/{name}").status_code == 404
            assert client.post("/metrics").status_code == 501
        clock[0] = now + 2 * PATIENCE
        late = Monitor(embedded, name, clock=lambda: clock[0])
        with metrics_server((LOCALHOST, 0), name, late) as other:
            got = httpx2.get(f"http://{LOCALHOST}:{other}/readyz")
            assert (got.status_code, got.json()["status"]) == (503, "failing")
            assert "detail" not in got.text
        with (
            pytest.raises(BeammeterError, match="must be free"),
            metrics_server((LOCALHOST, port), name, late),
        ):
            pass


def test_where_metrics_are_told_is_this_machine_unless_said_otherwise() -> None:
    assert parse_address("9100") == ("127.0.0.1", 9100)
    assert parse_address("0.0.0.0:9100") == ("0.0.0.0", 9100)
    assert parse_address("[::1]:9100") == ("::1", 9100)
    for wrong in ("", "x", "9100:", "1:70000", "localhost:-1", ":9.1"):
        with pytest.raises(ConfigurationError, match="HOST"):
            parse_address(wrong)


def exported(world: World) -> set[str]:
    """The names of all metrics, with something of everything to tell."""
    full = f"tenant-{uuid.uuid4().hex}"
    now = datetime.now(UTC)
    progress(world.warehouse, full, now)
    worked = Stats(f"{SINK}a", 1, microseconds(now), usage_delay_ms=1)
    insert_stats(world.warehouse, full, [worked])
    seen = monitor(world.warehouse, full, now, lag=3)
    outcomes = Outcomes()
    outcomes.refuse("invalid_json")
    metrics = type(world.service.metrics)(full, seen, outcomes)
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
    assert (found["sent"], found["delivery_rate"]) == (None, None)
