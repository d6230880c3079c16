"""API keys: made once, kept as hashes, each for one tenant and some rights.

    key = bm_ID_SECRET        file: {"keys": [{"id", "hash", "tenant", "rights", ...}]}

The file has SHA-256 of the whole key. That needs no slow hash: the secret has 256 random
bits, which nobody guesses from it. A server reads the file again when it has changed, so a
key that was made or revoked counts within a second.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec

from meters.errors import ConfigurationError

Right = Literal["write", "read", "admin"]
RIGHTS: tuple[Right, ...] = get_args(Right)
"""What a key may do: send events, read usage and invoices, all of it and change things."""

_TENANT = re.compile(r"[^\s/\x00-\x1f\x7f]{1,128}")
_CHECK_SECONDS = 0.5


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key as it is kept; rates are by second, None is the server's own limit."""

    id: str
    hash: str
    tenant: str
    rights: tuple[Right, ...]
    created_at: datetime
    label: str = ""
    requests_rate: float | None = None
    events_rate: float | None = None
    revoked_at: datetime | None = None

    def may(self, right: Right) -> bool:
        """Whether it has a right; `admin` has all."""
        return right in self.rights or "admin" in self.rights


class _File(msgspec.Struct):
    keys: list[Key] = []


class KeyStore:
    """The keys in one file, which several processes may read and change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._checked = 0.0
        self._stamp: tuple[int, int, int] | None = None
        self._by_hash: dict[str, Key] = {}

    def find(self, key: str) -> Key | None:
        """The key that is in use under this text, else None."""
        now = time.monotonic()
        if now - self._checked > _CHECK_SECONDS:
            self._refresh(now)
        return self._by_hash.get(_hash(key))

    def all(self) -> list[Key]:
        """All keys, revoked ones as well, in the order in which they were made.

        Raises ConfigurationError where the file is not one of keys.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(f"--keys must be a readable file ({error})") from None
        try:
            return msgspec.json.decode(content, type=_File).keys
        except msgspec.DecodeError as error:
            raise ConfigurationError(f"{self.path} must be a file of keys ({error})") from None

    def create(
        self,
        tenant: str,
        rights: Iterable[Right],
        *,
        label: str = "",
        requests_rate: float | None = None,
        events_rate: float | None = None,
    ) -> tuple[Key, str]:
        """A new key and its text, which is nowhere else."""
        if not _TENANT.fullmatch(tenant):
            raise ConfigurationError(
                f"tenant must be 1 to 128 characters without spaces and '/' (got {tenant!r})"
            )
        chosen = tuple(right for right in RIGHTS if right in set(rights))
        if not chosen:
            raise ConfigurationError(f"rights must be some of {', '.join(RIGHTS)} (got none)")
        name = secrets.token_hex(6)
        text = f"bm_{name}_{secrets.token_urlsafe(32)}"
        key = Key(
            id=name,
            hash=_hash(text),
            tenant=tenant,
            rights=chosen,
            created_at=datetime.now(UTC).replace(microsecond=0),
            label=label,
            requests_rate=requests_rate,
            events_rate=events_rate,
        )
        with self._changing() as keys:
            keys.append(key)
        return key, text

    def revoke(self, name: str) -> Key:
        """End a key. Raises ConfigurationError where there is none of that id."""
        with self._changing() as keys:
            for place, key in enumerate(keys):
                if key.id == name:
                    now = datetime.now(UTC).replace(microsecond=0)
                    ended = key.revoked_at or now
                    keys[place] = msgspec.structs.replace(key, revoked_at=ended)
                    return keys[place]
            raise ConfigurationError(f"id must be that of a key in {self.path} (got {name!r})")

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, written back whole unless the body fails."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path.with_name(f"{self.path.name}.lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self.all()
            yield keys
            content = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2)
            write_private(self.path, content + b"\n")

    def _refresh(self, now: float) -> None:
        with self._guard:
            self._checked = now
            try:
                found = self.path.stat()
                stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            except FileNotFoundError:
                stamp = None
            if stamp == self._stamp:
                return
            self._by_hash = {key.hash: key for key in self.all() if key.revoked_at is None}
            self._stamp = stamp


def write_private(path: Path, content: bytes) -> None:
    """Put a file there whole, which only its owner can read."""
    parts = path.with_name(f"{path.name}.{os.getpid()}.part")
    handle = os.open(parts, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    parts.replace(path)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
