"""What a void gives back: movements of credit in the other direction."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from journal.records import Entry
from meters.scalars import canonical_json

RESTORE = "restore"
"""The kind of an entry that takes another one back."""
_TAKEN_BACK = ("burn", "expire")


def reversals(tenant: str, invoice_id: str, ledger: Sequence[Entry], at: str) -> list[Entry]:
    """The entries that take back what a document has burnt, and what has lapsed since.

    `ledger` has all entries of the customer. Grants that the document has burnt are as
    full afterwards as if it had never been: also what was left of them at their expiry is
    given back, and lapses again with the next document. They keep their expiry.
    """
    undone = {entry.ledger_entry_id for entry in ledger if entry.kind == RESTORE}
    burnt = {e.grant_id for e in ledger if e.kind == "burn" and e.invoice_id == invoice_id}
    found = []
    for entry in ledger:
        mine = entry.invoice_id == invoice_id
        lapsed = entry.kind == "expire" and entry.grant_id in burnt
        if entry.kind not in _TAKEN_BACK or not (mine or lapsed):
            continue
        restored_id = _restored_id(tenant, entry.ledger_entry_id)
        if restored_id not in undone:
            found.append(
                replace(
                    entry,
                    ledger_entry_id=restored_id,
                    kind=RESTORE,
                    invoice_id=invoice_id,
                    amount=_negated(entry.amount),
                    at=at,
                )
            )
    return found


def _restored_id(tenant: str, ledger_entry_id: str) -> str:
    key = canonical_json(["led", tenant, RESTORE, ledger_entry_id])
    return f"led_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _negated(amount: str) -> str:
    return amount.removeprefix("-") if amount.startswith("-") else f"-{amount}"
