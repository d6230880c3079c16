"""`beammeter status` says what /readyz says, to people and to programs, and by its exit code."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from meters.zones import microseconds
from runners.cli import main
from service.health import PATIENCE, Report
from service.outcomes import Outcomes, share
from service.settings import Limits
from tests.service.servers import Server, events, post
from tests.service.sites import Site, site
from tests.services.process import LOCALHOST, free_port
from warehouse.client import Warehouse
from warehouse.ownership import Progress, write_progress
from warehouse.stats import SINK, Stats, insert_stats


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def said(
    embedded: Warehouse, embedded_url: str, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `status` on the warehouse of this process; gives exit code and stdout."""

    def run(tenant: str, *words: str) -> tuple[int, str]:
        code = main(["status", "--clickhouse", embedded_url, "--tenant", tenant, *words])
        return code, capsys.readouterr().out

    return run


def heard(warehouse: Warehouse, tenant: str, at: datetime) -> None:
    now = microseconds(at)
    write_progress(warehouse, tenant, [Progress(1, 0, now, True, now, watermark=now)])


def test_what_works_and_what_stands_still(
    embedded: Warehouse, tenant: str, said: Callable[..., tuple[int, str]]
) -> None:
    now = datetime.now(UTC)
    at = microseconds(now)
    rows = [
        Stats("t/0", 1, at, read=1000, accepted=990, quarantined=10, duplicate=3, rounded=8),
        Stats(f"{SINK}a", 1, at, sink_rows=77, sink_retries=4, usage_delay_ms=250),
    ]
    insert_stats(embedded, tenant, rows)
    heard(embedded, tenant, now)
    code, text = said(tenant)
    assert code == 0
    assert text.startswith("ok at ")
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert lines >= {
        "processing success rate 0.9900",
        "events read 1000",
        "events duplicate 3",
        "numbers rounded to 12 decimals 8",
        "rows written 77",
        "writes tried again 4",
        "seconds to usage, p95 0.25",
        "shards that own buckets 1",
    }
    silent = f"tenant-{uuid.uuid4().hex}"
    heard(embedded, silent, now - 3 * PATIENCE)
    code, text = said(silent)
    assert code == 1, text
    assert text.startswith("failing at ")
    assert "FAILS" in text
    code, text = said(silent, "--format", "json")
    found = json.loads(text)
    assert (code, found["status"]) == (1, "failing")
    assert [check["name"] for check in found["checks"] if not check["ok"]] == ["stream"]
    code, text = said(silent, "--format", "csv")
    table = {row["name"]: row["value"] for row in csv.DictReader(io.StringIO(text))}
    assert (code, table["status"], table["check stream"]) == (1, "failing", "failing")
    assert int(table["seconds that the watermark is behind"]) >= 3 * PATIENCE.seconds


def test_a_warehouse_that_is_away_is_red_and_one_that_is_not_there_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"clickhouse://{LOCALHOST}:{free_port()}/db"
    assert main(["status", "--clickhouse", away, "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(check["name"], check["ok"]) for check in found["checks"]] == [("warehouse", False)]
    assert main(["status", "--clickhouse", f"chdb://{tmp_path / 'none'}"]) == 2
    assert not (tmp_path / "none").exists()


def test_a_server_with_its_own_pipeline_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(tmp_path, "--clickhouse", f"chdb://{tmp_path / 'data'}")
    server.process._command += ["--catalog", str(server.catalog), "--spool", str(tmp_path / "log")]
    ask = ["status", "--server", server.url, "--format", "json"]
    monkeypatch.delenv("BEAMMETER_API_KEY", raising=False)
    assert main(ask) == 2
    monkeypatch.setenv("BEAMMETER_API_KEY", server.key)
    assert main(ask) == 1
    assert "must answer" in capsys.readouterr().err
    server.start()
    try:
        with server.client() as client:
            assert post(client, [*events("a", 0, 20), {"event_name": "x"}]).status_code == 207
        until = time.monotonic() + 120
        while True:
            assert main(ask) == 0
            found = json.loads(capsys.readouterr().out)
            # Usage that was flushed and counted, and a watermark that was told.
            flushed = found["usage_delay_seconds"]["flushes"] and found["lag"] == 0
            if flushed and found["watermark_lag_seconds"] is not None:
                break
            assert time.monotonic() < until, found
            time.sleep(0.3)
        assert found["sent"] == {"accepted": 20, "refused": 1, "failed": 0}
        assert (found["delivery_rate"], found["success_rate"]) == ("1.0000", "1.0000")
        assert found["sink"]["rows"] >= 21
        assert found["usage_delay_seconds"]["most"] >= found["usage_delay_seconds"]["median"] > 0
    finally:
        server.process.kill()


def test_the_key_goes_to_no_other_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("location", f"http://{LOCALHOST}:{place.server_port}/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    place = HTTPServer((LOCALHOST, 0), Elsewhere)
    Thread(target=place.serve_forever, daemon=True).start()
    monkeypatch.setenv("BEAMMETER_API_KEY", "secret-key")
    try:
        assert main(["status", "--server", f"http://{LOCALHOST}:{place.server_port}"]) == 1
    finally:
        place.shutdown()
        place.server_close()
    assert asked == ["/v1/status"]
    assert "secret-key" not in capsys.readouterr().err
    assert main(["status", "--server", "file:///etc/passwd"]) == 2
    assert main(["status", "--server", "http://x", "--clickhouse", "chdb:///x"]) == 2


def test_outcomes_are_of_the_last_five_minutes() -> None:
    clock = [1000.0]
    outcomes = Outcomes(lambda: clock[0])
    outcomes.count(accepted=5, refused=1)
    clock[0] += 200
    outcomes.count(failed=2)
    assert outcomes.recent == {"accepted": 5, "refused": 1, "failed": 2}
    clock[0] += 200
    assert outcomes.recent == {"accepted": 0, "refused": 0, "failed": 2}
    outcomes.count(accepted=1)
    assert outcomes.totals == {"accepted": 6, "refused": 1, "failed": 2}
    assert (share(0, 0), share(2, 1), share(0, 4)) == (None, "0.6666", "0.0000")


def test_what_a_server_does_with_events_is_counted(here: Site) -> None:
    good = {"event_name": "call", "external_customer_id": "acme", "event_id": "1"}
    bulk = {"events": [good, {"event_name": "call"}, {**good, "event_id": "2"}]}
    assert here.post("/v1/events/bulk", bulk).status_code == 207
    assert here.post("/v1/events", {"event_name": "call"}).status_code == 400
    here.sink.fails = lambda record: b'"bad"' in record[1]
    assert here.post("/v1/events/bulk", {"events": [good, {**good, "event_id": "bad"}]})
    here.sink.refuses = "too much waits"
    assert here.post("/v1/events", good).status_code == 503
    outcomes = here.service.outcomes
    assert outcomes is not None
    assert outcomes.recent == {"accepted": 3, "refused": 2, "failed": 2}
    assert outcomes.recent_refused_requests == {}, "their events are known"
    text = here.service.metrics.text().decode()
    assert 'beammeter_sent_events_total{outcome="failed"} 2.0' in text


def test_requests_whose_events_nobody_knows_are_counted_by_what_was_wrong(tmp_path: Path) -> None:
    good = {"event_name": "call", "external_customer_id": "acme", "event_id": "1"}
    with site(tmp_path, limits=Limits(body=1000, events=2)) as here:
        outcomes = here.service.outcomes
        assert outcomes is not None
        for path in ("/v1/events", "/v1/events/bulk", "/api/v1/events", "/api/v1/events/batch"):
            assert here.post(path, b"no json").status_code in (400, 422)
        assert here.post("/v1/events", {**good, "source": "x" * 1000}).status_code == 413
        assert here.post("/v1/events/bulk", {"events": [good] * 3}).status_code == 413
        assert here.post("/v1/events", good, "text/plain").status_code == 415
        assert here.post("/v1/events", b"x", content_encoding="gzip").status_code == 400
        here.service.room.held = 1 << 40
        assert here.post("/v1/events", good).status_code == 503
        here.service.room.held = 0
        wanted = {
            "invalid_encoding": 1,
            "invalid_json": 4,
            "too_large": 1,
            "too_many_events": 1,
            "unsupported_content_type": 1,
        }
        assert outcomes.recent_refused_requests == wanted
        # What is turned away for want of room may be sent again, so it is one event that failed.
        assert outcomes.recent == {"accepted": 0, "refused": 0, "failed": 1}
        assert here.post("/v1/events", good).status_code == 202
        assert here.client.post("/v1/events", content=b"no json").status_code == 401
        assert outcomes.refused_requests == wanted, "without a key nothing is looked at"
        assert 'beammeter_refused_requests_total{code="invalid_json"} 4.0' in (
            here.service.metrics.text().decode()
        )
        report = Report(datetime.now(UTC), (), None, None).to_dict(outcomes)
        assert (report["refused_requests"], report["delivery_rate"]) == (wanted, "0.5000")


def test_refused_requests_are_of_the_last_five_minutes() -> None:
    clock = [1000.0]
    outcomes = Outcomes(lambda: clock[0])
    outcomes.refuse("too_large")
    clock[0] += 200
    outcomes.refuse("invalid_json")
    clock[0] += 200
    assert outcomes.recent_refused_requests == {"invalid_json": 1}
    assert outcomes.refused_requests == {"invalid_json": 1, "too_large": 1}
