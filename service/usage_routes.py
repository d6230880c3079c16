"""Usage over HTTP: the rows of `beammeter usage` in pages, and sums at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from meters.errors import Rejected
from meters.numbers import plain
from meters.reading import Granularity
from meters.scalars import parse_json
from meters.timestamps import format_instant
from service.answers import json_answer
from service.reader import MOST_TEXT, Reads, instant, known, selection, wrong, zone
from service.summaries import Figure, summarize
from service.usage_pages import usage_page
from warehouse.overview import Dimension

router = APIRouter(prefix="/v1/usage", tags=["usage"])

Name = Annotated[str, Query(max_length=MOST_TEXT)]
By = Literal["customer", "subscription", "hour", "day", "week", "month"]
_PREFIX = "filter."
_MOST_STEPS = 50_000


class UsageRow(BaseModel):
    """One row of usage; `value` is a decimal string, times are RFC 3339 in UTC."""

    customer: str
    subscription: str | None
    meter: str
    start: str
    end: str
    group: dict[str, Any]
    value: str
    events: int


class UsageRows(BaseModel):
    """A page of usage, and the cursor of the next one; null where nothing follows."""

    items: list[UsageRow]
    next_cursor: str | None


class SummaryRow(BaseModel):
    """One merged value with the dimensions that were asked for; others are null."""

    meter: str
    customer: str | None = None
    subscription: str | None = None
    start: str | None = None
    group: Any = None
    value: str | None
    events: int


class Summary(BaseModel):
    """Merged usage."""

    items: list[SummaryRow]


@router.get("", response_model=UsageRows)
def usage(
    read: Reads,
    request: Request,
    granularity: Granularity = "period",
    customer: Name | None = None,
    subscription: Annotated[
        Name | None, Query(description="Empty: usage without a subscription.")
    ] = None,
    meter: Name | None = None,
    from_time: Annotated[str | None, Query(alias="from")] = None,
    to_time: Annotated[str | None, Query(alias="to")] = None,
    group_by: Annotated[list[str] | None, Query(description="Merge groups to these keys.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=8192)] = None,
) -> Response:
    """Usage by customer, subscription, meter, group and local hour, day or billing period.

    `filter.KEY=VALUE` keeps groups of that value alone; repeated, any of them. A page is
    stable under writes: the next one begins behind its last row.
    """
    chosen = selection(
        read.catalog,
        customer=customer,
        subscription=subscription,
        meter=meter,
        start=instant("from", from_time),
        end=instant("to", to_time),
        filters=filters_of(request),
    )
    keys = {
        name for each in read.catalog.meters if meter in (None, each.id) for name in each.group_by
    }
    for name in group_by or ():
        known("group_by", name, keys)
    try:
        page = usage_page(
            read.catalog,
            read.warehouse,
            read.tenant,
            chosen,
            granularity=granularity,
            group_by=group_by or None,
            limit=limit,
            cursor=cursor,
        )
    except Rejected as error:
        raise wrong(error.field, error.value, error.expected) from None
    items = [cell.to_dict() for cell in page.cells]
    return json_answer({"items": items, "next_cursor": page.next_cursor})


@router.get("/summary", response_model=Summary)
def summary(
    read: Reads,
    request: Request,
    by: Annotated[list[By] | None, Query(description="Dimensions beside the meter.")] = None,
    group: Annotated[Name | None, Query(description="A group key to go by.")] = None,
    customer: Name | None = None,
    subscription: Name | None = None,
    meter: Name | None = None,
    from_time: Annotated[str | None, Query(alias="from")] = None,
    to_time: Annotated[str | None, Query(alias="to")] = None,
    in_zone: Annotated[str, Query(alias="zone", max_length=64)] = "UTC",
    top: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> Response:
    """Usage merged over all customers, or over those that are asked for.

    Hours, days, weeks and months are those of `zone`. With `top` the greatest values of one
    `meter` come first.
    """
    if top is not None and meter is None:
        raise wrong("meter", None, "given with top: values of different meters do not compare")
    chosen = selection(
        read.catalog,
        customer=customer,
        subscription=subscription,
        meter=meter,
        start=instant("from", from_time),
        end=instant("to", to_time),
        filters=filters_of(request),
    )
    dimensions: list[Dimension] = list(dict.fromkeys(by or ()))
    if len(_TIMES.intersection(dimensions)) > 1:
        raise wrong("by", ", ".join(dimensions), "at most one of hour, day, week and month")
    if group is not None:
        keys = {name for each in read.catalog.meters for name in each.group_by}
        known("group", group, keys)
        dimensions.append("group")
    figures = summarize(
        read.catalog,
        read.warehouse,
        read.tenant,
        chosen,
        dimensions,
        zone=zone(in_zone),
        group=group,
        top=top,
        sums=read.sums,
    )
    if len(figures) > _MOST_STEPS:
        raise wrong("from", from_time, f"so that there are at most {_MOST_STEPS} values")
    return json_answer({"items": [_summary_row(figure) for figure in figures]})


_TIMES = {"hour", "day", "week", "month"}


def filters_of(request: Request) -> dict[str, list[str]]:
    """The `filter.KEY` parameters of a request."""
    found: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith(_PREFIX):
            found.setdefault(name.removeprefix(_PREFIX), []).append(value)
    return found


def _summary_row(figure: Figure) -> dict[str, object]:
    keys: Mapping[str, Any] = figure.keys
    start = next((keys[name] for name in keys if name in _TIMES), None)
    return {
        "meter": figure.meter,
        "customer": keys.get("customer"),
        "subscription": keys.get("subscription"),
        "start": format_instant(start) if isinstance(start, datetime) else None,
        "group": parse_json(keys["group"]) if keys.get("group") else None,
        "value": None if figure.value is None else plain(figure.value),
        "events": figure.events,
    }
