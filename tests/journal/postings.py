"""Small documents and proposals that say only what a test is about."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from journal.journal import Journal
from journal.records import Entry, Issue, Posting, Proposal

ISSUE = Issue("eu", "EU-{year}-{number:03}", date(2026, 11, 3), 14, {"seller": {"country": "NL"}})


def document(invoice_id: str, customer: str = "acme", **more: Any) -> dict[str, Any]:
    """A draft."""
    return {
        "invoice_id": invoice_id,
        "kind": "invoice",
        "status": "draft",
        "hold_reason": None,
        "number": None,
        "issuer": None,
        "customer": customer,
        "subscription": "sub",
        "currency": "EUR",
        "billing_date": "2026-11-01T00:00:00Z",
        "issue_date": None,
        "due_date": None,
        "lines": [],
        "total": "1.00",
        **more,
    }


def moved(
    invoice_id: str, grant: str, amount: str, kind: str, customer: str = "acme"
) -> list[Entry]:
    """Both entries of a movement; `amount` goes into the grant (out of it where negative)."""
    other = amount.removeprefix("-") if amount.startswith("-") else f"-{amount}"
    cause = "" if kind == "grant" else invoice_id
    made = []
    for account, moved_amount in ((f"grant:{grant}", amount), (f"other:{cause}", other)):
        key = f"{customer}/{grant}/{kind}/{cause}/{account}"
        made.append(
            Entry(
                ledger_entry_id=key,
                customer=customer,
                kind=kind,
                account=account,
                grant_id=grant,
                invoice_id=cause,
                currency="EUR",
                amount=moved_amount,
                at="2026-11-01T00:00:00Z",
                expires_at=None,
            )
        )
    return made


def burning(invoice_id: str, amount: str, grant: str = "g", customer: str = "acme") -> Posting:
    """A document that burns so much of a grant of 10.00."""
    granted = moved(invoice_id, grant, "10.00", "grant", customer)
    burnt = moved(invoice_id, grant, f"-{amount}", "burn", customer)
    return Posting(document(invoice_id, customer), (*granted, *burnt))


def plain(invoice_id: str, customer: str = "acme", **more: Any) -> Posting:
    """A document without credits."""
    return Posting(document(invoice_id, customer, **more))


def proposal(
    *postings: Posting, version: int = 0, customer: str = "acme", issue: Issue = ISSUE
) -> Proposal:
    """What becomes of one customer."""
    return Proposal(customer, version, issue, postings)


def finalized(
    journal: Journal, tenant: str, *postings: Posting, version: int = 0, issue: Issue = ISSUE
) -> list[Mapping[str, Any]]:
    """Finalize documents of acme, which must not be stale."""
    given = proposal(*postings, version=version, issue=issue)
    documents, stale = journal.finalize(tenant, [given], actor="ana")
    assert not stale
    return list(documents)
