"""The journal, on both databases: numbers, histories, ledgers, voids, stale proposals."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from journal.address import journal_beside, parse_journal_url
from journal.database import open_database
from journal.journal import Journal
from journal.records import Posting
from journal.schema import JOURNAL_MIGRATIONS, migrate_journal
from meters.errors import ConfigurationError, JournalError
from tests.journal.postings import ISSUE, burning, document, finalized, plain, proposal

# Finalizing


def test_a_document_gets_its_number_its_dates_and_the_parties(
    journal: Journal, tenant: str
) -> None:
    [made] = finalized(journal, tenant, plain("inv_1"))
    assert made == {
        **document("inv_1"),
        "status": "finalized",
        "number": "EU-2026-001",
        "issuer": "eu",
        "issue_date": "2026-11-03",
        "due_date": "2026-11-17",
        "seller": {"country": "NL"},
    }
    assert list(made)[: len(document("x"))] == list(document("x")), "keys keep their order"
    assert journal.documents(tenant) == [made]
    assert journal.documents(tenant, invoice="EU-2026-001") == [made]
    assert journal.documents(tenant, invoice="inv_1", customer="globex") == []


def test_numbers_are_counted_for_each_issuer_kind_and_year(journal: Journal, tenant: str) -> None:
    other = replace(ISSUE, issuer="us", number_format="{year}/{number}")
    next_year = replace(ISSUE, issue_date=date(2027, 1, 1))
    numbers = [
        document["number"]
        for version, (issue, postings) in enumerate(
            [
                (ISSUE, [plain("a"), plain("b")]),
                (other, [plain("c")]),
                (ISSUE, [plain("d", kind="credit_note"), plain("e")]),
                (next_year, [plain("f")]),
            ]
        )
        for document in finalized(journal, tenant, *postings, version=version, issue=issue)
    ]
    assert numbers == [
        "EU-2026-001",
        "EU-2026-002",
        "2026/1",
        "EU-2026-001",
        "EU-2026-003",
        "EU-2027-001",
    ]
    assert journal.problems(tenant) == []


def test_dates_of_issue_never_go_back(journal: Journal, tenant: str) -> None:
    finalized(journal, tenant, plain("a"))
    earlier = replace(ISSUE, issue_date=date(2025, 12, 31))
    [late] = finalized(journal, tenant, plain("b"), version=1, issue=earlier)
    assert (late["issue_date"], late["number"]) == ("2026-11-03", "EU-2026-002")
    assert journal.last_issued(tenant) == {"eu": date(2026, 11, 3)}


def test_tenants_never_see_each_other(journal: Journal, tenant: str) -> None:
    finalized(journal, tenant, burning("inv", "4.00"))
    [other] = finalized(journal, f"{tenant}-2", burning("inv", "1.00"))
    assert other["number"] == "EU-2026-001"
    assert journal.histories(tenant, ["acme"])["acme"].balances == {"g": Decimal("6.00")}
    assert journal.head(tenant) == 1
    assert journal.histories(f"{tenant}-3", ["acme"]) == {}


def test_a_history_has_documents_balances_and_what_is_carried(
    journal: Journal, tenant: str
) -> None:
    posting = replace(burning("a", "4.00"), carried={"committed": {"spent": "1/3"}})
    finalized(journal, tenant, posting, burning("b", "0.50"))
    history = journal.histories(tenant, ["acme", "nobody"])
    assert list(history) == ["acme"]
    assert history["acme"].version == 1
    assert list(history["acme"].documents) == ["a", "b"]
    assert history["acme"].documents["a"].carried == {"committed": {"spent": "1/3"}}
    assert history["acme"].balances == {"g": Decimal("5.50")}
    assert history["acme"].granted == {"g": Decimal("10.00")}


def test_numbers_within_groups_keep_their_digits(journal: Journal, tenant: str) -> None:
    lines = [{"group": {"size": Decimal("1.50"), "name": "é\u2028", "none": None}}]
    finalized(journal, tenant, plain("a", lines=lines))
    [kept] = journal.documents(tenant)
    assert kept["lines"] == lines
    assert str(kept["lines"][0]["group"]["size"]) == "1.50"  # type: ignore[index]


# Stale proposals


def test_what_was_computed_from_an_older_history_is_not_committed(
    journal: Journal, tenant: str
) -> None:
    finalized(journal, tenant, burning("a", "4.00"))
    fresh = replace(proposal(plain("c", "globex")), customer="globex")
    documents, stale = journal.finalize(
        tenant, [proposal(burning("a", "4.00"), burning("b", "9.00")), fresh], actor="ana"
    )
    assert [each["invoice_id"] for each in documents] == ["c"]
    assert stale == ["acme"]
    assert journal.histories(tenant, ["acme"])["acme"].balances == {"g": Decimal("6.00")}
    assert journal.problems(tenant) == []


def test_a_failure_half_way_commits_nothing(journal: Journal, tenant: str) -> None:
    finalized(journal, tenant, plain("a"))
    with pytest.raises(JournalError):
        journal.finalize(tenant, [proposal(plain("b"), plain("a"), version=1)], actor="ana")
    assert [each["invoice_id"] for each in journal.documents(tenant)] == ["a"]
    [next_one] = finalized(journal, tenant, plain("c"), version=1)
    assert next_one["number"] == "EU-2026-002", "a number that was rolled back is not lost"


def test_a_coupon_is_redeemed_once_for_a_subscription_and_period(
    journal: Journal, tenant: str
) -> None:
    finalized(journal, tenant, replace(plain("a"), redemptions={"c": "1.00"}))
    with pytest.raises(JournalError):
        finalized(journal, tenant, replace(plain("b"), redemptions={"c": "1.00"}), version=1)
    later = plain("b", billing_date="2026-12-01T00:00:00Z")
    finalized(journal, tenant, replace(later, redemptions={"c": "1.00"}), version=1)


# Voids


def test_a_void_keeps_the_number_and_gives_back_credits_and_coupons(
    journal: Journal, tenant: str
) -> None:
    taken = replace(burning("a", "4.00"), redemptions={"c": "1.00"})
    [made] = finalized(journal, tenant, taken)
    void: Any = journal.void(tenant, "a", actor="ben", reason="wrong address")
    at = void["void"].pop("at")
    assert void == {
        **made,
        "status": "void",
        "void": {"actor": "ben", "reason": "wrong address"},
    }
    history = journal.histories(tenant, ["acme"])["acme"]
    assert history.documents["a"].void
    assert history.balances == {"g": Decimal("10.00")}
    assert journal.void(tenant, "a", actor="x", reason="again")["void"] == {
        "at": at,
        "actor": "ben",
        "reason": "wrong address",
    }
    again = replace(burning("a2", "7.00"), redemptions={"c": "1.00"})
    [next_one] = finalized(journal, tenant, again, version=history.version)
    assert next_one["number"] == "EU-2026-002"
    assert journal.histories(tenant, ["acme"])["acme"].balances == {"g": Decimal("3.00")}
    assert journal.problems(tenant) == []


def test_what_has_lapsed_since_is_given_back_as_well(journal: Journal, tenant: str) -> None:
    from tests.journal.postings import moved

    lapsed = Posting(document("b"), moved("b", "g", "-6.00", "expire"))
    finalized(journal, tenant, burning("a", "4.00"), lapsed)
    assert journal.histories(tenant, ["acme"])["acme"].balances == {"g": Decimal(0)}
    journal.void(tenant, "a", actor="ben", reason="x")
    assert journal.histories(tenant, ["acme"])["acme"].balances == {"g": Decimal("10.00")}
    journal.void(tenant, "b", actor="ben", reason="x")
    assert journal.histories(tenant, ["acme"])["acme"].balances == {"g": Decimal("10.00")}
    assert journal.problems(tenant) == []


@pytest.mark.parametrize(
    ("chain", "later"),
    [
        ("", []),
        ("period", ["2", "1.b"]),
        ("subscription", ["3", "2", "1.b"]),
        ("customer", ["3", "2", "other", "1.b"]),
    ],
)
def test_what_others_were_computed_from_is_made_void_after_them(
    journal: Journal, tenant: str, chain: str, later: list[str]
) -> None:
    def made(name: str, start: str, end: str, sequence: int = 0, of: str = "sub") -> Posting:
        start, end = f"2026-{start}T00:00:00Z", f"2026-{end}T00:00:00Z"
        period = {"billing_date": end, "period_start": start, "period_end": end}
        given = document(name, subscription=of, sequence=sequence, **period)
        return Posting(given, carried={"chain": chain, "within": sequence > 0})

    documents = finalized(
        journal,
        tenant,
        made("start", "01-01", "01-01"),
        made("1.a", "01-01", "01-10", 1),
        made("1.b", "01-01", "01-20", 2),
        made("2", "01-01", "02-01"),
        made("3", "02-01", "03-01"),
        made("other", "01-01", "02-01", of="another"),
    )
    numbers = {each["invoice_id"]: each["number"] for each in documents}
    for name in later:
        said = f"void after {numbers[name]}, .*got {numbers['1.a']}"
        with pytest.raises(ConfigurationError, match=said):
            journal.void(tenant, "1.a", actor="ben", reason="x")
        journal.void(tenant, name, actor="ben", reason="x")
    assert journal.void(tenant, "1.a", actor="ben", reason="x")["status"] == "void"
    assert journal.problems(tenant) == []


def test_only_what_was_finalized_can_be_made_void(journal: Journal, tenant: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a finalized one"):
        journal.void(tenant, "draft", actor="ben", reason="x")


# Changes, for projections


def test_changes_come_piece_by_piece_and_a_void_comes_with_its_own_number(
    journal: Journal, tenant: str
) -> None:
    finalized(journal, tenant, burning("a", "4.00"), plain("b"), plain("c"))
    journal.void(tenant, "a", actor="ben", reason="x")
    first, second = (journal.changes(tenant, after, 2) for after in (0, 2))
    assert [entry.seq for entry in first.entries] == [1, 2]
    assert [(seq, each["invoice_id"]) for seq, each in first.documents] == [(2, "b"), (4, "a")]
    assert [(seq, each["status"]) for seq, each in second.documents] == [
        (3, "finalized"),
        (4, "void"),
    ]
    assert [(seq, entry.kind) for seq, entry in second.ledger] == [(4, "restore"), (4, "restore")]
    assert not journal.changes(tenant, 4, 2).entries
    assert journal.tenants().count(tenant) == 1


# Opening


def test_migrations_run_once_whoever_opens_it(journal_url: str) -> None:
    with Journal.connect(journal_url) as one, Journal.connect(journal_url) as two:
        assert one.name == two.name
        database = open_database(parse_journal_url(journal_url), create=False)
        assert migrate_journal(database) == []
        newer = [replace(each, version=each.version + 9) for each in JOURNAL_MIGRATIONS]
        assert newer
        with pytest.raises(ConfigurationError, match="written by a newer release"):
            migrate_journal(database, [])
        changed = [replace(JOURNAL_MIGRATIONS[0], common=("SELECT 1",))]
        with pytest.raises(JournalError, match="as this release knows it"):
            migrate_journal(database, changed)
        database.close()


def test_without_a_file_nothing_is_made(tmp_path: Path) -> None:
    file = tmp_path / "none.sqlite3"
    assert Journal.connect_existing(f"sqlite://{file}") is None
    assert not file.exists()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other"
    file.write_text("something else entirely, and long enough to be no header of SQLite" * 20)
    with pytest.raises(JournalError, match="must be a file that can be read and written"):
        Journal.connect(f"sqlite://{file}")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://relative", "journal URL must be sqlite:///absolute/path or postgresql://"),
        ("mysql://u@h/d", "journal URL must be"),
        ("postgresql://u:secret@h/d", "password of the journal must be in PGPASSWORD"),
        ("postgresql://h/d?user=u&password=secret", "password of the journal must be in"),
    ],
)
def test_wrong_urls_are_refused_without_a_word_of_secrets(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_journal_url(url)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_url_from_the_environment_may_hold_a_password_that_is_never_shown() -> None:
    address = parse_journal_url("postgresql://u:secret@h/d", from_environment=True)
    assert str(address) == "postgresql://u:***@h/d"
    assert "secret" not in repr(address)


def test_the_journal_of_an_embedded_warehouse_lies_beside_it() -> None:
    assert journal_beside("chdb:///data/x/") == "sqlite:///data/x.journal.sqlite3"
    assert journal_beside("clickhouse://h:8123/d") is None


def test_a_server_that_is_away_is_worth_another_try() -> None:
    from meters.errors import JournalUnavailable

    with pytest.raises(JournalUnavailable):
        Journal.connect("postgresql://u@127.0.0.1:1/d")
