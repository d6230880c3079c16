"""After an invoice is final: it is shown, listed, made void and billed again; kills; projections.

One site goes through all of it, in the order of the tests.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.test_finalize import (
    AS_OF,
    EVENTS,
    FEBRUARY,
    SETTLED,
    facts,
    finalize,
    forge,
    world,
)
from tests.acceptance.test_repair import stream
from tests.cli import Running, Site, run

PROJECTED = (
    "SELECT * EXCEPT (updated_at) FROM {invoices} FINAL ORDER BY invoice_id",
    "SELECT * EXCEPT (updated_at) FROM {invoice_lines} FINAL ORDER BY invoice_id, line_id",
    "SELECT * EXCEPT (updated_at) FROM {credit_ledger} FINAL ORDER BY ledger_entry_id",
    "SELECT * FROM {audit_log} FINAL ORDER BY seq",
)


@pytest.fixture(scope="module")
def site(module_site: Callable[..., Site]) -> Site:
    made = module_site(world())
    made.backfill(made.write("a.jsonl", EVENTS))
    return made


def invoice(site: Site, command: str, *more: object) -> Any:
    common = ("--clickhouse", site.url, "--format", "json")
    return run("invoice", command, *common, *more)


def test_a_kill_between_journal_and_warehouse_is_made_good_by_the_next_run(site: Site) -> None:
    words = tuple(map(str, site.args("bill", "--as-of", AS_OF, "--finalize")))
    options = ("--issue-date", "2026-03-02", "--actor", "ana")
    killed = Running((*words, *options), {}, "tests.acceptance.finalizer_killed").wait()
    assert killed.code == -signal.SIGKILL, killed
    assert site.query("SELECT count() FROM {audit_log}") == [[[0]]]
    # Whatever comes next finds the documents, burns nothing again and writes the projections.
    assert facts(finalize(site)) == SETTLED
    [[[audited]], [[final]]] = site.query(
        "SELECT count() FROM {audit_log} FINAL",
        "SELECT count() FROM {invoices} FINAL WHERE status = 'finalized'",
    )
    assert (audited, final) == (4, 4)


def test_projections_can_be_made_anew(site: Site) -> None:
    before = site.query(*PROJECTED)
    site.query("TRUNCATE TABLE {invoices}", "TRUNCATE TABLE {invoice_lines}")
    assert invoice(site, "rebuild").json == {"audit_entries": 4}
    assert site.query(*PROJECTED) == before


def test_invoices_are_shown_by_id_and_number_and_listed(site: Site) -> None:
    shown = invoice(site, "show", "EU-2026-002").json
    assert facts([shown]) == [SETTLED[1]]
    assert invoice(site, "show", shown["invoice_id"]).json == shown
    listed = invoice(site, "list", "--customer", "acme", "--status", "finalized").json
    assert [row["number"] for row in listed] == ["EU-2026-001", "EU-2026-002"]
    missing = invoice(site, "show", "EU-2026-999")
    assert missing.code == 2
    assert "invoice must be a stored one, by id or number (got 'EU-2026-999')" in missing.stderr


def test_a_void_invoice_keeps_its_number_and_its_period_is_billed_again(site: Site) -> None:
    void = invoice(site, "void", "EU-2026-002", "--reason", "wrong name", "--actor", "ben").json
    assert (void["status"], void["number"]) == ("void", "EU-2026-002")
    assert (void["void"]["actor"], void["void"]["reason"]) == ("ben", "wrong name")
    again = finalize(site)
    assert facts(again)[1] == (
        "acme",
        FEBRUARY,
        "finalized",
        None,
        "EU-2026-005",
        "15.60",
        "10.20",
    )
    assert again[1]["sequence"] == 1
    assert facts(again)[::2] == SETTLED[::2]
    statuses = [row["status"] for row in invoice(site, "list", "--customer", "acme").json]
    assert sorted(statuses) == ["finalized", "finalized", "void"]
    [[[balanced]]] = site.query("SELECT sum(amount) = 0 FROM {credit_ledger} FINAL")
    assert balanced
    assert invoice(site, "verify").json == {"audit_entries": 6, "problems": 0}


def test_reconcile_shows_what_the_gate_sees(site: Site) -> None:
    span = ("--from", "2026-01-01T00:00:00Z", "--to", AS_OF)
    assert site.run("reconcile", *span).json == []
    forge(site, "globex", "2026-02-11 10:00:00", 2)
    stream(site, [{**EVENTS[0], "external_customer_id": "globex", "event_id": "e1"}])
    found = site.run("reconcile", *span).json
    assert [(row["finding"], row["customer"], row["start"]) for row in found] == [
        ("dirty", "globex", "2026-01-10T10:00:00Z"),
        ("usage_differs", "globex", "2026-01-10T10:00:00Z"),
        ("usage_differs", "globex", "2026-02-11T10:00:00Z"),
        ("shared_id", "acme", "2026-01-10T10:00:00Z"),
        ("shared_id", "globex", "2026-01-10T10:00:00Z"),
    ]
    assert (found[2]["stored"], found[2]["raw"]) == ("2", "1")
    assert found[3]["detail"] == "event_id 'e1' is also an event of globex"
