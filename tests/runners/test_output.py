from __future__ import annotations

import io
import sys

import pytest

from runners.output import print_table


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
