"""Projections of the journal: its ledger and audit log, for reading by SQL.

Rows are written again as often as anybody likes: they are the same each time. The audit
log is written last, so that it says up to where everything is there.
"""

# Statements are made of constants of this program alone; values are parameters.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from meters.scalars import canonical_json
from warehouse.client import Warehouse

# The last entry up to which none is missing: an earlier writer may still be on its way.
_PROJECTED = """
SELECT max(each) AS seq FROM (
    SELECT seq AS each, row_number() OVER (ORDER BY seq) AS position
    FROM audit_log FINAL WHERE tenant_id = {tenant:String}
) WHERE each = position
"""
_ENTRY = """
SELECT content_hash, prev_hash FROM audit_log FINAL
WHERE tenant_id = {tenant:String} AND seq = {seq:UInt64}
"""


def projected_until(warehouse: Warehouse, tenant: str) -> int:
    """The number of the audit entry up to which the projections are complete; 0: of none."""
    [row] = warehouse.query_rows(_PROJECTED, {"tenant": tenant})
    return int(str(row["seq"]))


def projected_entry(warehouse: Warehouse, tenant: str, seq: int) -> tuple[str, str] | None:
    """`content_hash` and `prev_hash` of an entry of the audit log."""
    rows = warehouse.query_rows(_ENTRY, {"tenant": tenant, "seq": seq})
    return (str(rows[0]["content_hash"]), str(rows[0]["prev_hash"])) if rows else None


def write_ledger(
    warehouse: Warehouse, tenant: str, entries: Sequence[tuple[int, Mapping[str, str | None]]]
) -> None:
    """Stores entries of the credit ledger, each with the number of its audit entry."""
    now = datetime.now(UTC)
    rows = [
        {
            "tenant_id": tenant,
            "external_customer_id": entry["customer"],
            "ledger_entry_id": entry["ledger_entry_id"],
            "kind": entry["kind"],
            "account": entry["account"],
            "grant_id": entry["grant_id"],
            "invoice_id": entry["invoice_id"],
            "currency": entry["currency"],
            "amount": Decimal(entry["amount"] or 0),
            "at": _instant(entry["at"]),
            "expires_at": _instant(entry["expires_at"]),
            "document": canonical_json(dict(entry)),
            "revision": seq,
            "updated_at": now,
        }
        for seq, entry in entries
    ]
    if rows:
        warehouse.insert_rows("credit_ledger", rows)


def write_audit_log(
    warehouse: Warehouse, tenant: str, entries: Sequence[Mapping[str, object]]
) -> None:
    """Stores entries of the audit log, as `journal.chain.AuditEntry` has them."""
    rows = [
        {
            **{name: value for name, value in entry.items() if name != "tenant"},
            "tenant_id": tenant,
            "at": _instant(str(entry["at"])),
        }
        for entry in entries
    ]
    if rows:
        warehouse.insert_rows("audit_log", rows)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
