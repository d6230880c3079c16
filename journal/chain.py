"""The audit chain: each entry holds the hash of the one before.

    entry 1 --hash--> entry 2 . prev_hash --hash--> entry 3 . prev_hash ... --> head

Whoever changes, drops or adds an entry would have to change every later one and the
head, which is also kept outside (`audit_log` of the warehouse, an export, a note).
"""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

import msgspec

from meters.scalars import canonical_json

GENESIS = "0" * 64
"""The `prev_hash` of the first entry."""

_ENCODER = msgspec.json.Encoder(decimal_format="number")


@dataclass(frozen=True)
class AuditEntry:
    """Who did what to which object, and why.

    `at` is RFC 3339 in UTC. `content_hash` is of everything that was committed with the
    entry, `prev_hash` of the entry before.
    """

    tenant: str
    seq: int
    at: str
    actor: str
    action: str
    object: str
    reason: str
    content_hash: str
    prev_hash: str

    @property
    def hash(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(canonical_json(list(astuple(self))).encode()).hexdigest()


def content_text(content: object) -> str:
    """Content as JSON text: keys in their order, numbers with their digits."""
    return _ENCODER.encode(content).decode()


def content_hash(text: str) -> str:
    """SHA-256 of a content's text."""
    return hashlib.sha256(text.encode()).hexdigest()
