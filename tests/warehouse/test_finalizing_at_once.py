"""Two runs that finalize at once on one server: each document, number and burn is there once."""

from __future__ import annotations

from pathlib import Path

import yaml

from journal.journal import Journal
from tests.acceptance.test_finalize import AS_OF, EVENTS, SETTLED, facts, world
from tests.cli import run, start
from tests.generators import write
from warehouse.client import Warehouse

_STORED = """
SELECT count() AS found FROM {name} FINAL WHERE tenant_id = {{tenant:String}} AND {where}
"""


def test_two_runs_at_once_leave_what_one_leaves(
    server_url: str, tmp_path: Path, tenant: str
) -> None:
    env = {"CLICKHOUSE_URL": server_url}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(world()))
    common = ("--catalog", tmp_path / "catalog.yaml", "--tenant", tenant, "--format", "json")
    filled = run("backfill", *common, "--input", write(tmp_path / "a.jsonl", EVENTS), env=env)
    assert filled.json["accepted"] == len(EVENTS)
    journal = f"sqlite://{tmp_path}/journal.sqlite3"
    words = ("bill", *common, "--as-of", AS_OF, "--finalize", "--journal", journal)
    options = ("--issue-date", "2026-03-02", "--actor", "ana")
    runs = [start(*words, *options, env=env) for _ in range(2)]
    documents = [each.wait(240).json for each in runs]
    assert documents[0] == documents[1]
    assert facts(documents[0]) == SETTLED
    with Journal.connect(journal) as opened:
        assert opened.documents(tenant) == documents[0]
        assert opened.head(tenant) == 4
        assert opened.problems(tenant) == []
    with Warehouse.connect(server_url, from_environment=True) as warehouse:
        for name, where, count in (
            ("invoices", "status = 'finalized'", 4),
            ("invoice_lines", "1", 8),
            ("credit_ledger", "kind = 'burn'", 4),
            ("audit_log", "1", 4),
        ):
            sql = _STORED.format(name=name, where=where)
            assert warehouse.query_rows(sql, {"tenant": tenant}) == [{"found": count}], name
