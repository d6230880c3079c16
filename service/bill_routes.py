"""Bills over HTTP: stored invoices, and what the open periods come to so far."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from billing.invoice import Invoice
from billing.money import format_amount
from meters.currencies import currency_exponent
from meters.numbers import plain
from meters.timestamps import format_instant
from meters.zones import MICROSECOND
from service.answers import json_answer
from service.context import now
from service.errors import ApiError
from service.reader import MOST_TEXT, Reads, instant, known
from transforms.open_periods import OpenPeriod, open_periods
from warehouse.invoices import invoice_page, read_invoices

router = APIRouter(prefix="/v1", tags=["bills"])

Name = Annotated[str, Query(max_length=MOST_TEXT)]


@router.get("/invoices")
def invoices(
    read: Reads,
    customer: Name | None = None,
    subscription: Name | None = None,
    status: Annotated[str | None, Query(max_length=32)] = None,
    ending_by: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Stored invoices without their lines, the period that ended last before the others."""
    headers, following = invoice_page(
        read.warehouse,
        read.tenant,
        customer=customer,
        subscription=subscription,
        status=status,
        ending_by=instant("ending_by", ending_by),
        limit=limit,
        after=cursor,
    )
    for header in headers:
        header.pop("lines", None)
    return json_answer({"items": headers, "next_cursor": following})


@router.get("/invoices/{invoice_id}")
def invoice(read: Reads, invoice_id: Annotated[str, Path(max_length=128)]) -> Response:
    """One stored invoice with its lines."""
    found = read_invoices(read.warehouse, read.tenant, [invoice_id]).get(invoice_id)
    if found is None:
        raise ApiError(404, "not_found", f"no invoice has the id {invoice_id!r}")
    return json_answer(found)


@router.get("/customers/{customer}/periods")
def current(
    read: Reads,
    customer: Annotated[str, Path(max_length=MOST_TEXT)],
    at: str | None = None,
) -> Response:
    """The customer's open periods: the bill to date, the projected one, the commitment.

    `to_date` is the next invoice if nothing more were used, `projected` if the rest of the
    period were like its beginning. Both are previews; nothing is written.
    """
    known("customer", customer, read.catalog.customers_by_id)
    when = instant("at", at) or now()
    found = open_periods(read.catalog, read.warehouse, read.tenant, customer, when)
    return json_answer(
        {"at": format_instant(when), "items": [_period(each, when) for each in found]}
    )


def _period(period: OpenPeriod, at: datetime) -> dict[str, Any]:
    bill = period.to_date
    exponent = currency_exponent(bill.currency)
    commitment = None
    if period.commitment is not None:
        commitment = {
            "id": period.commitment.id,
            "amount": format_amount(Decimal(period.commitment.amount), exponent),
            "period": period.commitment.period,
            "overage_factor": plain(period.commitment.overage_factor),
        }
    return {
        "customer": bill.customer,
        "subscription": bill.subscription,
        "currency": bill.currency,
        "period_start": _text(bill.period_start),
        "period_end": _text(bill.period_end),
        "elapsed": _elapsed(bill, at),
        "spent": format_amount(period.spent, exponent),
        "commitment": commitment,
        "to_date": bill.to_dict(),
        "projected": period.projected.to_dict(),
    }


def _elapsed(bill: Invoice, at: datetime) -> str:
    """How much of the period is over, from 0 to 1 with four places."""
    if bill.period_start is None or bill.period_end is None or at <= bill.period_start:
        return "0"
    whole = bill.period_end - bill.period_start
    done = Decimal((at - bill.period_start) // MICROSECOND) / Decimal(whole // MICROSECOND)
    return plain(done.quantize(Decimal("0.0001")))


def _text(at: datetime | None) -> str | None:
    return None if at is None else format_instant(at)
