"""What the routes of one server share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from fastapi import Request

from journal.journal import Journal
from meters.catalog import Catalog
from service.bodies import Room
from service.catalogs import ServedCatalogs
from service.health import Monitor
from service.idempotency import Answers
from service.intake import Intake
from service.keys import KeyStore
from service.metrics import Metrics
from service.outcomes import Outcomes
from service.rates import Rates
from service.sessions import Sessions
from service.settings import Settings
from transforms.replay import Place
from warehouse.client import Warehouse
from warehouse.quarantine import Selection
from warehouse.sums import Sums

Replaying = Callable[[Selection, Mapping[Place, str]], Mapping[str, int]]
"""Replays what is selected, with corrected payloads by origin and row; gives the counts."""


def now() -> datetime:
    """The time of this server."""
    return datetime.now(UTC)


@dataclass
class Service:
    """One server: its settings, keys, the catalog that it was given, and the warehouse.

    A server that only takes events may have no catalog and no warehouse, and then no monitor.
    With `only_tenant` it takes those of one tenant, as its own pipeline works for that one alone.
    `journal` opens the journal for a request, or gives None where nothing is final. `replay`
    tries again what was refused.
    """

    settings: Settings
    keys: KeyStore
    catalog: Catalog | None = None
    warehouse: Warehouse | None = None
    intake: Intake | None = None
    only_tenant: str | None = None
    monitor: Monitor | None = None
    rates: Rates = field(default_factory=Rates)
    room: Room = field(default_factory=Room)
    answers: Answers = field(default_factory=Answers)
    sessions: Sessions = field(default_factory=Sessions)
    journal: Callable[[], AbstractContextManager[Journal | None]] = nullcontext
    replay: Replaying | None = None

    def __post_init__(self) -> None:
        self.catalogs: ServedCatalogs | None = None
        self.sums = None if self.warehouse is None else Sums(self.warehouse)
        if self.catalog is not None and self.warehouse is not None:
            tenant = self.settings.tenant
            self.catalogs = ServedCatalogs(self.catalog, tenant, self.warehouse)
        if self.warehouse is not None and self.monitor is None:
            self.monitor = Monitor(self.warehouse, self.settings.tenant, clock=now)
        self.metrics = Metrics(self.settings.tenant, self.monitor, self.outcomes)

    @property
    def outcomes(self) -> Outcomes | None:
        """What became of what was sent here, where it takes any events."""
        return None if self.intake is None else self.intake.outcomes


async def service_of(request: Request) -> Service:
    """The dependency by which a route gets it."""
    return cast(Service, request.app.state.service)
