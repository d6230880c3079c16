"""Journals of both kinds; every test has a tenant of its own in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journal.journal import Journal


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite://{tmp_path_factory.mktemp('journals') / 'journal.sqlite3'}"


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def journal_url(request: pytest.FixtureRequest) -> str:
    """An empty journal of each kind."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("postgres").url)


@pytest.fixture
def journal(journal_url: str) -> Iterator[Journal]:
    with Journal.connect(journal_url) as opened:
        yield opened


@pytest.fixture
def sqlite_file(sqlite_url: str) -> Path:
    return Path(sqlite_url.removeprefix("sqlite://"))
