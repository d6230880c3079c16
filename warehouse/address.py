"""Warehouse URLs: where ClickHouse is, and whose password is used.

    chdb:///absolute/path                    the embedded engine, data in that folder
    clickhouse://user@host:8123/database     a server, over HTTP
    https://user@host:8443/database          a server, over HTTPS (http:// is the same as
                                             clickhouse://)

The password of a server comes from `CLICKHOUSE_PASSWORD`, or from the file that
`CLICKHOUSE_PASSWORD_FILE` names. A URL may hold it only where the URL itself comes
from the environment, since a command line can be read by every user of a machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from meters.errors import ConfigurationError

EXPECTED = "chdb:///absolute/path or clickhouse://user@host:8123/database"

_SCHEMES = {"clickhouse": False, "http": False, "https": True}
_NATIVE_PORTS = (9000, 9440)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USERINFO = re.compile(r"//[^/?#]*@")


@dataclass(frozen=True)
class Embedded:
    """The embedded engine; `path` is the real path of its folder."""

    path: str

    def __str__(self) -> str:
        return f"chdb://{self.path}"


@dataclass(frozen=True)
class Server:
    """A ClickHouse server, reached over HTTP; the password is never shown."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    secure: bool = False

    def __str__(self) -> str:
        scheme = "https" if self.secure else "clickhouse"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{self.user}@{host}:{self.port}/{self.database}"


Address = Embedded | Server


def parse_url(
    url: str, *, from_environment: bool = False, environment: Mapping[str, str] | None = None
) -> Address:
    """The address that `url` names.

    `from_environment` says that the URL was read from the environment and may hold a
    password; `environment` (default `os.environ`) is where the password is looked up.

    Raises ConfigurationError where the URL is not of a known form, or holds a password
    that it must not hold.
    """
    shown = _USERINFO.sub("//***@", url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"warehouse URL must be {EXPECTED} (got {shown!r})") from error
    if parts.scheme == "chdb":
        return _embedded(url, shown)
    if parts.scheme in _SCHEMES:
        env = os.environ if environment is None else environment
        return _server(parts, port, shown, from_environment, env)
    raise ConfigurationError(f"warehouse URL must be {EXPECTED} (got {shown!r})")


def _embedded(url: str, shown: str) -> Embedded:
    # The path is taken as it stands: `%`, `#` and spaces are characters of file names.
    path = url.removeprefix("chdb://")
    if not path.startswith("/") or path.strip("/") == "":
        raise ConfigurationError(
            f"warehouse URL must be chdb:// with an absolute path, "
            f"such as chdb:///var/lib/beammeter (got {shown!r})"
        )
    if "?" in path or "\0" in path:
        raise ConfigurationError(
            f"path of a chdb:// URL must be without '?' and NUL (got {shown!r})"
        )
    return Embedded(os.path.realpath(path))


def _server(
    parts: SplitResult,
    port: int | None,
    shown: str,
    from_environment: bool,
    env: Mapping[str, str],
) -> Server:
    secure = _SCHEMES[parts.scheme]
    if not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"warehouse URL must be {EXPECTED} (got {shown!r})")
    if port in _NATIVE_PORTS:
        raise ConfigurationError(
            f"port of the warehouse URL must be ClickHouse's HTTP port, "
            f"8123 or 8443 by default (got {port}, its native port)"
        )
    database = unquote(parts.path.strip("/")) or "default"
    if _IDENTIFIER.fullmatch(database) is None:
        raise ConfigurationError(
            f"database of the warehouse URL must be letters, digits and underscores "
            f"(got {database!r})"
        )
    password = _password(env)
    if parts.password is not None:
        if not from_environment:
            raise ConfigurationError(
                "password must be in CLICKHOUSE_PASSWORD, in the file that "
                "CLICKHOUSE_PASSWORD_FILE names, or in CLICKHOUSE_URL "
                "(got it in a URL on the command line)"
            )
        password = unquote(parts.password)
    return Server(
        host=parts.hostname,
        port=port or (8443 if secure else 8123),
        user=unquote(parts.username or "default"),
        password=password,
        database=database,
        secure=secure,
    )


def _password(env: Mapping[str, str]) -> str:
    plain = env.get("CLICKHOUSE_PASSWORD", "")
    file = env.get("CLICKHOUSE_PASSWORD_FILE", "")
    if plain and file:
        raise ConfigurationError(
            "password must come from one of CLICKHOUSE_PASSWORD and CLICKHOUSE_PASSWORD_FILE "
            "(got both)"
        )
    if not file:
        return plain
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"CLICKHOUSE_PASSWORD_FILE must name a readable file (got {file!r}: {reason})"
        ) from error
