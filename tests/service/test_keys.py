"""API keys: hashes at rest, counted at once, gone when revoked."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from meters.errors import ConfigurationError
from service.keys import RIGHTS, KeyStore
from tests.cli import run


def test_a_key_is_found_by_its_text_and_by_no_other(keys: KeyStore) -> None:
    key, text = keys.create("t", ["write"])
    assert keys.find(text) == key
    for other in (text[:-1], text + "x", key.id, key.hash, "", text.swapcase()):
        assert keys.find(other) is None


def test_the_file_holds_no_key_and_only_its_owner_reads_it(keys: KeyStore) -> None:
    _, text = keys.create("t", ["admin"])
    content = keys.path.read_text()
    assert text not in content
    # The secret may itself hold the separator, so it is what follows the second one.
    secret = text.split("_", 2)[2]
    assert len(secret) >= 32
    assert secret not in content
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_another_process_sees_a_key_made_and_revoked(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys._CHECK_SECONDS", 0)
    other = KeyStore(keys.path)
    assert other.find("bm_x_y") is None
    key, text = keys.create("t", ["read"])
    assert other.find(text) == key
    keys.revoke(key.id)
    assert other.find(text) is None
    assert [each.revoked_at is not None for each in other.all()] == [True]


def test_revoking_again_keeps_the_first_time_and_an_unknown_id_is_refused(keys: KeyStore) -> None:
    key, _ = keys.create("t", ["read"])
    assert keys.revoke(key.id) == keys.revoke(key.id)
    with pytest.raises(ConfigurationError, match="nothing"):
        keys.revoke("nothing")


def test_keys_made_at_the_same_time_are_all_kept(keys: KeyStore) -> None:
    threads = [threading.Thread(target=keys.create, args=("t", ["read"])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in keys.all()}) == 20


def test_admin_has_every_right_and_the_others_one(keys: KeyStore) -> None:
    for right in RIGHTS:
        key, _ = keys.create("t", [right])
        assert [key.may(each) for each in RIGHTS] == [right in (each, "admin") for each in RIGHTS]


@pytest.mark.parametrize("tenant", ["", "a/b", "a b", "a\n", "x" * 129])
def test_a_tenant_that_would_break_a_message_key_is_refused(keys: KeyStore, tenant: str) -> None:
    with pytest.raises(ConfigurationError, match="tenant must be"):
        keys.create(tenant, ["read"])


def test_a_broken_file_is_named_and_not_taken_for_an_empty_one(keys: KeyStore) -> None:
    keys.path.write_text('{"keys": [{"id": 5}]}')
    with pytest.raises(ConfigurationError, match=r"keys\.json must be a file of keys"):
        keys.create("t", ["read"])
    assert keys.path.read_text() == '{"keys": [{"id": 5}]}'


def test_the_command_shows_a_key_once(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = run("keys", "create", "--keys", path, "--right", "write", "--label", "billing")
    text = made.stdout.strip()
    assert KeyStore(path).find(text) is not None
    assert text not in made.stderr
    listed = run("keys", "list", "--keys", path, "--format", "json")
    assert text not in listed.stdout
    (row,) = listed.json
    assert (row["tenant"], row["rights"], row["label"]) == ("default", "write", "billing")
    assert run("keys", "revoke", "--keys", path, row["id"]).code == 0
    assert KeyStore(path).find(text) is None
    assert run("keys", "revoke", "--keys", path, "nothing").code == 2
    assert run("keys", "create", "--keys", path).code == 2
