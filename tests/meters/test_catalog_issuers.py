"""Issuers: how numbers look, whose date it is, and who issues for whom."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from meters.catalog import Catalog, Issuer
from meters.catalog_file import catalog_hash
from tests.meters.catalog_texts import CUSTOMERS, METERS, PLAN, load, only, problems


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ("INV-{year}-{number:05}", "INV-2026-00042"),
        ("{number}/{year}", "42/2026"),
        ("R{year}{number:02}", "R202642"),
    ],
)
def test_a_format_is_filled_in(form: str, number: str) -> None:
    assert Issuer(id="x", number_format=form).number(2026, 42) == number


def test_a_number_is_never_cut_to_its_format() -> None:
    assert Issuer(id="x", number_format="{year}-{number:02}").number(2026, 12345) == "2026-12345"


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("{number}", "must have {year} and one {number}"),
        ("{year}", "must have {year} and one {number}"),
        ("{year}{number}{number}", "must have {year} and one {number}"),
        ("{year}-{number:5}", "must have no other parts than {year}, {number} or {number:05}"),
        ("{year.real}-{number}", "must have no other parts"),
        ("{year}-{number}-{", "must have closed braces"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, form: str, message: str) -> None:
    found = only(problems(tmp_path, f"issuers: [{{id: x, number_format: '{form}'}}]\n"))
    assert found.startswith("0.yaml:1: issuers[0].number_format: ")
    assert message in found


def test_the_date_of_issue_is_that_of_the_issuers_zone() -> None:
    now = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert Issuer(id="x").today(now) == date(2026, 12, 31)
    assert Issuer(id="x", time_zone="Europe/Berlin").today(now) == date(2027, 1, 1)


def test_the_first_issuer_issues_for_everyone_who_names_no_other(tmp_path: Path) -> None:
    catalog = load(
        tmp_path,
        "issuers: [{id: one}, {id: two}]\ncustomers: [{id: a}, {id: b, issuer: two}]\n",
    )
    issuers = [catalog.issuer_of(customer).id for customer in catalog.customers]
    assert issuers == ["one", "two"]
    without = catalog.model_copy(update={"issuers": []})
    assert without.issuer_of(catalog.customers[0]).id == "default"


def test_an_issuer_that_does_not_exist_and_a_country_in_words_are_refused(tmp_path: Path) -> None:
    found = problems(tmp_path, "customers:\n- {id: a, issuer: nobody}\n- {id: b, country: Spain}\n")
    assert found == [
        "0.yaml:2: customers[0].issuer: must be the id of one of the issuers (got 'nobody')",
        "0.yaml:3: customers[1].country: must be two capital letters of ISO 3166, such as DE "
        "(got 'Spain')",
    ]


def test_who_issues_an_invoice_changes_no_number_of_a_catalog(tmp_path: Path) -> None:
    plain = load(tmp_path, METERS, CUSTOMERS, PLAN)
    customer = plain.customers[0].model_copy(
        update={"legal_name": "ACME GmbH", "country": "DE", "payment_terms_days": 14}
    )
    named = plain.model_copy(update={"customers": [customer], "issuers": [Issuer(id="x")]})
    assert isinstance(named, Catalog)
    assert catalog_hash(named) == catalog_hash(plain)
