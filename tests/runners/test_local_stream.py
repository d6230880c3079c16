"""The pipeline inside `beammeter serve` says the truth of how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meters.errors import BeammeterError
from runners import local_stream
from runners.local_stream import LocalStream
from runners.serve import ServeCommand, _local
from service.settings import Settings
from tests.meters.chain import catalog_of, meter
from transforms.event_log import EventLog
from warehouse.client import Warehouse

CATALOG = catalog_of(meter("sum"))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    opened = EventLog(tmp_path / "log")
    yield opened
    opened.close()


@pytest.fixture
def stream(
    log: EventLog, embedded: Warehouse, embedded_url: str, tenant: str
) -> Iterator[LocalStream]:
    made = LocalStream(log, embedded, embedded_url, tenant, CATALOG)
    yield made
    made.stop()


def rounds(monkeypatch: pytest.MonkeyPatch, each: Callable[[], None]) -> None:
    """Let a round do nothing but this; it reads nothing."""
    monkeypatch.setattr(local_stream, "run", lambda *_: each())
    monkeypatch.setattr(local_stream, "_IDLE_SECONDS", 0.1)


def fail() -> None:
    raise BeammeterError("the warehouse is away")


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_stream_that_has_done_all_says_so(
    stream: LocalStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds(monkeypatch, lambda: None)
    stream.start()
    until(lambda: stream._rounds > 0)
    assert not stream.has_ended
    assert stream.stop()
    assert stream.has_ended


def test_last_rounds_that_fail_are_not_done_and_not_tried_again(
    stream: LocalStream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds(monkeypatch, lambda: fail() if stream._stop.is_set() else None)
    stream.start()
    until(lambda: stream._rounds > 0)
    with caplog.at_level(logging.WARNING):
        assert not stream.stop()
    assert stream.has_ended
    assert caplog.messages == ["the pipeline stopped: the warehouse is away"]


def test_a_stream_that_is_stopped_while_it_waits_after_a_failure_is_not_done(
    stream: LocalStream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rounds(monkeypatch, fail)
    with caplog.at_level(logging.WARNING):
        stream.start()
        until(lambda: bool(caplog.messages))
        assert not stream.stop()
    assert stream.has_ended
    assert caplog.messages == ["the pipeline stopped: the warehouse is away; trying again"]


def test_what_the_last_rounds_have_not_read_is_not_done(
    stream: LocalStream, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_stream, "_LAST_ROUNDS", 2)
    rounds(monkeypatch, lambda: None)
    stream.start()
    log.append([(b"t/c", b"{}")], 0)
    assert not stream.stop()
    assert stream.has_ended
    assert stream.problem is None


def test_a_log_is_free_where_its_stream_has_failed_at_the_end(
    embedded: Warehouse,
    embedded_url: str,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rounds(monkeypatch, fail)
    folder = tmp_path / "spool"
    command = ServeCommand(
        "127.0.0.1", 0, tenant, None, "", None, str(folder), 1.0, None, None, None
    )
    with _local(command, Settings(), embedded, embedded_url, CATALOG) as (_, stream):
        until(lambda: stream.problem is not None)
    said = capsys.readouterr().err
    assert "the pipeline has failed: what it has not counted waits in" in said
    EventLog(folder).close()
