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
from typing import Any

from meters.errors import WarehouseError
from meters.periods import Span
from meters.scalars import parse_json
from warehouse.client import Warehouse
from warehouse.invoice_columns import TABLES, Document, Rows
from warehouse.parameters import Value, chunks, json_list

WITHDRAWN = "withdrawn"
"""A draft that no longer results from catalog and usage; lists leave it out unless asked."""
REPLACEABLE = ("draft", "held", WITHDRAWN)
"""States in which an invoice may be written anew; others never change."""

FINAL_REVISION = 1 << 62
"""Revisions of documents of the journal begin here; those of drafts are times."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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

_FINAL_SERVICE = """
SELECT i.external_customer_id AS customer, l.external_subscription_id AS subscription,
    toString(l.meter) AS line_meter, l.service_start AS start, l.service_end AS end
FROM (
    SELECT invoice_id, external_subscription_id, meter, service_start, service_end
    FROM invoice_lines FINAL
    WHERE tenant_id = {tenant:String} AND meter != ''
        AND service_start IS NOT NULL AND service_end IS NOT NULL
        AND external_subscription_id IN (
            SELECT arrayJoin(JSONExtract({ids:String}, 'Array(String)'))
        )
) AS l
INNER JOIN (
    SELECT invoice_id, external_customer_id FROM invoices FINAL
    WHERE tenant_id = {tenant:String} AND status = 'finalized'
) AS i ON l.invoice_id = i.invoice_id
GROUP BY customer, subscription, line_meter, start, end
ORDER BY customer, subscription, line_meter, start, end
"""

_FILTERS = {
    "customer": "external_customer_id = {customer:String}",
    "subscription": "external_subscription_id = {subscription:String}",
    "status": "status = {status:String}",
    "ending_by": "period_end <= {ending_by:DateTime64(6, 'UTC')}",
}

_DRAFTS = """
FROM invoices FINAL
WHERE tenant_id = {tenant:String} AND status IN ('draft', 'held')
    AND billing_date <= {by:DateTime64(6, 'UTC')}
    AND ({customer:Nullable(String)} IS NULL
        OR external_customer_id = {customer:Nullable(String)})
"""
_COUNTED = f"SELECT count() AS drafts {_DRAFTS}"
_OLDER = f"""
SELECT invoice_id, external_customer_id AS customer {_DRAFTS} AND revision < {{before:UInt64}}
ORDER BY invoice_id
"""

_BEHIND = """
(negate(toUnixTimestamp64Micro(period_end)), invoice_id) > (
    SELECT (negate(toUnixTimestamp64Micro(period_end)), invoice_id) FROM invoices FINAL
    WHERE tenant_id = {tenant:String} AND invoice_id = {after:String}
)
"""


def write_invoices(warehouse: Warehouse, tenant: str, documents: Sequence[Document]) -> list[str]:
    """Stores invoices with their lines; returns the ids of those that were written.

    One that is stored with the same content is not written again, and one that is
    neither a draft nor held stays as it is.
    """
    return write_rows(warehouse, tenant, Rows.of(documents))


def write_rows(warehouse: Warehouse, tenant: str, rows: Rows) -> list[str]:
    """As `write_invoices`, where documents are columns already."""
    ids = rows.ids
    stored = _stored(warehouse, tenant, ids)
    now = datetime.now(UTC)
    revisions: dict[str, int] = {}
    rewritten: list[str] = []
    for invoice_id, document in zip(ids, rows.documents, strict=True):
        found = stored.get(invoice_id, _ABSENT)
        if found.status in REPLACEABLE and found.document != document:
            revisions[invoice_id] = max(found.revision + 1, _microseconds(now))
            if found.revision:
                rewritten.append(invoice_id)
    if revisions:
        fresh = rows if len(revisions) == len(ids) else rows.only(list(revisions))
        _delete_lost_lines(warehouse, tenant, rewritten, fresh, revisions, now)
        _write(warehouse, tenant, fresh, list(revisions.values()), now)
    return list(revisions)


def _delete_lost_lines(
    warehouse: Warehouse,
    tenant: str,
    rewritten: Sequence[str],
    fresh: Rows,
    revisions: Mapping[str, int],
    now: datetime,
) -> None:
    """Lines that drafts have lost, once more and marked as deleted."""
    if not rewritten:
        return
    kept = set(fresh.lines["line_id"].to_pylist())
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
    latest = {str(document["invoice_id"]): (seq, document) for seq, document in documents}
    if not latest:
        return
    now = datetime.now(UTC)
    revisions = {name: FINAL_REVISION + seq for name, (seq, _) in latest.items()}
    fresh = Rows.of([document for _, document in latest.values()])
    _delete_lost_lines(warehouse, tenant, list(latest), fresh, revisions, now)
    _write(warehouse, tenant, fresh, list(revisions.values()), now)


def _write(
    warehouse: Warehouse, tenant: str, rows: Rows, revisions: Sequence[int], now: datetime
) -> None:
    """Lines first: where a write is cut off, the old header makes the next run write again."""
    for table, columns in zip(TABLES, rows.written(tenant, revisions, now), strict=True):
        warehouse.insert(table, columns)


def count_drafts(warehouse: Warehouse, tenant: str, by: datetime, customer: str | None) -> int:
    """How many drafts and held invoices with a billing date until `by` are stored."""
    given: dict[str, Value] = {"tenant": tenant, "by": by, "customer": customer}
    return int(str(warehouse.query_rows(_COUNTED, given)[0]["drafts"]))


def drafts_before(
    warehouse: Warehouse, tenant: str, by: datetime, customer: str | None, before: datetime
) -> dict[str, str]:
    """Those of `count_drafts` that were written before an instant: their customers by id."""
    given: dict[str, Value] = {"tenant": tenant, "by": by, "customer": customer}
    rows = warehouse.query_rows(_OLDER, {**given, "before": _microseconds(before)})
    return {str(row["invoice_id"]): str(row["customer"]) for row in rows}


def withdraw(warehouse: Warehouse, tenant: str, invoice_ids: Sequence[str]) -> list[str]:
    """Marks drafts as withdrawn; returns the ids of those that were none before."""
    found = read_invoices(warehouse, tenant, invoice_ids).values()
    return write_invoices(
        warehouse,
        tenant,
        [{**document, "status": WITHDRAWN, "hold_reason": None} for document in found],
    )


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
    """Stored documents by customer, period and id; `ending_by` bounds `period_end`.

    Those of any `status` but withdrawn ones, or of this one.
    """
    chosen, conditions = _choice(tenant, customer, subscription, status, ending_by)
    where = " AND ".join(conditions)
    rows = warehouse.query_rows(
        f"SELECT document FROM invoices FINAL WHERE {where} "
        "ORDER BY external_customer_id, period_start, period_end, currency, invoice_id",
        chosen,
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
    moves none of the others. An `after` that is not stored gives nothing. `status` as in
    `list_invoices`.
    """
    chosen, where = _choice(tenant, customer, subscription, status, ending_by)
    if after is not None:
        where.append(_BEHIND)
        chosen["after"] = after
    rows = warehouse.query_rows(
        f"SELECT invoice_id, document FROM invoices FINAL WHERE {' AND '.join(where)} "
        "ORDER BY period_end DESC, invoice_id LIMIT {limit:UInt32}",
        {**chosen, "limit": limit + 1},
    )
    found = [_parsed(str(row["document"])) for row in rows[:limit]]
    return found, str(rows[limit - 1]["invoice_id"]) if len(rows) > limit else None


def _choice(
    tenant: str,
    customer: str | None,
    subscription: str | None,
    status: str | None,
    ending_by: datetime | None,
) -> tuple[dict[str, Value], list[str]]:
    """The parameters and conditions of a list."""
    given: dict[str, Value] = {
        "customer": customer,
        "subscription": subscription,
        "status": status,
        "ending_by": ending_by,
    }
    names = [name for name, value in given.items() if value is not None]
    where = ["tenant_id = {tenant:String}", *(_FILTERS[name] for name in names)]
    if status is None:
        where.append(f"status != '{WITHDRAWN}'")
    return {"tenant": tenant, **{name: given[name] for name in names}}, where


def invoice_lines(
    warehouse: Warehouse, tenant: str, invoice_ids: Sequence[str]
) -> list[dict[str, object]]:
    """The columns of the lines that the stored invoices have now, in their order."""
    rows: list[dict[str, object]] = []
    for piece in chunks(sorted(set(invoice_ids)), warehouse.parameter_bytes):
        rows += warehouse.query_rows(_LINES, {"tenant": tenant, "ids": json_list(piece)})
    return rows


def final_service(
    warehouse: Warehouse, tenant: str, subscriptions: Sequence[str]
) -> dict[tuple[str, str, str], list[Span]]:
    """The spans that lines of finalized invoices are for, by customer, subscription and meter."""
    found: dict[tuple[str, str, str], list[Span]] = {}
    for piece in chunks(sorted(set(subscriptions)), warehouse.parameter_bytes):
        rows: list[dict[str, Any]] = warehouse.query_rows(
            _FINAL_SERVICE, {"tenant": tenant, "ids": json_list(piece)}
        )
        for row in rows:
            key = row["customer"], row["subscription"], row["line_meter"]
            found.setdefault(key, []).append(Span(row["start"], row["end"]))
    return found


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


def _parsed(text: str) -> dict[str, object]:
    document = parse_json(text)
    if not isinstance(document, dict):
        raise WarehouseError("document of an invoice must be a JSON object")
    return document


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)
