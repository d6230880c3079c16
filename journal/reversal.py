"""What a void gives back, and what must be made void before.

Credits go back by movements in the other direction, and whatever is billed next finds them.
Free units, commitments and thresholds go from document to document instead: one that others
were computed from can be made void only after these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from journal.records import Document, Entry, Recorded
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


def computed_from(one: Recorded, others: Iterable[Recorded]) -> Document | None:
    """The last document of a customer that was computed from what `one` has left, if any.

    `carried` names its `chain`: those of its period, its subscription or its customer that
    come after it (`billing.invoice.Chain`).
    """
    chain = one.carried.get("chain", "")
    found = [each for each in others if not each.void and _follows(one, each, chain)]
    return max(found, key=_place).document if found else None


def _follows(one: Recorded, other: Recorded, chain: object) -> bool:
    if not chain:
        return False
    if chain == "customer":
        return _place(other) > _place(one)
    same = all(_of(one, name) == _of(other, name) for name in ("subscription", "currency"))
    if chain == "subscription":
        return same and _place(other) > _place(one)
    within = same and _of(one, "period_start") == _of(other, "period_start")
    # The invoice at the start of a subscription has an empty period.
    begun = _of(other, "period_start") != _of(other, "period_end")
    return within and begun and _number(other) > _number(one)


def _place(each: Recorded) -> tuple[datetime, str, bytes, bool, int]:
    """Its place in the order of billing, as `billing.customer` has it."""
    names = "billing_date", "currency", "subscription"
    date, currency, subscription = (str(_of(each, name)) for name in names)
    return datetime.fromisoformat(date), currency, subscription.encode(), *_number(each)


def _number(each: Recorded) -> tuple[bool, int]:
    """Its place in its period: at thresholds by number, then at the end."""
    return not each.carried.get("within"), int(str(_of(each, "sequence")))


def _of(each: Recorded, name: str) -> object:
    return each.document[name]


def _restored_id(tenant: str, ledger_entry_id: str) -> str:
    key = canonical_json(["led", tenant, RESTORE, ledger_entry_id])
    return f"led_{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _negated(amount: str) -> str:
    return amount.removeprefix("-") if amount.startswith("-") else f"-{amount}"
