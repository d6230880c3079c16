"""What only a server can do: be away, be busy, refuse a user, lack a database."""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Callable, Iterator
from urllib.request import Request, urlopen

import pytest

from meters.errors import ConfigurationError, WarehouseError, WarehouseUnavailable
from tests.warehouse.rows import event, events
from warehouse.client import Warehouse
from warehouse.failures import Retries
from warehouse.writes import insert_events

Fault = Callable[..., None]


@pytest.fixture
def fault(front_port: int) -> Iterator[Fault]:
    def ask(**fields: int) -> None:
        query = "&".join(f"{name}={value}" for name, value in fields.items())
        url = f"http://127.0.0.1:{front_port}/fault?{query}"
        urlopen(Request(url, method="POST")).close()

    yield ask
    ask(times=0)


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def server(front_port: int, pauses: list[float]) -> Iterator[Warehouse]:
    url = f"clickhouse://default@127.0.0.1:{front_port}/beammeter_test"
    with Warehouse.connect(url, retries=Retries(attempts=4, sleep=pauses.append)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("status", "code"), [(500, 202), (500, 241), (503, 0), (502, 0), (429, 0), (0, 0)]
)
def test_a_passing_failure_is_tried_again(
    server: Warehouse, fault: Fault, pauses: list[float], status: int, code: int
) -> None:
    # Two answers less than the attempts; a closed connection is tried twice by the transport.
    fault(status=status, code=code, times=2)
    assert server.query_rows("SELECT 1 AS one") == [{"one": 1}]
    assert len(pauses) in (1, 2)


def test_an_insert_whose_answer_was_lost_is_repeated_and_counts_once(
    server: Warehouse, fault: Fault, tenant: str
) -> None:
    insert_events(server, events([event(tenant)]))
    fault(status=0, times=1)
    insert_events(server, events([event(tenant), event(tenant, "e2")]))
    sql = "SELECT count() AS n FROM events FINAL WHERE tenant_id = {t:String}"
    assert server.query_rows(sql, {"t": tenant}) == [{"n": 2}]


def test_a_lasting_failure_is_raised_with_its_reason(
    server: Warehouse, fault: Fault, pauses: list[float]
) -> None:
    fault(status=500, code=252, times=100)
    with pytest.raises(WarehouseUnavailable, match="is not available: asked for") as caught:
        server.query_rows("SELECT 1")
    assert "\n" not in str(caught.value)
    assert len(pauses) == 3
    assert pauses == sorted(pauses)


def test_a_final_failure_is_not_tried_again(
    server: Warehouse, fault: Fault, pauses: list[float]
) -> None:
    fault(status=500, code=60, times=1)
    with pytest.raises(WarehouseError, match="refused a statement: asked for"):
        server.query_rows("SELECT 1")
    assert pauses == []


def test_a_result_that_breaks_off_is_never_taken_for_whole(server: Warehouse, fault: Fault) -> None:
    fault(status=200, times=1)
    with pytest.raises(WarehouseUnavailable, match="broke off a result"):
        list(server.iter_arrow("SELECT number FROM numbers(100000)"))


def test_a_server_that_is_away_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "s3cret")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(WarehouseUnavailable, match="Connection refused") as caught,
    ):
        Warehouse.connect(f"clickhouse://u@127.0.0.1:{port}/db")
    assert str(caught.value) == (
        f"warehouse clickhouse://u@127.0.0.1:{port}/db is not available: Connection refused"
    )
    assert caplog.records == []


def test_a_host_that_is_unknown_is_named() -> None:
    with pytest.raises(WarehouseUnavailable, match=r"nowhere\.invalid.* is not available"):
        Warehouse.connect("clickhouse://u@nowhere.invalid/db")


def test_a_refused_user_is_told_without_the_password(
    front_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "s3cret")
    with pytest.raises(WarehouseError, match="refused user or password") as caught:
        Warehouse.connect(f"clickhouse://mallory@127.0.0.1:{front_port}/db")
    assert "s3cret" not in str(caught.value)


def test_a_missing_database_is_made_or_refused(front_port: int) -> None:
    url = f"clickhouse://default@127.0.0.1:{front_port}/d{uuid.uuid4().hex}"
    with pytest.raises(ConfigurationError, match=r"warehouse must exist \(got no database"):
        Warehouse.connect(url, create=False)
    with Warehouse.connect(url) as made:
        assert made.query_rows("SELECT count() AS n FROM events") == [{"n": 0}]
    with Warehouse.connect(url, create=False) as found:
        assert found.query_rows("SELECT count() AS n FROM events") == [{"n": 0}]


def test_something_else_on_the_port_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        import threading

        def answer() -> None:
            for _ in range(20):
                try:
                    connection, _address = other.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(WarehouseError) as caught:
            Warehouse.connect(f"clickhouse://u@127.0.0.1:{port}/db")
        assert "\n" not in str(caught.value)
        other.shutdown(socket.SHUT_RDWR)
        thread.join()
