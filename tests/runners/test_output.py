from __future__ import annotations

import io
import sys
from decimal import Decimal

import pytest

from runners import output
from runners.output import print_csv, print_json, print_json_list, print_table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", ["20", "80", "200"])
def test_a_narrow_terminal_cuts_no_value(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    row = {
        "customer": "an id of a customer that is rather long",
        "start": "2026-10-01T00:00:00Z",
        "description": "words " * 30,
        "value": "123456789012345.123456789012",
    }
    print_table([row], {name: name for name in row}, right=["value"])
    (line,) = (line for line in terminal.getvalue().splitlines() if row["value"] in line)
    assert row["customer"] in line
    assert row["start"] in line
    assert terminal.getvalue().count("words") == 30


def test_a_table_for_a_file_cuts_no_value_either(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"customer": "c" * 300, "value": "1"}
    print_table([row], {name: name for name in row})
    assert "c" * 300 in capsys.readouterr().out


@pytest.mark.parametrize(
    "values",
    [
        [],
        [{}],
        [{"a": "line\nend \u2028 \x85 \r", "b": [], "c": [1, {"d": Decimal("1.50")}]}, {"e": None}],
    ],
)
def test_a_list_is_written_piece_by_piece_as_it_is_as_a_whole(
    values: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    print_json(values)
    whole = capsys.readouterr().out
    print_json_list(iter(values))
    assert capsys.readouterr().out == whole


def test_long_csv_is_written_in_pieces_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_AT_ONCE", 50)
    print_csv(({"a": number, "b": "x" * 9} for number in range(40)), ["a", "b"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a,b", *(f"{number},{'x' * 9}" for number in range(40))]
