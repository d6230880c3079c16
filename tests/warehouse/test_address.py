from __future__ import annotations

from pathlib import Path

import pytest

from meters.errors import ConfigurationError
from warehouse.address import Embedded, Server, parse_url


def server(
    url: str, env: dict[str, str] | None = None, *, from_environment: bool = False
) -> Server:
    address = parse_url(url, from_environment=from_environment, environment=env or {})
    assert isinstance(address, Server)
    return address


def test_a_chdb_url_names_a_folder(tmp_path: Path) -> None:
    assert parse_url(f"chdb://{tmp_path}") == Embedded(str(tmp_path.resolve()))


def test_spellings_of_one_folder_are_one_address(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for spelling in (f"{tmp_path}/", f"{tmp_path}/x/..", f"{tmp_path}/link"):
        assert parse_url(f"chdb://{spelling}") == Embedded(str(tmp_path.resolve()))


def test_a_path_is_taken_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "50% of #1 [x]"
    assert parse_url(f"chdb://{path}") == Embedded(str(path.resolve()))


def test_a_server_url_has_defaults() -> None:
    address = server("clickhouse://h")
    assert (address.port, address.user, address.password, address.database) == (
        8123,
        "default",
        "",
        "default",
    )
    assert server("https://h").port == 8443
    assert server("https://h").secure
    assert not server("http://h").secure


def test_a_server_url_names_user_host_port_and_database() -> None:
    address = server("clickhouse://me%40x@[::1]:18123/billing")
    assert (address.host, address.port, address.user, address.database) == (
        "::1",
        18123,
        "me@x",
        "billing",
    )
    assert str(address) == "clickhouse://me@x@[::1]:18123/billing"


def test_the_password_comes_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    assert server("clickhouse://h", {"CLICKHOUSE_PASSWORD": "a b"}).password == "a b"
    assert server("clickhouse://h", {"CLICKHOUSE_PASSWORD_FILE": str(file)}).password == "s3cret"


def test_a_password_in_the_url_is_for_the_environment_alone() -> None:
    url = "clickhouse://u:p%40ss@h/db"
    assert server(url, from_environment=True).password == "p@ss"
    with pytest.raises(ConfigurationError, match="CLICKHOUSE_PASSWORD") as caught:
        server(url)
    assert "p%40ss" not in str(caught.value)


def test_a_password_is_never_shown() -> None:
    address = server("clickhouse://u@h", {"CLICKHOUSE_PASSWORD": "s3cret"})
    assert "s3cret" not in repr(address) + str(address)


def test_two_sources_of_the_password_are_refused() -> None:
    env = {"CLICKHOUSE_PASSWORD": "a", "CLICKHOUSE_PASSWORD_FILE": "/x"}
    with pytest.raises(ConfigurationError, match=r"\(got both\)"):
        server("clickhouse://h", env)


def test_a_missing_password_file_is_named() -> None:
    with pytest.raises(ConfigurationError, match="'/no/such': No such file"):
        server("clickhouse://h", {"CLICKHOUSE_PASSWORD_FILE": "/no/such"})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "chdb://",
        "chdb:///",
        "chdb://relative/path",
        "chdb:relative",
        "chdb:///a?b=c",
        "chdb:///a\0b",
        "/just/a/path",
        "postgres://u:s3cret@h/db",
        "clickhouse://",
        "clickhouse://u@/db",
        "clickhouse://h:port/db",
        "clickhouse://h:99999/db",
        "clickhouse://h:9000/db",
        "clickhouse://[::1/db",
        "clickhouse://h/db?secure=true",
        "clickhouse://h/db-1",
        "clickhouse://h/a/b",
        "clickhouse://h/x'%3B--",
    ],
)
def test_other_urls_are_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be .*\(got ") as caught:
        parse_url(url, from_environment=True, environment={})
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
