"""One transaction of the journal: what it adds, gathered first and written at its end."""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple
from datetime import date, timedelta
from typing import Any

from journal.chain import GENESIS, AuditEntry, content_hash, content_text
from journal.database import Statements, Value
from journal.records import Document, Entry, Issue, Posting, Proposal, Recorded
from meters.errors import JournalError
from meters.scalars import parse_json

_INSERTS = {
    "documents": 11,
    "voids": 5,
    "ledger": 12,
    "redemptions": 6,
    "audit_log": 9,
}
"""Tables to which rows are only added, and how many columns each has."""


def recorded(content: str, void: str | None) -> Recorded:
    """A document as it is now, from what the journal keeps of it."""
    kept = _parsed(content)
    document: Document = kept["document"]
    if void is not None:
        made = _parsed(void)
        document = {
            **document,
            "status": "void",
            "void": {name: made[name] for name in ("at", "actor", "reason")},
        }
    return Recorded(document, kept["carried"])


class Commit:
    """Additions to one tenant's part of the journal, within a transaction of its own."""

    def __init__(
        self, statements: Statements, tenant: str, actor: str, at: str, listed: str
    ) -> None:
        self._statements = statements
        self._tenant = tenant
        self._actor = actor
        self._at = at
        self._listed = listed
        head = statements.rows("SELECT entries, hash FROM heads WHERE tenant = ?", (tenant,))
        self._seq, self._hash = (int(head[0][0]), str(head[0][1])) if head else (0, GENESIS)
        self._numbers = {
            (issuer, kind, int(year)): (int(last), str(last_date))
            for issuer, kind, year, last, last_date in statements.rows(
                "SELECT issuer, kind, year, last, last_date FROM numbers WHERE tenant = ?",
                (tenant,),
            )
        }
        self._booked: set[str] = set()
        self._changed: dict[str, int] = {}
        self._rows: dict[str, list[tuple[Value, ...]]] = {table: [] for table in _INSERTS}

    def stale(self, proposals: Sequence[Proposal]) -> set[str]:
        """The customers whose history is no longer what their proposal was computed from."""
        versions = self._versions([proposal.customer for proposal in proposals])
        grants = {
            entry.ledger_entry_id
            for proposal in proposals
            for posting in proposal.postings
            for entry in posting.entries
            if entry.kind == "grant"
        }
        self._booked = {
            row[0]
            for row in self._statements.rows(
                "SELECT ledger_entry_id FROM ledger WHERE tenant = ? "
                f"AND ledger_entry_id IN ({self._listed})",
                (self._tenant, json.dumps(sorted(grants))),
            )
        }
        found = set()
        for proposal in proposals:
            if versions.get(proposal.customer, 0) != proposal.version:
                found.add(proposal.customer)
            elif proposal.postings:
                self._changed[proposal.customer] = proposal.version + 1
        return found

    def finalize(self, issue: Issue, posting: Posting) -> Document:
        """Number and date a document, and add all that belongs to it."""
        draft = posting.document
        customer, subscription = str(draft["customer"]), str(draft["subscription"] or "")
        kind, invoice_id = str(draft["kind"]), str(draft["invoice_id"])
        issued, number = self._number(issue, kind)
        shown = issue.number_format.format(year=issued.year, number=number)
        document: Document = {
            **draft,
            "status": "finalized",
            "hold_reason": None,
            "number": shown,
            "issuer": issue.issuer,
            "issue_date": issued.isoformat(),
            "due_date": (issued + timedelta(days=issue.due_after_days)).isoformat(),
            **issue.parties,
        }
        entries = [e for e in posting.entries if e.ledger_entry_id not in self._booked]
        self._booked |= {entry.ledger_entry_id for entry in entries}
        text = content_text(
            {
                "document": document,
                "carried": posting.carried,
                "redemptions": posting.redemptions,
                "entries": [astuple(entry) for entry in entries],
            }
        )
        action = "finalize_open" if posting.reason else "finalize"
        seq = self._audit(action, invoice_id, posting.reason, text)
        key = (self._tenant, invoice_id, customer, subscription, kind, issue.issuer)
        self._add("documents", *key, issued.year, number, shown, seq, text)
        self._add_entries(entries, seq)
        period = str(draft["billing_date"])
        for coupon, amount in posting.redemptions.items():
            self._add("redemptions", self._tenant, coupon, subscription, period, invoice_id, amount)
        return document

    def void(self, customer: str, invoice_id: str, reason: str, entries: Sequence[Entry]) -> str:
        """Make a document void; returns what is kept of that."""
        text = content_text(
            {
                "at": self._at,
                "actor": self._actor,
                "reason": reason,
                "entries": [astuple(entry) for entry in entries],
            }
        )
        seq = self._audit("void", invoice_id, reason, text)
        self._add("voids", self._tenant, invoice_id, customer, seq, text)
        self._add_entries(entries, seq)
        # What is unique for a period is free again for the document that comes next.
        self._statements.run(
            "DELETE FROM redemptions WHERE tenant = ? AND invoice_id = ?",
            [(self._tenant, invoice_id)],
        )
        self._changed[customer] = self._versions([customer]).get(customer, 0) + 1
        return text

    def write(self) -> None:
        """Write everything that was gathered."""
        for table, width in _INSERTS.items():
            if self._rows[table]:
                places = ", ".join("?" * width)
                self._statements.run(f"INSERT INTO {table} VALUES ({places})", self._rows[table])
        self._upsert("customers", ("customer",), ("version",), self._changed_rows())
        self._upsert(
            "numbers",
            ("issuer", "kind", "year"),
            ("last", "last_date"),
            [(self._tenant, *key, *last) for key, last in self._numbers.items()],
        )
        if self._rows["audit_log"]:
            head = [(self._tenant, self._seq, self._hash)]
            self._upsert("heads", (), ("entries", "hash"), head)

    def _changed_rows(self) -> list[tuple[Value, ...]]:
        return [(self._tenant, customer, version) for customer, version in self._changed.items()]

    def _upsert(
        self,
        table: str,
        keys: Sequence[str],
        columns: Sequence[str],
        rows: Sequence[tuple[Value, ...]],
    ) -> None:
        if not rows:
            return
        places = ", ".join("?" * len(rows[0]))
        key = ", ".join(("tenant", *keys))
        updated = ", ".join(f"{name} = excluded.{name}" for name in columns)
        self._statements.run(
            f"INSERT INTO {table} VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {updated}",
            rows,
        )

    def _versions(self, customers: Sequence[str]) -> dict[str, int]:
        rows = self._statements.rows(
            "SELECT customer, version FROM customers WHERE tenant = ? "
            f"AND customer IN ({self._listed})",
            (self._tenant, json.dumps(sorted(set(customers)))),
        )
        return {customer: int(version) for customer, version in rows}

    def _number(self, issue: Issue, kind: str) -> tuple[date, int]:
        """The date of issue, and the next number of its year."""
        wanted = issue.issue_date.isoformat()
        last_date = max(
            (
                last_date
                for (issuer, each, _), (_, last_date) in self._numbers.items()
                if (issuer, each) == (issue.issuer, kind)
            ),
            default=wanted,
        )
        issued = date.fromisoformat(max(wanted, last_date))
        key = (issue.issuer, kind, issued.year)
        number = self._numbers.get(key, (0, ""))[0] + 1
        self._numbers[key] = (number, issued.isoformat())
        return issued, number

    def _audit(self, action: str, name: str, reason: str, content: str) -> int:
        self._seq += 1
        entry = AuditEntry(
            tenant=self._tenant,
            seq=self._seq,
            at=self._at,
            actor=self._actor,
            action=action,
            object=name,
            reason=reason,
            content_hash=content_hash(content),
            prev_hash=self._hash,
        )
        self._hash = entry.hash
        self._add("audit_log", *astuple(entry))
        return self._seq

    def _add_entries(self, entries: Sequence[Entry], seq: int) -> None:
        for entry in entries:
            self._add("ledger", self._tenant, *astuple(entry), seq)

    def _add(self, table: str, *values: Value) -> None:
        self._rows[table].append(values)


def _parsed(text: str) -> Any:
    found = parse_json(text)
    if not isinstance(found, dict):
        raise JournalError("content of the journal must be a JSON object")
    return found
