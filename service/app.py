"""The application: routers over one `Service`, as ASGI.

app = create_app(Service(settings, KeyStore(path), catalog, warehouse))
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI

from meters.errors import BeammeterError
from service import (
    bill_routes,
    dashboard_routes,
    flexprice_routes,
    ingest_routes,
    pipeline_routes,
    quarantine_routes,
    usage_routes,
)
from service.access import anyone
from service.catalogs import ServedCatalogs
from service.context import Service, now
from service.errors import add_handlers
from service.front import Front
from service.metrics import CountRequests
from service.request_ids import RequestIds
from service.traces import Traces
from transforms.catalogs import POLL_SECONDS
from warehouse import tracing
from warehouse.sums import Sums

DESCRIPTION = "Usage events in; usage, invoices and their explanation out."

_LOG = logging.getLogger(__name__)

_SUM_SECONDS = 60.0
_SUM_SHARE = 20
"""A pause is so many times as long as what it follows: summing takes a twentieth of the time."""

health = APIRouter(tags=["health"])


@health.get("/healthz", dependencies=[Depends(anyone)])
async def healthz() -> dict[str, str]:
    """Whether the process answers at all."""
    return {"status": "ok"}


def routers(service: Service) -> Sequence[APIRouter]:
    """The routes of a server; those that need a warehouse only where there is one."""
    found = [health, pipeline_routes.health]
    if service.intake is not None:
        found.append(ingest_routes.router)
    if service.warehouse is not None:
        found += [
            pipeline_routes.router,
            quarantine_routes.router,
            usage_routes.router,
            flexprice_routes.router,
            bill_routes.router,
            dashboard_routes.router,
        ]
    return found


def create_app(service: Service) -> FastAPI:
    """The ASGI application of one server.

    The OpenAPI file is at `/openapi.json`, open to all. There is no page with
    documentation that would load scripts from elsewhere.
    """
    app = FastAPI(
        title="Beammeter",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lambda _: _life(service),
        redirect_slashes=False,
    )
    app.state.service = service
    add_handlers(app)
    for router in routers(service):
        app.include_router(router)

    @app.get("/openapi.json", include_in_schema=False, dependencies=[Depends(anyone)])
    async def openapi() -> dict[str, object]:
        return app.openapi()

    app.add_middleware(Front, service=service)
    app.add_middleware(CountRequests, metrics=service.metrics)
    if tracing.is_on():
        app.add_middleware(Traces)
    app.add_middleware(RequestIds)
    return app


def _life(service: Service) -> AbstractAsyncContextManager[None]:
    @asynccontextmanager
    async def life() -> AsyncIterator[None]:
        intake = service.intake
        if intake is not None:
            await intake.start()
        beside = []
        if intake is not None and service.catalogs is not None:
            beside.append(asyncio.create_task(_learn(service.catalogs)))
        if service.sums is not None:
            beside.append(asyncio.create_task(_sum_up(service.sums)))
        yield
        for task in beside:
            task.cancel()
        if intake is not None:
            await intake.close()

    return life()


async def _sum_up(sums: Sums) -> None:
    """Keep the sums of usage new; without them answers come later, and are the same."""
    ending = threading.Event()
    told = ""
    try:
        while True:
            began = time.monotonic()
            told = await _try(lambda: sums.refresh(ending.is_set), "usage cannot be summed", told)
            took = time.monotonic() - began
            await asyncio.sleep(max(_SUM_SECONDS, _SUM_SHARE * took))
    finally:
        ending.set()


async def _learn(catalogs: ServedCatalogs) -> None:
    """Keep what is known of the catalogs new for the routes that do not ask the warehouse.

    What takes events goes on with what it knows.
    """
    told = ""
    while True:
        failure = "the catalogs in time cannot be read"
        told = await _try(lambda: catalogs.at(now()), failure, told)
        await asyncio.sleep(POLL_SECONDS)


async def _try(action: Callable[[], object], failure: str, told: str) -> str:
    """Do something in a thread; returns its error, empty where it has none.

    An error is told once, until it is another than that which was `told` last.
    """
    try:
        await asyncio.to_thread(action)
    except BeammeterError as error:
        if told != str(error):
            _LOG.warning("%s: %s", failure, error)
        return str(error)
    return ""
