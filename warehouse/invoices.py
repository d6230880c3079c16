"""Invoices and their lines: projections for reading, written as whole documents.

An invoice is written as the JSON object of `beammeter bill` (`Invoice.to_dict()`),
kept in `document`; the other columns repeat it for SQL. Each write has a revision of
its own, above that of the stored one, for the header and its lines. A line that a
draft has lost is written once more as deleted, so the lines that FINAL reads are those
of the document. Lines go first: where a write is cut off, the old header makes the
next run write again.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec

from meters.errors import WarehouseError
from meters.scalars import canonical_json, parse_json
from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list

Document = Mapping[str, object]
"""An invoice as `Invoice.to_dict()` gives it."""

REPLACEABLE = ("draft", "held")
"""States in which an invoice may be written anew; others never change."""

_ENCODER = msgspec.json.Encoder()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_HEADER_TEXTS = (
    "invoice_id",
    "kind",
    "status",
    "number",
    "issuer",
    "currency",
    "billing_group",
    "catalog_hash",
    "hold_reason",
    "original_invoice_id",
    "reason_code",
    "target_hash",
)
_HEADER_AMOUNTS = ("subtotal", "discount", "credit", "tax", "total", "prepaid", "due")
_HEADER_INSTANTS = ("billing_date", "period_start", "period_end")
_LINE_TEXTS = (
    "line_id",
    "charge",
    "plan_version",
    "meter",
    "quantity",
    "unit_amount",
    "amount_exact",
    "tax_code",
    "tax_rate",
    "description",
    "original_invoice_id",
    "original_line_id",
    "reason_code",
    "target_hash",
)
_LINE_AMOUNTS = ("amount", "discount", "credit", "tax")

_STORED = """
SELECT invoice_id, status, revision, document FROM invoices FINAL
WHERE tenant_id = {tenant:String}
    AND invoice_id IN (SELECT arrayJoin(JSONExtract({ids:String}, 'Array(String)')))
"""

_LINES = """
SELECT * FROM invoice_lines FINAL WHERE tenant_id = {tenant:String}
    AND invoice_id IN (SELECT arrayJoin(JSONExtract({ids:String}, 'Array(String)')))
ORDER BY invoice_id, position
"""

_FILTERS = {
    "customer": "external_customer_id = {customer:String}",
    "subscription": "external_subscription_id = {subscription:String}",
    "status": "status = {status:String}",
    "ending_by": "period_end <= {ending_by:DateTime64(6, 'UTC')}",
}


def write_invoices(warehouse: Warehouse, tenant: str, documents: Sequence[Document]) -> list[str]:
    """Stores invoices with their lines; returns the ids of those that were written.

    One that is stored with the same content is not written again, and one that is
    neither a draft nor held stays as it is.
    """
    stored = _stored(warehouse, tenant, [_text(document, "invoice_id") for document in documents])
    now = datetime.now(UTC)
    fresh: dict[str, tuple[Document, int]] = {}
    rewritten: list[str] = []
    for document in documents:
        invoice_id = _text(document, "invoice_id")
        found = stored.get(invoice_id, _ABSENT)
        if found.status in REPLACEABLE and found.document != document_text(document):
            revision = max(found.revision + 1, _microseconds(now))
            fresh[invoice_id] = (document, revision)
            if found.revision:
                rewritten.append(invoice_id)
    if fresh:
        warehouse.insert_rows(
            "invoice_lines",
            [
                {**row, "is_deleted": 1, "revision": fresh[invoice_id][1], "updated_at": now}
                for row in invoice_lines(warehouse, tenant, rewritten)
                for invoice_id in [str(row["invoice_id"])]
                if row["line_id"] not in _line_ids(fresh[invoice_id][0])
            ]
            + [
                _line(line, position, document, tenant=tenant, revision=revision, now=now)
                for document, revision in fresh.values()
                for position, line in enumerate(_lines(document))
            ],
        )
        warehouse.insert_rows(
            "invoices",
            [
                _header(document, tenant=tenant, revision=revision, now=now)
                for document, revision in fresh.values()
            ],
        )
    return list(fresh)


def read_invoices(
    warehouse: Warehouse, tenant: str, invoice_ids: Sequence[str]
) -> dict[str, dict[str, object]]:
    """The stored documents of the given invoices, by id; missing ones are left out."""
    stored = _stored(warehouse, tenant, invoice_ids)
    return {invoice_id: _parsed(found.document) for invoice_id, found in stored.items()}


def list_invoices(
    warehouse: Warehouse,
    tenant: str,
    *,
    customer: str | None = None,
    subscription: str | None = None,
    status: str | None = None,
    ending_by: datetime | None = None,
) -> list[dict[str, object]]:
    """Stored documents by customer, period and id; `ending_by` bounds `period_end`."""
    given: dict[str, Value] = {
        "customer": customer,
        "subscription": subscription,
        "status": status,
        "ending_by": ending_by,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    where = " AND ".join(["tenant_id = {tenant:String}", *(_FILTERS[name] for name in chosen)])
    rows = warehouse.query_rows(
        f"SELECT document FROM invoices FINAL WHERE {where} "
        "ORDER BY external_customer_id, period_start, period_end, currency, invoice_id",
        {"tenant": tenant, **chosen},
    )
    return [_parsed(str(row["document"])) for row in rows]


def invoice_lines(
    warehouse: Warehouse, tenant: str, invoice_ids: Sequence[str]
) -> list[dict[str, object]]:
    """The columns of the lines that the stored invoices have now, in their order."""
    rows: list[dict[str, object]] = []
    for piece in chunks(sorted(set(invoice_ids)), warehouse.parameter_bytes):
        rows += warehouse.query_rows(_LINES, {"tenant": tenant, "ids": json_list(piece)})
    return rows


def document_text(value: object) -> str:
    """The JSON text of a document: canonical numbers and texts, keys in the order given."""
    return _ENCODER.encode(_canonical(value)).decode()


def _canonical(value: object) -> object:
    """The value with all numbers as their canonical text; most of it is text already."""
    if value is None or isinstance(value, str | bool | msgspec.Raw):
        return value
    if isinstance(value, Mapping):
        return {
            key: item if item is None or item.__class__ is str else _canonical(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return msgspec.Raw(canonical_json(value).encode())


@dataclass(frozen=True)
class _Stored:
    """What the warehouse holds of an invoice."""

    status: str
    revision: int
    document: str


_ABSENT = _Stored(status="draft", revision=0, document="")


def _stored(warehouse: Warehouse, tenant: str, invoice_ids: Sequence[str]) -> dict[str, _Stored]:
    found = {}
    for piece in chunks(sorted(set(invoice_ids)), warehouse.parameter_bytes):
        for row in warehouse.query_rows(_STORED, {"tenant": tenant, "ids": json_list(piece)}):
            found[str(row["invoice_id"])] = _Stored(
                str(row["status"]), int(str(row["revision"])), str(row["document"])
            )
    return found


def _header(document: Document, *, tenant: str, revision: int, now: datetime) -> dict[str, object]:
    return {
        "tenant_id": tenant,
        "external_customer_id": _text(document, "customer"),
        "external_subscription_id": _text(document, "subscription"),
        **{name: _text(document, name) for name in _HEADER_TEXTS},
        **{name: _amount(document, name) for name in _HEADER_AMOUNTS},
        **{name: _instant(document, name) for name in _HEADER_INSTANTS},
        **{name: _date(document, name) for name in ("issue_date", "due_date")},
        "sequence": document.get("sequence") or 0,
        "document": document_text(document),
        "revision": revision,
        "updated_at": now,
    }


def _line(
    line: Document,
    position: int,
    document: Document,
    *,
    tenant: str,
    revision: int,
    now: datetime,
) -> dict[str, object]:
    return {
        "tenant_id": tenant,
        "invoice_id": _text(document, "invoice_id"),
        "position": position,
        "external_subscription_id": _text(line, "subscription"),
        **{name: _text(line, name) for name in _LINE_TEXTS},
        **{name: _amount(line, name) for name in _LINE_AMOUNTS},
        **{name: _instant(line, name) for name in ("service_start", "service_end")},
        "group_key": canonical_json(line.get("group") or {}),
        "usage_revision": line.get("revision") or 0,
        "document": document_text(line),
        "revision": revision,
        "is_deleted": 0,
        "updated_at": now,
    }


def _line_ids(document: Document) -> set[str]:
    return {_text(line, "line_id") for line in _lines(document)}


def _lines(document: Document) -> list[Document]:
    lines = document.get("lines")
    return [line for line in lines if isinstance(line, Mapping)] if isinstance(lines, list) else []


def _text(document: Document, name: str) -> str:
    value = document.get(name)
    return "" if value is None else str(value)


def _amount(document: Document, name: str) -> Decimal:
    return Decimal(_text(document, name) or "0")


def _instant(document: Document, name: str) -> datetime | None:
    text = _text(document, name)
    return datetime.fromisoformat(text) if text else None


def _date(document: Document, name: str) -> date | None:
    text = _text(document, name)
    return date.fromisoformat(text) if text else None


def _parsed(text: str) -> dict[str, object]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise WarehouseError("document of an invoice must be a JSON object")
    return document


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
