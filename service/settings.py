"""What one server is told: where it listens, whom it serves, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """What one request, one key and one server may take.

    Sizes are bytes, `body` as sent and `content` once unpacked; rates are by key and second,
    with bursts of two seconds, and None is no limit. `waiting` events may wait for their
    acknowledgement at a time; `patience` is how many seconds one may.
    """

    body: int = 16 * MIB
    content: int = 64 * MIB
    event: int = 1 * MIB
    events: int = 10_000
    waiting: int = 100_000
    patience: float = 10.0
    requests_rate: float | None = None
    events_rate: float | None = None


@dataclass(frozen=True)
class Settings:
    """One server. `tenant` is whose pipeline it feeds where it feeds one itself."""

    host: str = "127.0.0.1"
    port: int = 8080
    tenant: str = "default"
    limits: Limits = Limits()
