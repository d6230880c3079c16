"""What was refused: shown over HTTP, and tried again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from meters.errors import ConfigurationError, OtherCatalog, Rejected, UsageClaimed
from meters.scalars import canonical_json
from meters.zones import from_microseconds, microseconds
from service.answers import json_answer, shown
from service.context import Service, service_of
from service.cursors import no_cursor, read_cursor, write_cursor
from service.errors import ApiError
from service.json_routes import JsonRoute
from service.reader import MOST_TEXT, Administers, Reads, instant, span, wrong
from transforms.replay import Place
from warehouse.quarantine import ID_FORM, Refused, Selection, newest_open

router = APIRouter(prefix="/v1/quarantine", tags=["pipeline"], route_class=JsonRoute)

Name = Annotated[str, Query(max_length=MOST_TEXT)]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
_LOG = logging.getLogger(__name__)
_MOST_FIXES = 10_000
_MOST_IDS = 1000
_ID = f"^{ID_FORM.pattern}$"
Id = Annotated[str, Field(pattern=_ID)]


class Fix(BaseModel):
    """A corrected payload of a row that was refused as a whole; text, or the event itself."""

    model_config = ConfigDict(extra="forbid")

    origin: Text
    origin_row: Annotated[int, Field(ge=0, lt=2**63)]
    payload: str | dict[str, Any]


class Again(BaseModel):
    """Which rows to try again; left out, all. `from` and `to` are times of refusal, half-open."""

    model_config = ConfigDict(extra="forbid")

    reason: Text | None = None
    meter: Text | None = Field(None, description="Empty: what was no event.")
    origin: Text | None = Field(None, description="A file or partition, or a folder or topic.")
    customer: Text | None = None
    from_time: str | None = Field(None, alias="from", max_length=64)
    to_time: str | None = Field(None, alias="to", max_length=64)
    ids: list[Id] = Field(
        default_factory=list, max_length=_MOST_IDS, description="Of single rows; empty: any."
    )
    fix: list[Fix] = Field(default_factory=list, max_length=_MOST_FIXES)


class Replayed(BaseModel):
    """What became of the rows, as `beammeter replay` counts them.

    `accepted` events are stored now, `measured` values are taken by a meter now; `refused`,
    `incomplete` and `conflicts` stay. Of the marks `resolved` are counted in usage, and
    `kept_open` wait for the stream to close their hours; `rows` and `tombstones` of usage
    were written.
    """

    accepted: int
    measured: int
    refused: int
    incomplete: int
    conflicts: int
    resolved: int
    kept_open: int
    rows: int
    tombstones: int


@router.get("")
def quarantine(
    read: Reads,
    reason: Name | None = None,
    meter: Name | None = None,
    origin: Name | None = None,
    customer: Name | None = None,
    only: Annotated[Id | None, Query(alias="id", description="The id of one row.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
) -> Response:
    """What was refused and is not settled by a replay, the newest first."""
    rows = newest_open(
        read.warehouse,
        read.tenant,
        Selection(
            reason=reason,
            meter=meter,
            origin=origin,
            customer=customer,
            ids=() if only is None else (only,),
        ),
        limit=limit + 1,
        after=None if cursor is None else _key(cursor),
    ).to_pylist()
    items = [shown(row) for row in rows[:limit]]
    following = _cursor(rows[limit - 1]) if len(rows) > limit else None
    return json_answer({"items": items, "next_cursor": following})


@router.post("/replay", response_model=Replayed)
def replay(
    administer: Administers, again: Again, service: Annotated[Service, Depends(service_of)]
) -> Response:
    """Try again what was refused, after a correction of catalog, program or payloads.

    What is accepted now is counted, once, and leaves the quarantine; the rest stays.
    """
    del administer
    start, end = instant("from", again.from_time), instant("to", again.to_time)
    span(start, end, "to")
    if service.replay is None:
        raise ApiError(503, "no_replay", "this server cannot replay; use `beammeter replay`")
    chosen = Selection(
        again.reason, again.meter, again.origin, again.customer, start, end, again.ids
    )
    corrected: dict[Place, str] = {
        (fix.origin, fix.origin_row): (
            fix.payload if isinstance(fix.payload, str) else canonical_json(fix.payload)
        )
        for fix in again.fix
    }
    try:
        return json_answer(service.replay(chosen, corrected))
    except UsageClaimed as error:
        detail = f"{error}; what is accepted now is stored, and counted by the next repair"
        raise ApiError(409, "usage_claimed", detail, headers={"retry-after": "60"}) from None
    except OtherCatalog:
        detail = "this server's catalog must be one of the tenant's catalogs in time"
        raise ApiError(409, "other_catalog", detail) from None
    except ConfigurationError as error:
        _LOG.error("a replay cannot run: %s", error)
        detail = "this server is not set up to replay, as its log says; use `beammeter replay`"
        raise ApiError(503, "no_replay", detail) from None


def _cursor(row: Mapping[str, Any]) -> str:
    at = str(microseconds(row["quarantined_at"]))
    key = [at, row["origin"], str(row["origin_row"]), row["meter"], row["reason"]]
    return write_cursor(key)


def _key(cursor: str) -> Refused:
    try:
        at, origin, row, meter, reason = read_cursor(cursor, 5)
        number = int(row)
        if abs(number) >= 2**63:
            raise no_cursor(cursor)
        return from_microseconds(int(at)), origin, number, meter, reason
    except (Rejected, ValueError, OverflowError):
        raise wrong("cursor", cursor, "the next_cursor of a page") from None
