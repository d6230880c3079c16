from __future__ import annotations

import pytest

from meters.errors import WarehouseError, WarehouseUnavailable
from warehouse.client import Warehouse
from warehouse.failures import TRANSIENT, Retries, code_of, no_answer, one_line, translate


def test_transient_codes_have_the_engines_names(warehouse: Warehouse) -> None:
    codes = sorted(TRANSIENT)
    rows = warehouse.query_rows(
        "SELECT code, errorCodeToName(code) AS name "
        "FROM (SELECT arrayJoin({codes:Array(Int32)}) AS code) ORDER BY code",
        {"codes": codes},
    )
    assert {row["code"]: row["name"] for row in rows} == TRANSIENT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "Code: 60. DB::Exception: Table default.x does not exist. (UNKNOWN_TABLE)",
            "Table default.x does not exist (UNKNOWN_TABLE)",
        ),
        (
            "Received ClickHouse exception, code: 47, server response: Code: 47. DB::Exception: "
            "Unknown identifier `a`. In scope SELECT a\nFROM t. (UNKNOWN_IDENTIFIER) "
            "(version 26.9.2.1 (official build)) (for url http://h:8123)",
            "Unknown identifier `a` (UNKNOWN_IDENTIFIER)",
        ),
        (
            "Streaming query failed: Code: 395. DB::Exception: stop: while executing. (X), "
            "Stack trace (when copying this message, always include the lines below):\n\n0. f()",
            "stop: while executing (X)",
        ),
        ("plain\n  text", "plain text"),
        ("x" * 1000, "x" * 300 + "..."),
    ],
)
def test_a_message_of_clickhouse_becomes_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


def test_the_last_code_is_the_cause() -> None:
    assert code_of("Code: 36. DB::Exception: while opening: Code: 76. DB::Exception: x") == 76
    assert code_of("none") is None


def test_codes_decide_between_another_try_and_the_end() -> None:
    busy = translate(RuntimeError("Code: 202. DB::Exception: Too many"), "chdb:///x")
    assert isinstance(busy, WarehouseUnavailable)
    refused = translate(RuntimeError("Code: 62. DB::Exception: Syntax error"), "chdb:///x")
    assert type(refused) is WarehouseError
    assert str(refused) == "warehouse chdb:///x refused a statement: Syntax error"


def test_the_deepest_cause_of_a_lost_connection_is_told() -> None:
    outer = RuntimeError("many words")
    outer.__cause__ = ValueError("more words")
    outer.__cause__.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert str(no_answer(outer, "clickhouse://h")).endswith(
        "not available: Connection reset by peer"
    )


def test_retries_stop_at_the_first_success() -> None:
    pauses: list[float] = []
    left = [2]

    def action() -> str:
        if left[0]:
            left[0] -= 1
            raise WarehouseUnavailable("busy")
        return "done"

    assert Retries(attempts=5, sleep=pauses.append).run(action) == "done"
    assert len(pauses) == 2


def test_pauses_grow_up_to_a_bound_and_attempts_are_counted() -> None:
    pauses: list[float] = []
    calls = []

    def action() -> None:
        calls.append(1)
        raise WarehouseUnavailable("busy")

    with pytest.raises(WarehouseUnavailable):
        Retries(attempts=9, first_pause=1, longest_pause=8, sleep=pauses.append).run(action)
    assert len(calls) == 9
    for pause, longest in zip(pauses, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert longest / 2 <= pause <= longest


def test_nothing_is_tried_again_when_its_time_is_over() -> None:
    now = [0.0]
    calls = []

    def action() -> None:
        calls.append(now[0])
        now[0] += 30
        raise WarehouseUnavailable("busy")

    with pytest.raises(WarehouseUnavailable):
        Retries(attempts=9, seconds=60, sleep=lambda _: None, clock=lambda: now[0]).run(action)
    assert calls == [0, 30]


def test_final_errors_are_raised_at_once() -> None:
    def action() -> None:
        raise WarehouseError("no")

    with pytest.raises(WarehouseError, match="no"):
        Retries(attempts=5, sleep=lambda _: pytest.fail("no pause")).run(action)
