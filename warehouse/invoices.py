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
from datetime import UTC, datetime, timedelta

import msgspec
import pyarrow as pa

from meters.errors import WarehouseError
from meters.scalars import canonical_json, parse_json
from warehouse.client import Warehouse
from warehouse.parameters import Value, chunks, json_list

Document = Mapping[str, object]
"""An invoice as `Invoice.to_dict()` gives it."""

REPLACEABLE = ("draft", "held")
"""States in which an invoice may be written anew; others never change."""

FINAL_REVISION = 1 << 62
"""Revisions of documents of the journal begin here; those of drafts are times."""

_ENCODER = msgspec.json.Encoder()
_AMOUNT = pa.decimal128(38, 12)
_INSTANT = pa.timestamp("us", "UTC")
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
SELECT i.invoice_id AS invoice_id, argMax(i.status, i.revision) AS status,
    argMax(i.document, i.revision) AS document, max(i.revision) AS revision
FROM invoices AS i
WHERE tenant_id = {tenant:String}
    AND invoice_id IN (SELECT arrayJoin(JSONExtract({ids:String}, 'Array(String)')))
GROUP BY i.invoice_id
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

_BEHIND = """
(negate(toUnixTimestamp64Micro(period_end)), invoice_id) > (
    SELECT (negate(toUnixTimestamp64Micro(period_end)), invoice_id) FROM invoices FINAL
    WHERE tenant_id = {tenant:String} AND invoice_id = {after:String}
)
"""


@dataclass(frozen=True, slots=True)
class Texts:
    """A document with its JSON text and the texts of its lines, each written once."""

    document: Document
    text: str
    lines: tuple[str, ...]

    @classmethod
    def of(cls, document: Document) -> Texts:
        """The texts of a document, each line's within that of the whole."""
        lines = [_ENCODER.encode(_canonical(line)) for line in _lines(document)]
        whole = {**document, "lines": [msgspec.Raw(line) for line in lines]}
        return cls(document, document_text(whole), tuple(line.decode() for line in lines))


def write_invoices(warehouse: Warehouse, tenant: str, documents: Sequence[Document]) -> list[str]:
    """Stores invoices with their lines; returns the ids of those that were written.

    One that is stored with the same content is not written again, and one that is
    neither a draft nor held stays as it is.
    """
    return write_texts(warehouse, tenant, [Texts.of(document) for document in documents])


def write_texts(warehouse: Warehouse, tenant: str, invoices: Sequence[Texts]) -> list[str]:
    """As `write_invoices`, where the texts are known already."""
    ids = [_text(invoice.document, "invoice_id") for invoice in invoices]
    stored = _stored(warehouse, tenant, ids)
    now = datetime.now(UTC)
    fresh: list[Texts] = []
    revisions: dict[str, int] = {}
    rewritten: list[str] = []
    for invoice_id, invoice in zip(ids, invoices, strict=True):
        found = stored.get(invoice_id, _ABSENT)
        if found.status in REPLACEABLE and found.document != invoice.text:
            fresh.append(invoice)
            revisions[invoice_id] = max(found.revision + 1, _microseconds(now))
            if found.revision:
                rewritten.append(invoice_id)
    if fresh:
        _delete_lost_lines(warehouse, tenant, rewritten, fresh, revisions, now)
        _write(warehouse, tenant, fresh, list(revisions.values()), now)
    return list(revisions)


def _delete_lost_lines(
    warehouse: Warehouse,
    tenant: str,
    rewritten: Sequence[str],
    fresh: Sequence[Texts],
    revisions: Mapping[str, int],
    now: datetime,
) -> None:
    """Lines that drafts have lost, once more and marked as deleted."""
    kept = {
        _text(line, "line_id")
        for invoice in fresh
        for line in _lines(invoice.document)
        if rewritten
    }
    lost = [
        {**row, "is_deleted": 1, "revision": revisions[str(row["invoice_id"])], "updated_at": now}
        for row in invoice_lines(warehouse, tenant, rewritten)
        if row["line_id"] not in kept
    ]
    if lost:
        warehouse.insert_rows("invoice_lines", lost)


def write_final_invoices(
    warehouse: Warehouse, tenant: str, documents: Sequence[tuple[int, Document]]
) -> None:
    """Stores finalized and void documents of the journal, whatever is stored already.

    Each comes with the number of the audit entry that changed it last, which makes its
    revision: above every draft's, and the same whenever it is written.
    """
    latest = {_text(document, "invoice_id"): (seq, document) for seq, document in documents}
    if not latest:
        return
    now = datetime.now(UTC)
    revisions = {name: FINAL_REVISION + seq for name, (seq, _) in latest.items()}
    fresh = [Texts.of(document) for _, document in latest.values()]
    _delete_lost_lines(warehouse, tenant, list(latest), fresh, revisions, now)
    _write(warehouse, tenant, fresh, list(revisions.values()), now)


def _write(
    warehouse: Warehouse,
    tenant: str,
    fresh: Sequence[Texts],
    revisions: Sequence[int],
    now: datetime,
) -> None:
    """Lines first: where a write is cut off, the old header makes the next run write again."""
    lines = _line_columns(fresh, revisions)
    _insert(warehouse, "invoice_lines", lines, tenant, now)
    headers = _header_columns(fresh, revisions)
    _insert(warehouse, "invoices", headers, tenant, now)


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


def invoice_page(
    warehouse: Warehouse,
    tenant: str,
    *,
    customer: str | None = None,
    subscription: str | None = None,
    status: str | None = None,
    ending_by: datetime | None = None,
    limit: int,
    after: str | None = None,
) -> tuple[list[dict[str, object]], str | None]:
    """At most `limit` stored documents behind the invoice `after`, and where to go on.

    Those whose period ends last come first, then by id. What is written between two pages
    moves none of the others. An `after` that is not stored gives nothing.
    """
    given: dict[str, Value] = {
        "customer": customer,
        "subscription": subscription,
        "status": status,
        "ending_by": ending_by,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    where = ["tenant_id = {tenant:String}", *(_FILTERS[name] for name in chosen)]
    if after is not None:
        where.append(_BEHIND)
        chosen["after"] = after
    rows = warehouse.query_rows(
        f"SELECT invoice_id, document FROM invoices FINAL WHERE {' AND '.join(where)} "
        "ORDER BY period_end DESC, invoice_id LIMIT {limit:UInt32}",
        {"tenant": tenant, "limit": limit + 1, **chosen},
    )
    found = [_parsed(str(row["document"])) for row in rows[:limit]]
    return found, str(rows[limit - 1]["invoice_id"]) if len(rows) > limit else None


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


_Columns = dict[str, pa.Array]


def _header_columns(invoices: Sequence[Texts], revisions: Sequence[int]) -> _Columns:
    documents = [invoice.document for invoice in invoices]
    return {
        "external_customer_id": _texts(documents, "customer"),
        "external_subscription_id": _texts(documents, "subscription"),
        **{name: _texts(documents, name) for name in _HEADER_TEXTS},
        **{name: _amounts(documents, name) for name in _HEADER_AMOUNTS},
        **{name: _instants(documents, name) for name in _HEADER_INSTANTS},
        **{name: _dates(documents, name) for name in ("issue_date", "due_date")},
        "sequence": _counts(documents, "sequence"),
        "document": pa.array([invoice.text for invoice in invoices], pa.string()),
        "revision": pa.array(revisions, pa.uint64()),
    }


def _line_columns(invoices: Sequence[Texts], revisions: Sequence[int]) -> _Columns:
    ids: list[str] = []
    positions: list[int] = []
    of_invoice: list[int] = []
    lines: list[Document] = []
    for invoice, revision in zip(invoices, revisions, strict=True):
        found = _lines(invoice.document)
        lines += found
        ids += [_text(invoice.document, "invoice_id")] * len(found)
        of_invoice += [revision] * len(found)
        positions += range(len(found))
    groups = [line.get("group") for line in lines]
    texts = [text for invoice in invoices for text in invoice.lines]
    return {
        "invoice_id": pa.array(ids, pa.string()),
        "position": pa.array(positions, pa.uint32()),
        "external_subscription_id": _texts(lines, "subscription"),
        **{name: _texts(lines, name) for name in _LINE_TEXTS},
        **{name: _amounts(lines, name) for name in _LINE_AMOUNTS},
        **{name: _instants(lines, name) for name in ("service_start", "service_end")},
        "group_key": pa.array([canonical_json(group) if group else "{}" for group in groups]),
        "usage_revision": _counts(lines, "revision"),
        "document": pa.array(texts, pa.string()),
        "revision": pa.array(of_invoice, pa.uint64()),
        "is_deleted": pa.array([0] * len(lines), pa.uint8()),
    }


def _insert(
    warehouse: Warehouse, table: str, columns: _Columns, tenant: str, now: datetime
) -> None:
    rows = len(columns["revision"])
    given = {
        "tenant_id": pa.repeat(pa.scalar(tenant, pa.string()), rows),
        **columns,
        "updated_at": pa.repeat(pa.scalar(now, _INSTANT), rows),
    }
    warehouse.insert(table, pa.table(given))


def _texts(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) for document in documents]
    return pa.array(
        [
            value if value.__class__ is str else "" if value is None else str(value)
            for value in values
        ],
        pa.string(),
    )


def _amounts(documents: Sequence[Document], name: str) -> pa.Array:
    values = [_text(document, name) or "0" for document in documents]
    return pa.array(values, pa.string()).cast(_AMOUNT)


def _instants(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) or None for document in documents]
    return pa.array(values, pa.string()).cast(_INSTANT)


def _dates(documents: Sequence[Document], name: str) -> pa.Array:
    values = [document.get(name) or None for document in documents]
    return pa.array(values, pa.string()).cast(pa.date32())


def _counts(documents: Sequence[Document], name: str) -> pa.Array:
    return pa.array([document.get(name) or 0 for document in documents], pa.uint32())


def _lines(document: Document) -> list[Document]:
    lines = document.get("lines")
    return [line for line in lines if isinstance(line, Mapping)] if isinstance(lines, list) else []


def _text(document: Document, name: str) -> str:
    value = document.get(name)
    return "" if value is None else str(value)


def _parsed(text: str) -> dict[str, object]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise WarehouseError("document of an invoice must be a JSON object")
    return document


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
