"""From the journal into the warehouse: invoices, lines, credit ledger, audit log.

    audit entries that the warehouse does not have --> what they brought --> its tables

Runs after every commit, and before anything that reads final documents, so that what a
killed run has left undone is done by the next one.
"""

from __future__ import annotations

from dataclasses import asdict

from journal.journal import Journal
from meters.errors import ConfigurationError
from warehouse.client import Warehouse
from warehouse.invoices import write_final_invoices
from warehouse.projections import (
    projected_entry,
    projected_until,
    write_audit_log,
    write_ledger,
)

AT_ONCE = 500
"""Entries of the audit chain that are projected together."""


def project(journal: Journal, warehouse: Warehouse, tenant: str) -> int:
    """Brings the warehouse up to the journal; returns how many audit entries were missing.

    Raises ConfigurationError where the warehouse has entries that the journal does not:
    they do not belong together, and finalizing would give numbers twice.
    """
    until = projected_until(warehouse, tenant)
    if until:
        known, kept = projected_entry(warehouse, tenant, until), journal.entry_at(tenant, until)
        if kept is None or known != (kept.content_hash, kept.prev_hash):
            raise ConfigurationError(
                f"journal must be the one that the invoices of warehouse {warehouse.name} were "
                f"finalized in, with {until} audit entries or more (got {journal.name}, whose "
                f"entries are others)"
            )
    return _write(journal, warehouse, tenant, until)


def rebuild(journal: Journal, warehouse: Warehouse, tenant: str) -> int:
    """Writes all projections anew; returns the number of audit entries."""
    return _write(journal, warehouse, tenant, 0)


def _write(journal: Journal, warehouse: Warehouse, tenant: str, after: int) -> int:
    done = after
    while True:
        changes = journal.changes(tenant, done, AT_ONCE)
        if not changes.entries:
            return done - after
        write_final_invoices(warehouse, tenant, changes.documents)
        write_ledger(warehouse, tenant, [(seq, asdict(entry)) for seq, entry in changes.ledger])
        write_audit_log(warehouse, tenant, [asdict(entry) for entry in changes.entries])
        done = changes.entries[-1].seq
