"""Bills over HTTP: invoices stored, previewed and explained, open periods, and credit."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from billing.documents import presentation_of
from billing.explanation_words import line_words
from billing.invoice import Invoice
from billing.money import format_amount
from billing.wording import Words, locale_of
from journal.credits import CreditBalance, credit_balances
from meters.currencies import currency_exponent
from meters.numbers import plain
from meters.timestamps import format_instant
from meters.zones import MICROSECOND
from service.answers import json_answer
from service.context import now
from service.errors import ApiError
from service.reader import MOST_TEXT, Reader, Reads, instant, known, wrong
from transforms import explanations
from transforms.open_periods import OpenPeriod, open_periods
from transforms.preview import preview_invoices
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
    """Stored invoices without their lines, the period that ended last before the others.

    Drafts that no longer result come only with the status `withdrawn`.
    """
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


@router.get("/invoices/preview")
def preview(
    read: Reads,
    customer: Name,
    as_of: str | None = None,
) -> Response:
    """What `beammeter bill --preview` says of a customer: nothing is written.

    Every period that ended by `as_of` (left out: now), by billing date and subscription; a
    finalized one as it was finalized. What the period that goes on comes to is at
    `/v1/customers/ID/periods`.
    """
    known("customer", customer, read.billing.customers_by_id)
    when = instant("as_of", as_of) or now()
    with read.journal() as journal:
        found = preview_invoices(read.billing, read.warehouse, read.tenant, customer, when, journal)
    return json_answer({"as_of": format_instant(when), "items": found})


@router.get("/invoices/{invoice_id}")
def invoice(read: Reads, invoice_id: Annotated[str, Path(max_length=128)]) -> Response:
    """One stored invoice with its lines."""
    return json_answer(_stored(read, invoice_id))


@router.get("/invoices/{invoice_id}/explanation")
def explanation(
    read: Reads,
    invoice_id: Annotated[str, Path(max_length=128)],
    language: Annotated[
        str | None, Query(max_length=32, description="Of the words; left out: the customer's.")
    ] = None,
) -> Response:
    """How a stored invoice came about, as `beammeter explain` says it.

    Each line has its `steps` and buckets, and `words` that say the steps one by one.
    `matches` is whether the usage as it is now still gives these amounts.
    """
    if language is not None:
        try:
            locale_of(language)
        except ValueError:
            raise wrong("language", language, "a language such as en or de") from None
    document = _stored(read, invoice_id)
    catalog = explanations.catalog_of(read.warehouse, read.tenant, document)
    if catalog is None:
        detail = "the catalog that this invoice was made with was not kept"
        raise ApiError(409, "catalog_not_kept", detail)
    with read.journal() as journal:
        history = explanations.history_of(journal, read.tenant, document)
    found = explanations.explain(read.warehouse, read.tenant, catalog, document, history)
    shown = presentation_of(catalog, document, language)
    words = Words(shown.language)
    for line in found["lines"]:
        line["words"] = list(line_words(line, found["currency"], words))
    return json_answer({**found, "language": shown.language})


def _stored(read: Reader, invoice_id: str) -> dict[str, Any]:
    found = read_invoices(read.warehouse, read.tenant, [invoice_id]).get(invoice_id)
    if found is None:
        raise ApiError(404, "not_found", f"no invoice has the id {invoice_id!r}")
    return found


@router.get("/customers/{customer:path}/periods")
def current(
    read: Reads,
    customer: Annotated[str, Path(max_length=MOST_TEXT)],
    at: str | None = None,
) -> Response:
    """The customer's open periods: the bill to date, the projected one, the commitment.

    `to_date` is the invoice at the end of the period if nothing more were used, `projected` if
    the rest of the period were like its beginning; both without what thresholds bill before.
    Both are previews that go on from what is final; nothing is written. A period whose invoice
    is final is not open.
    """
    known("customer", customer, read.billing.customers_by_id)
    when = instant("at", at) or now()
    with read.journal() as journal:
        found = open_periods(read.billing, read.warehouse, read.tenant, customer, when, journal)
    return json_answer(
        {"at": format_instant(when), "items": [_period(each, when) for each in found]}
    )


@router.get("/customers/{customer:path}/credits")
def credits_of(
    read: Reads,
    customer: Annotated[str, Path(max_length=MOST_TEXT)],
    at: str | None = None,
) -> Response:
    """What is left of each grant of credit; what has expired by `at` (left out: now) has lapsed.

    `granted` = `burnt` + `lapsed` + `left`. Only what is final burns: drafts do not. `booked`
    says whether the journal has the grant; one that it has not is listed once it has started
    by `at`. `kind` is null for one that the catalog has no more.
    """
    known("customer", customer, read.billing.customers_by_id)
    when = instant("at", at) or now()
    with read.journal() as journal:
        found = credit_balances(journal, read.billing, read.tenant, customer, when)
    return json_answer({"at": format_instant(when), "items": [_balance(each) for each in found]})


def _balance(balance: CreditBalance) -> dict[str, Any]:
    exponent = currency_exponent(balance.currency)
    sums = {name: getattr(balance, name) for name in ("granted", "burnt", "lapsed", "left")}
    return {
        "grant": balance.grant,
        "kind": balance.kind,
        "currency": balance.currency,
        **{name: format_amount(amount, exponent) for name, amount in sums.items()},
        "start": balance.start,
        "expires": balance.expires,
        "booked": balance.booked,
    }


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
