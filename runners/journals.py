"""Which journal belongs to a warehouse, and opening it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from journal.address import journal_beside, parse_journal_url
from journal.journal import Journal
from meters.errors import ConfigurationError
from transforms.projection import project
from warehouse.client import Warehouse
from warehouse.projections import projected_until

JournalUrl = tuple[str, bool]
"""A journal URL, and whether it comes from the environment (and may hold a secret)."""


def journal_url(given: str | None, warehouse_url: str) -> JournalUrl | None:
    """The journal to use: the one given, the environment's, the one beside a folder.

    None for a ClickHouse server where none is named: two machines would take two files
    for the journal of one warehouse.
    """
    found: JournalUrl | None = None
    if given:
        found = given, False
    elif url := os.environ.get("BEAMMETER_JOURNAL"):
        found = url, True
    elif beside := journal_beside(warehouse_url):
        found = beside, True
    if found is not None:
        parse_journal_url(found[0], from_environment=found[1])
    return found


def open_journal(url: JournalUrl | None) -> Journal:
    """The journal, made where it is missing."""
    if url is None:
        raise _unnamed("must be given, or BEAMMETER_JOURNAL be set, with a ClickHouse server")
    return Journal.connect(url[0], from_environment=url[1])


@contextmanager
def existing_journal(
    url: JournalUrl | None, warehouse: Warehouse, tenant: str
) -> Iterator[Journal | None]:
    """The journal where there is one, open during the block.

    Raises ConfigurationError where the warehouse has final documents and its journal is
    not known.
    """
    journal = None
    if url is not None:
        journal = Journal.connect_existing(url[0], from_environment=url[1])
    if journal is None and projected_until(warehouse, tenant):
        raise _unnamed(
            "must name the journal of the invoices that were finalized in this warehouse"
        )
    with nullcontext() if journal is None else journal:
        yield journal


def up_to_date(journal: Journal, warehouse: Warehouse, tenant: str) -> Journal:
    """The journal, once the warehouse has everything that it holds."""
    project(journal, warehouse, tenant)
    return journal


def actor_name(given: str | None) -> str:
    """Who acts, for the audit log."""
    if given or (given := os.environ.get("BEAMMETER_ACTOR")):
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _unnamed(what: str) -> ConfigurationError:
    return ConfigurationError(f"--journal {what} (got none)")
