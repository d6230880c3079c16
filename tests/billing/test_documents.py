"""Documents for people: complete in their languages, escaped, and true to the invoice."""

from __future__ import annotations

import csv
import io
import re
import string
from dataclasses import replace
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import charts
from billing.builder import build_invoice
from billing.documents import Presentation, presentation_of, render_csv, render_html
from billing.wording import TEXTS, Words
from meters.catalog import Catalog
from tests.billing.documents import slots, used, written
from tests.billing.given import plan

GERMAN = Presentation(language="de", time_zone="Europe/Berlin", customer="Acme")
NASTY = "<script>alert(1)</script>&\"'"


def document(**charge: Any) -> dict[str, Any]:
    price = {"model": "unit", "unit_amount": "0.0217"}
    tariff = plan([{"id": "calls", "meter": "m", "price": price, **charge}])
    slot = slots(tariff, "2026-10-31T23:00:00Z", "2026-12-01T00:00:00Z", zone="Europe/Berlin")[0]
    return written(build_invoice(slot, tariff, {"m": used("123456.5", events=7)}))


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


@pytest.mark.parametrize("language", TEXTS)
def test_every_language_has_every_text_with_the_same_places(language: str) -> None:
    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}

    english = {key: places(text) for key, text in TEXTS["en"].items()}
    assert {key: places(text) for key, text in TEXTS[language].items()} == english


def test_a_page_is_in_the_customers_language_format_and_zone() -> None:
    text = text_of(render_html(document(), GERMAN))
    assert "Rechnung" in text
    assert "Entwurf" in text
    assert "2.679,01\xa0€" in text.replace(" €", "\xa0€")
    assert "123.456,5" in text
    assert "01.11.2026 bis 30.11.2026" in text
    assert "Zeitzone Europe/Berlin" in text


def test_a_language_without_texts_is_english_in_its_own_formats() -> None:
    text = text_of(render_html(document(), replace(GERMAN, language="nl")))
    assert "Invoice" in text
    assert "2.679,01" in text


def test_what_comes_from_elsewhere_is_escaped() -> None:
    invoice = document()
    line = invoice["lines"][0]
    line.update(charge=NASTY, description=NASTY, group={NASTY: NASTY}, tax_code=NASTY)
    line["tax_rate"] = "19"
    invoice.update(subscription=NASTY, number=NASTY)
    party = dict.fromkeys(("legal_name", "address", "tax_id"), NASTY)
    shown = replace(GERMAN, customer=NASTY, buyer=party, seller=party)
    html = render_html(invoice, shown)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 8


def test_a_page_needs_nothing_from_elsewhere() -> None:
    html = render_html(document(), GERMAN)
    assert not re.search(r"(src|href)=|url\(|@import|<script", html)


def test_the_sums_of_a_page_are_those_of_the_invoice() -> None:
    invoice = document()
    text = text_of(render_html(invoice, replace(GERMAN, language="en")))
    for name in ("subtotal", "total", "due"):
        assert f"€{Decimal(invoice[name]):,.2f}" in text


def test_csv_has_a_row_for_each_line_that_sums_to_the_total() -> None:
    invoice = document()
    rows = list(csv.DictReader(io.StringIO(render_csv(invoice))))
    assert sum(Decimal(row["total"]) for row in rows) == Decimal(invoice["total"])
    assert rows[0]["invoice_id"] == invoice["invoice_id"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "@x", "-x", "\tx"])
def test_no_cell_of_csv_begins_a_formula(text: str) -> None:
    invoice = document()
    invoice["lines"][0]["charge"] = text
    row = next(csv.DictReader(io.StringIO(render_csv(invoice))))
    assert row["charge"] == f"'{text}"


def test_negative_amounts_in_csv_stay_numbers() -> None:
    invoice = document()
    invoice["lines"][0]["amount"] = "-3.20"
    assert next(csv.DictReader(io.StringIO(render_csv(invoice))))["amount"] == "-3.20"


@given(
    st.decimals(min_value=-(10**15), max_value=10**15, places=20),
    st.sampled_from(["en", "de", "de-CH", "fr", "ja", "hi"]),
)
def test_formats_lose_no_digit(value: Decimal, language: str) -> None:
    found = Words(language).number(value)
    digits = "".join(str(int(sign)) for sign in found if sign.isdecimal())
    assert digits.lstrip("0") == f"{value.copy_abs():f}".replace(".", "").lstrip("0")


def test_amounts_have_the_decimals_of_their_currency_or_more() -> None:
    words = Words("en")
    assert words.money("1200", "JPY") == "¥1,200"
    assert words.money("12.3", "KWD").endswith("12.300")
    assert words.money("0.000012", "USD") == "$0.000012"


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.decimals(min_value=-(10**9), max_value=10**9, places=3)),
        max_size=31,
    )
)
def test_charts_are_well_formed_with_a_bar_for_each_day(days: list[tuple[str, Decimal]]) -> None:
    values = [(re.sub(r"[^\w<&\"']", "", day), value, str(value)) for day, value in days]
    svg = ElementTree.fromstring(charts.bars(values, NASTY))
    bars = svg.findall("rect")
    assert len(bars) == len(days)
    assert all(0 <= float(bar.get("y", "-1")) <= charts.HEIGHT for bar in bars)
    assert all(float(bar.get("height", "-1")) > 0 for bar in bars)


def test_the_presentation_is_what_the_catalog_says_of_customer_and_issuer() -> None:
    catalog = Catalog.model_validate(
        {
            "issuers": [
                {"id": "us", "legal_name": "Nimbus"},
                {"id": "eu", "legal_name": "Cumulus"},
            ],
            "customers": [
                {"id": "acme", "name": "Acme", "language": "de-CH", "time_zone": "Asia/Tokyo"},
                {"id": "globex", "issuer": "eu"},
            ],
        }
    )
    acme = presentation_of(catalog, {"customer": "acme"})
    assert (acme.language, acme.time_zone, acme.customer) == ("de-CH", "Asia/Tokyo", "Acme")
    assert acme.seller["legal_name"] == "Nimbus"
    globex = presentation_of(catalog, {"customer": "globex"}, "fr")
    assert (globex.language, globex.seller["legal_name"]) == ("fr", "Cumulus")
