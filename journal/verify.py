"""Whether a journal is whole: its chain, its numbers, its ledger and its documents."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from journal.chain import GENESIS, AuditEntry, content_hash
from journal.database import Statements
from meters.numbers import EXACT
from meters.scalars import parse_json

_CHAIN = """
SELECT tenant, seq, at, actor, action, object, reason, content_hash, prev_hash
FROM audit_log WHERE tenant = ? ORDER BY seq
"""
_LEDGER = """
SELECT seq, ledger_entry_id, customer, kind, account, grant_id, invoice_id, currency, amount, at,
    expires_at
FROM ledger WHERE tenant = ?
"""


def problems(statements: Statements, tenant: str) -> list[str]:
    """Every problem as one sentence; each entry is compared with what was committed with it."""
    contents = {
        int(seq): (str(kind), str(content))
        for seq, kind, content in statements.rows(
            "SELECT seq, 'finalize', content FROM documents WHERE tenant = ? "
            "UNION ALL SELECT seq, 'void', content FROM voids WHERE tenant = ?",
            (tenant, tenant),
        )
    }
    entries = [AuditEntry(*row) for row in statements.rows(_CHAIN, (tenant,))]
    return [
        *_chain(statements, tenant, entries),
        *_contents(entries, contents),
        *_ledger(statements, tenant, contents),
        *_numbers(statements, tenant),
    ]


def _chain(statements: Statements, tenant: str, entries: list[AuditEntry]) -> Iterator[str]:
    before = GENESIS
    for position, entry in enumerate(entries, start=1):
        if entry.seq != position:
            yield f"audit entry {position} is missing"
            return
        if entry.prev_hash != before:
            yield f"audit entry {position} does not follow the one before: one of them was changed"
        before = entry.hash
    head = statements.rows("SELECT entries, hash FROM heads WHERE tenant = ?", (tenant,))
    if (int(head[0][0]), head[0][1]) != (len(entries), before) if head else entries:
        yield "the head of the audit chain is not the hash of its last entry"


def _contents(entries: list[AuditEntry], contents: dict[int, tuple[str, str]]) -> Iterator[str]:
    left = dict(contents)
    for entry in entries:
        kind, text = left.pop(entry.seq, ("", ""))
        if not kind or not entry.action.startswith(kind):
            yield f"what audit entry {entry.seq} ({entry.action}) is about is missing"
        elif content_hash(text) != entry.content_hash:
            yield f"{entry.object}: its content is not what was committed (audit entry {entry.seq})"
    for seq, (kind, _) in sorted(left.items()):
        yield f"a {kind} has no audit entry (number {seq})"


def _ledger(
    statements: Statements, tenant: str, contents: dict[int, tuple[str, str]]
) -> Iterator[str]:
    found: dict[int, set[tuple[Any, ...]]] = {}
    sums: dict[str, Decimal] = {}
    for seq, *values in statements.rows(_LEDGER, (tenant,)):
        found.setdefault(int(seq), set()).add(tuple(values))
        currency = str(values[6])
        sums[currency] = EXACT.add(sums.get(currency, Decimal(0)), Decimal(values[7]))
    for seq, (_, text) in sorted(contents.items()):
        content: Any = parse_json(text)
        if {tuple(entry) for entry in content["entries"]} != found.pop(seq, set()):
            yield f"the ledger is not what was committed with audit entry {seq}"
    for seq in sorted(found):
        yield f"the ledger has entries that were committed with nothing (number {seq})"
    for currency, total in sorted(sums.items()):
        if total:
            yield f"the ledger does not sum to 0 in {currency} (got {total})"


def _numbers(statements: Statements, tenant: str) -> Iterator[str]:
    rows = statements.rows(
        "SELECT issuer, kind, year, count(*), max(number) FROM documents WHERE tenant = ? "
        "GROUP BY issuer, kind, year",
        (tenant,),
    )
    last = {
        (issuer, kind, year): number
        for issuer, kind, year, number in statements.rows(
            "SELECT issuer, kind, year, last FROM numbers WHERE tenant = ?", (tenant,)
        )
    }
    for issuer, kind, year, count, greatest in rows:
        if not count == greatest == last.pop((issuer, kind, year), 0):
            yield f"numbers of {kind} {year} of issuer {issuer} have a gap"
    for issuer, kind, year in last:
        yield f"numbers of {kind} {year} of issuer {issuer} have no documents"
