"""Journal URLs: where finalized documents are kept.

    sqlite:///absolute/path                      a file of its own
    postgresql://user@host:5432/database         a server (extra `postgres`)

The password of a server comes from `PGPASSWORD`, `PGPASSFILE` or a service file, as of
every PostgreSQL client; a URL may hold it only where the URL itself comes from the
environment, since a command line can be read by every user of a machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from meters.errors import ConfigurationError

EXPECTED = "sqlite:///absolute/path or postgresql://user@host:5432/database"
BESIDE = ".journal.sqlite3"
"""What the name of an embedded warehouse's folder is followed by for its journal."""

_USERINFO = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True)
class SqliteFile:
    """A journal in one file."""

    path: str

    @property
    def exists(self) -> bool:
        """Whether the file is there."""
        return Path(self.path).exists()

    def __str__(self) -> str:
        return f"sqlite://{self.path}"


@dataclass(frozen=True)
class PostgresServer:
    """A journal in a database of PostgreSQL; the URL is not shown with its password."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return _shown(self.url)


def parse_journal_url(url: str, *, from_environment: bool = False) -> SqliteFile | PostgresServer:
    """The address that `url` names.

    Raises ConfigurationError where it is of no known form, or holds a password that it
    must not hold.
    """
    if url.startswith("sqlite:///") and "\0" not in url and url.removeprefix("sqlite:///"):
        return SqliteFile(url.removeprefix("sqlite://"))
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "password=" in parts.query
    except ValueError as error:
        raise _wrong(url) from error
    if parts.scheme not in ("postgresql", "postgres"):
        raise _wrong(url)
    if secret and not from_environment:
        raise ConfigurationError(
            "password of the journal must be in PGPASSWORD, in PGPASSFILE, or in "
            "BEAMMETER_JOURNAL (got it in a URL on the command line)"
        )
    return PostgresServer(url)


def journal_beside(warehouse_url: str) -> str | None:
    """The journal of an embedded warehouse where none is named; None for a server's."""
    if not warehouse_url.startswith("chdb:///"):
        return None
    folder = Path(warehouse_url.removeprefix("chdb://")).resolve()
    return f"sqlite://{folder.parent / (folder.name + BESIDE)}"


def _wrong(url: str) -> ConfigurationError:
    return ConfigurationError(f"journal URL must be {EXPECTED} (got {_shown(url)!r})")


def _shown(url: str) -> str:
    return re.sub(r"password=[^&]*", "password=***", _USERINFO.sub(_without_password, url))


def _without_password(found: re.Match[str]) -> str:
    user, colon, _ = found[0].removeprefix("//").removesuffix("@").partition(":")
    return f"//{user}{':***' * bool(colon)}@"
