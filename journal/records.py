"""What goes into the journal, and what comes out of it.

Documents are JSON objects as `beammeter bill` prints them; amounts are texts with the
decimals of their currency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal

from journal.chain import AuditEntry

Document = dict[str, object]
"""An invoice as JSON object."""


@dataclass(frozen=True)
class Entry:
    """One side of a movement of credit, as `billing.credits.LedgerEntry` has it, in texts."""

    ledger_entry_id: str
    customer: str
    kind: str
    account: str
    grant_id: str
    invoice_id: str
    currency: str
    amount: str
    at: str
    expires_at: str | None


@dataclass(frozen=True)
class Posting:
    """A document to be finalized, and all that is committed with it.

    `entries` may have those of a grant that is booked already; these are left out.
    `redemptions` maps a coupon to what it took off. `carried` is what the next invoice of
    the subscription begins with. `reason` says why it is final in spite of what would
    hold it.
    """

    document: Document
    entries: Sequence[Entry] = ()
    redemptions: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, object] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Issue:
    """What a document gets when it is finalized: whose number, which date, and the parties."""

    issuer: str
    number_format: str
    issue_date: date
    due_after_days: int
    parties: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """What one customer's documents should become.

    `version` is that of the history which the postings were computed from. Where it is no
    longer the journal's, nothing of the proposal is committed.
    """

    customer: str
    version: int
    issue: Issue
    postings: Sequence[Posting]


@dataclass(frozen=True)
class Recorded:
    """A document of the journal: `status` is `finalized` or `void`."""

    document: Document
    carried: Mapping[str, object]

    @property
    def void(self) -> bool:
        """Whether it was made void."""
        return self.document["status"] == "void"


@dataclass(frozen=True)
class History:
    """All that the journal knows of one customer.

    `balances` is what is left of each grant that is booked, `granted` its amount.
    """

    version: int = 0
    documents: Mapping[str, Recorded] = field(default_factory=dict)
    balances: Mapping[str, Decimal] = field(default_factory=dict)
    granted: Mapping[str, Decimal] = field(default_factory=dict)


NO_HISTORY = History()


@dataclass(frozen=True)
class Changes:
    """What some entries of the audit chain have brought: a part of every projection."""

    entries: Sequence[AuditEntry]
    documents: Sequence[tuple[int, Document]]
    """Documents with the number of the entry that changed them last."""
    ledger: Sequence[tuple[int, Entry]]
