"""The journal: where documents become final, once, with everything that belongs to them.

    histories(customers) -> rate -> Proposal --finalize--> numbers, documents, ledger
                                                           entries, redemptions, audit entry
    changes(after)       -> projections in the warehouse, which can be made anew

One transaction commits all documents of a customer or none. Proposals say which history
they were computed from; where somebody else has changed it meanwhile, they are stale and
must be computed again. So two runs at once, or one that was killed and started
again, burn no credit and give no number twice.
"""

# Statements are made of constants of this program alone; values are parameters.
# ruff: noqa: S608

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Self

from journal.address import SqliteFile, parse_journal_url
from journal.chain import AuditEntry
from journal.commit import Commit, recorded
from journal.database import Database, Statements, open_database
from journal.records import Changes, Document, Entry, History, Proposal, Recorded
from journal.reversal import computed_from, reversals
from journal.schema import migrate_journal
from meters.errors import ConfigurationError
from meters.numbers import EXACT
from meters.timestamps import format_instant

_ENTRY = (
    "ledger_entry_id, customer, kind, account, grant_id, invoice_id, currency, amount, at, "
    "expires_at"
)
_GRANTS = (
    f"SELECT {_ENTRY} FROM ledger WHERE tenant = ? "
    "AND grant_id != '' AND substr(account, 1, 6) = 'grant:'"
)
_LAST = 2**62
"""Behind every entry of the audit chain."""
_DOCUMENTS = """
SELECT d.customer, d.content, v.content FROM documents d
LEFT JOIN voids v ON v.tenant = d.tenant AND v.invoice_id = d.invoice_id
WHERE d.tenant = ?
"""


class Journal:
    """One journal; safe for use by several threads. Workers open their own by its URL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name = database.name
        """The URL without a password, for messages."""

    @classmethod
    def connect(cls, url: str, *, from_environment: bool = False) -> Self:
        """Opens the journal at `url`, makes it where it is missing, and migrates it.

        Raises ConfigurationError for a URL of no known form or a journal of a newer
        release, JournalError for one that cannot be read, JournalUnavailable where the
        server does not answer.
        """
        address = parse_journal_url(url, from_environment=from_environment)
        journal = cls(open_database(address, create=True))
        migrate_journal(journal._database)
        return journal

    @classmethod
    def connect_existing(cls, url: str, *, from_environment: bool = False) -> Self | None:
        """The same, but None where the file of a journal is not there: nothing is made."""
        address = parse_journal_url(url, from_environment=from_environment)
        if isinstance(address, SqliteFile) and not address.exists:
            return None
        return cls.connect(url, from_environment=from_environment)

    def histories(self, tenant: str, customers: Sequence[str]) -> dict[str, History]:
        """All that is known of these customers, as of one moment; one without is left out."""
        listed = (tenant, json.dumps(sorted(set(customers))))
        these = f"customer IN ({self._database.listed})"
        with self._database.reading() as statements:
            versions: dict[str, int] = dict(
                statements.rows(
                    f"SELECT customer, version FROM customers WHERE tenant = ? AND {these}", listed
                )
            )
            if not versions:
                return {}
            documents: dict[str, dict[str, Recorded]] = {}
            for customer, content, void in statements.rows(
                f"{_DOCUMENTS} AND d.{these} ORDER BY d.seq", listed
            ):
                found = recorded(content, void)
                documents.setdefault(customer, {})[str(found.document["invoice_id"])] = found
            entries = _entries(statements.rows(f"{_GRANTS} AND {these}", listed))
        balances: dict[str, dict[str, Decimal]] = {name: {} for name in versions}
        granted: dict[str, dict[str, Decimal]] = {name: {} for name in versions}
        for entry in entries:
            _book(entry, balances[entry.customer], granted[entry.customer])
        return {
            name: History(version, documents.get(name, {}), balances[name], granted[name])
            for name, version in versions.items()
        }

    def history_before(self, tenant: str, customer: str, invoice_id: str) -> History:
        """What a document was computed from: all that was committed of its customer before it.

        Where it is not final, all that is committed.
        """
        with self._database.reading() as statements:
            found = statements.rows(
                "SELECT seq FROM documents WHERE tenant = ? AND invoice_id = ?",
                (tenant, invoice_id),
            )
            until = int(found[0][0]) if found else _LAST
            given = (tenant, customer, until)
            rows = statements.rows(
                "SELECT d.content, CASE WHEN v.seq < ? THEN v.content END FROM documents d "
                "LEFT JOIN voids v ON v.tenant = d.tenant AND v.invoice_id = d.invoice_id "
                "WHERE d.tenant = ? AND d.customer = ? AND d.seq < ? ORDER BY d.seq",
                (until, *given),
            )
            entries = _entries(statements.rows(f"{_GRANTS} AND customer = ? AND seq < ?", given))
        documents = [recorded(content, void) for content, void in rows]
        balances: dict[str, Decimal] = {}
        granted: dict[str, Decimal] = {}
        for entry in entries:
            _book(entry, balances, granted)
        return History(
            documents={str(each.document["invoice_id"]): each for each in documents},
            balances=balances,
            granted=granted,
        )

    def finalize(
        self, tenant: str, proposals: Sequence[Proposal], *, actor: str
    ) -> tuple[list[Document], list[str]]:
        """Commits proposals in one transaction.

        Returns the finalized documents in their order, and the customers whose proposals
        were stale: of these nothing was committed. Dates of issue never go back within the
        numbers of an issuer: where the last one is later than what was asked for, it is
        taken.
        """
        with self._database.writing(tenant) as statements:
            commit = Commit(statements, tenant, actor, _now(), self._database.listed)
            stale = commit.stale(proposals)
            documents = [
                commit.finalize(proposal.issue, posting)
                for proposal in proposals
                if proposal.customer not in stale
                for posting in proposal.postings
            ]
            commit.write()
        return documents, sorted(stale)

    def void(self, tenant: str, invoice_id: str, *, actor: str, reason: str) -> Document:
        """Makes a finalized document void; one that is void already stays as it is.

        It keeps its number. Credits that it burnt and coupons that it took are given back.
        Raises ConfigurationError where no such document was finalized, or where a later one
        was computed from what it has left; that one must be made void first.
        """
        with self._database.writing(tenant) as statements:
            rows = statements.rows(f"{_DOCUMENTS} AND d.invoice_id = ?", (tenant, invoice_id))
            if not rows:
                raise ConfigurationError(
                    f"invoice must be a finalized one to be made void (got {invoice_id!r})"
                )
            [(customer, content, void)] = rows
            if void is None:
                one = recorded(content, None)
                others = statements.rows(f"{_DOCUMENTS} AND d.customer = ?", (tenant, customer))
                later = computed_from(one, (recorded(*each[1:]) for each in others))
                if later is not None:
                    raise ConfigurationError(
                        f"invoice must be made void after {later['number']}, which was computed "
                        f"from what it has left (got {one.document['number']})"
                    )
                now = _now()
                ledger = _entries(
                    statements.rows(
                        f"SELECT {_ENTRY} FROM ledger WHERE tenant = ? AND customer = ? "
                        "ORDER BY seq, ledger_entry_id",
                        (tenant, customer),
                    )
                )
                commit = Commit(statements, tenant, actor, now, self._database.listed)
                back = reversals(tenant, invoice_id, ledger, now)
                void = commit.void(customer, invoice_id, reason, back)
                commit.write()
        return recorded(content, void).document

    def documents(
        self, tenant: str, *, customer: str | None = None, invoice: str | None = None
    ) -> list[Document]:
        """Documents in the order in which they were finalized; `invoice` is an id or number."""
        chosen, values = "", [tenant]
        if customer is not None:
            chosen, values = f"{chosen} AND d.customer = ?", [*values, customer]
        if invoice is not None:
            chosen = f"{chosen} AND (d.invoice_id = ? OR d.shown_number = ?)"
            values = [*values, invoice, invoice]
        with self._database.reading() as statements:
            rows = statements.rows(f"{_DOCUMENTS}{chosen} ORDER BY d.seq", values)
        return [recorded(content, void).document for _, content, void in rows]

    def ledger(self, tenant: str, customer: str | None = None) -> list[Entry]:
        """The movements of credit, in the order in which they were booked."""
        chosen = "" if customer is None else " AND customer = ?"
        with self._database.reading() as statements:
            rows = statements.rows(
                f"SELECT {_ENTRY} FROM ledger WHERE tenant = ?{chosen} "
                "ORDER BY seq, ledger_entry_id",
                (tenant,) if customer is None else (tenant, customer),
            )
        return _entries(rows)

    def last_issued(self, tenant: str) -> dict[str, date]:
        """The last date on which each issuer has issued a document of any kind."""
        with self._database.reading() as statements:
            rows = statements.rows(
                "SELECT issuer, max(last_date) FROM numbers WHERE tenant = ? GROUP BY issuer",
                (tenant,),
            )
        return {issuer: date.fromisoformat(last) for issuer, last in rows}

    def entry_at(self, tenant: str, seq: int) -> AuditEntry | None:
        """One entry of the audit chain."""
        with self._database.reading() as statements:
            found = _audited(statements, tenant, "seq = ?", (seq,))
        return found[0] if found else None

    def head(self, tenant: str) -> int:
        """The number of the last entry of the audit chain, 0 for none."""
        with self._database.reading() as statements:
            rows = statements.rows("SELECT entries FROM heads WHERE tenant = ?", (tenant,))
        return int(rows[0][0]) if rows else 0

    def changes(self, tenant: str, after: int, limit: int) -> Changes:
        """What the entries of the audit chain behind number `after` have brought.

        At most `limit` entries. A document that is made void later comes as it is now.
        """
        last = after + limit
        span = (tenant, after, last)
        with self._database.reading() as statements:
            entries = _audited(statements, tenant, "seq > ? AND seq <= ?", (after, last))
            rows = statements.rows(
                "SELECT CASE WHEN v.seq IS NULL THEN d.seq ELSE v.seq END, d.content, v.content "
                "FROM documents d "
                "LEFT JOIN voids v ON v.tenant = d.tenant AND v.invoice_id = d.invoice_id "
                "WHERE d.tenant = ? AND (d.seq > ? AND d.seq <= ? OR v.seq > ? AND v.seq <= ?)",
                (*span, after, last),
            )
            ledger = statements.rows(
                f"SELECT seq, {_ENTRY} FROM ledger WHERE tenant = ? AND seq > ? AND seq <= ?", span
            )
        documents = [(int(seq), recorded(content, void).document) for seq, content, void in rows]
        return Changes(
            entries,
            sorted(documents, key=lambda each: each[0]),
            [(int(seq), Entry(*values)) for seq, *values in ledger],
        )

    def tenants(self) -> list[str]:
        """Whose documents are in the journal."""
        with self._database.reading() as statements:
            rows = statements.rows("SELECT tenant FROM heads")
        return sorted(tenant for (tenant,) in rows)

    def problems(self, tenant: str) -> list[str]:
        """What is wrong with the tenant's part of the journal; nothing where it is whole."""
        from journal.verify import problems

        with self._database.reading() as statements:
            return problems(statements, tenant)

    def close(self) -> None:
        """Gives the connection back."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise TypeError("Journal cannot be pickled: pass its URL and connect where it is used")


def _book(entry: Entry, balances: dict[str, Decimal], granted: dict[str, Decimal]) -> None:
    """Add an entry to what is left of its grant."""
    amount, left = Decimal(entry.amount), balances.get(entry.grant_id, Decimal(0))
    balances[entry.grant_id] = EXACT.add(left, amount)
    if entry.kind == "grant":
        granted[entry.grant_id] = amount


def _audited(
    statements: Statements, tenant: str, where: str, values: Sequence[int]
) -> list[AuditEntry]:
    rows = statements.rows(
        "SELECT tenant, seq, at, actor, action, object, reason, content_hash, prev_hash "
        f"FROM audit_log WHERE tenant = ? AND {where} ORDER BY seq",
        (tenant, *values),
    )
    return [AuditEntry(*row) for row in rows]


def _entries(rows: Iterable[Sequence[Any]]) -> list[Entry]:
    return [Entry(*row) for row in rows]


def _now() -> str:
    return format_instant(datetime.now(UTC))
