"""What is final of one customer already: later invoices go on from there.

    finalized invoice --carried_of--> JSON kept beside it --carried_from--> next invoice

Finalized invoices are not rated again. Balances of credit are those that they have left,
and the state that goes from invoice to invoice is what each was finalized with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.credits import Balances
from billing.invoice import Chain, Committed, Invoice
from billing.slots import Slot
from meters.catalog_terms import CreditGrant

CREDIT_CHANGED = "credit_changed"
"""Held: a grant is not the amount that was booked for it."""
PERIOD_BILLED = "period_billed"
"""Held: another invoice of the subscription is final for a part of the period."""


@dataclass(frozen=True)
class Carried:
    """What a finalized invoice hands on to those after it."""

    committed: Committed = Committed()
    allowances: str = ""
    """`billing.allowances.Allowances.state()` after it."""
    chain: Chain = ""
    within: bool = False
    """Whether it bills usage within its period, at a threshold."""


@dataclass(frozen=True)
class Past:
    """Finalized and void invoices of one customer, by their ids.

    `final` has what each finalized one hands on, `void` those that stand for nothing.
    `spans` are the periods of finalized ones by subscription. `parts` has, by subscription
    and start of the period, until when finalized ones at thresholds go and their numbers,
    in order. `balances` is what is left of each booked grant, `granted` its amount.
    """

    final: Mapping[str, Carried] = field(default_factory=dict)
    void: frozenset[str] = frozenset()
    spans: Mapping[str, Sequence[tuple[datetime, datetime]]] = field(default_factory=dict)
    parts: Mapping[tuple[str, datetime], Sequence[tuple[datetime, int]]] = field(
        default_factory=dict
    )
    balances: Balances = field(default_factory=dict)
    granted: Mapping[str, Decimal] = field(default_factory=dict)

    def slot(self, slot: Slot, tenant: str) -> Slot:
        """The slot with the next sequence where invoices of it were made void."""
        while self.void and slot.invoice_id(tenant) in self.void:
            slot = replace(slot, sequence=slot.sequence + 1)
        return slot

    def is_final(self, slot: Slot, tenant: str) -> bool:
        """Whether the slot's invoice is finalized, so that nothing of it is rated."""
        return bool(self.final) and self.slot(slot, tenant).invoice_id(tenant) in self.final

    def is_billed(self, slot: Slot) -> bool:
        """Whether usage until the end of a slot within its period is on a final invoice."""
        if slot.until is None or slot.arrears is None:
            return False
        known = self.parts.get((slot.subscription, slot.arrears.part.start))
        return known is not None and slot.until <= known[-1][0]

    def hold_reason(self, slot: Slot, grants: Sequence[CreditGrant]) -> str | None:
        """Why an invoice of a slot that is not final cannot become final."""
        if slot.arrears is not None:
            part = slot.arrears.part
            for start, end in self.spans.get(slot.subscription, ()):
                if start < part.end and part.start < end:
                    return PERIOD_BILLED
            for (name, start), ends in self.parts.items():
                mine = name == slot.subscription and start != part.start
                if mine and start < part.end and part.start < ends[-1][0]:
                    return PERIOD_BILLED
        for grant in grants:
            if self.granted.get(grant.id, grant.amount) != grant.amount:
                return CREDIT_CHANGED
        return None


NO_PAST = Past()


def carried_of(invoice: Invoice) -> dict[str, object]:
    """What an invoice hands on to those after it, as JSON."""
    committed = invoice.committed
    return {
        "committed": {
            "spent": str(committed.spent),
            "overage": str(committed.overage),
            "ahead": str(committed.ahead),
        },
        "allowances": invoice.allowances,
        "chain": invoice.chain,
        "within": invoice.within,
    }


def carried_from(carried: Mapping[str, object]) -> Carried:
    """What `carried_of` wrote down."""
    kept = carried.get("committed")
    if not isinstance(kept, Mapping):
        return Carried()
    committed = Committed(
        spent=Fraction(str(kept["spent"])),
        overage=Decimal(str(kept["overage"])),
        ahead=Fraction(str(kept["ahead"])),
    )
    chain: Any = carried.get("chain", "")
    allowances = str(carried.get("allowances", ""))
    return Carried(committed, allowances, chain, bool(carried.get("within", False)))
