"""Explanations of stored invoices: every number adds up from the printed JSON alone."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from billing.documents import presentation_of, render_html
from billing.explanation_words import line_words
from billing.wording import Words
from meters.catalog_file import load_catalog
from meters.mapping import Mapping as ColumnMapping
from runners import bills, explained, invoices
from runners.backfill import backfill_counts
from transforms import explanations
from warehouse.client import Warehouse

CATALOG = Path(__file__).with_name("explained.yaml")
START = datetime(2026, 10, 1, tzinfo=UTC)


def events() -> list[dict[str, Any]]:
    return [
        {
            "event_id": f"{customer}{n}",
            "event_name": "call",
            "external_customer_id": customer,
            "timestamp": (START + timedelta(hours=5 * n)).isoformat(),
            "properties": {
                "region": "eu" if n % 3 else "us",
                "tokens": 40 + n,
                "user": f"u{n % 9}",
            },
        }
        for customer in ("acme", "globex")
        for n in range(60)
    ]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, embedded_url: str, embedded: Warehouse
) -> tuple[str, Path, list[dict[str, Any]]]:
    """A tenant, its catalog and its draft invoices."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "catalog.yaml").write_text(CATALOG.read_text())
    found = events()
    copy = {**found[3], "timestamp": found[9]["timestamp"], "properties": {"tokens": 1}}
    lines = [json.dumps(event) for event in [*found, copy]]
    (folder / "events.jsonl").write_text("\n".join(lines))
    catalog = load_catalog(str(folder / "catalog.yaml"))
    tenant = f"explained-{folder.name}"
    url = embedded_url, False
    backfill_counts(
        catalog,
        url,
        inputs=[str(folder / "events.jsonl")],
        mapping=ColumnMapping(),
        tenant=tenant,
    )
    drafts = list(
        bills.each_bill(catalog, url, as_of=datetime(2026, 11, 1, tzinfo=UTC), tenant=tenant)
    )
    return tenant, folder, drafts


def printed(
    world: tuple[str, Path, list[dict[str, Any]]],
    url: str,
    capsys: pytest.CaptureFixture[str],
    invoice_id: str,
    **options: Any,
) -> dict[str, Any]:
    given: dict[str, Any] = {"lines": [], "events": None, "language": None, **options}
    explained.run_explain(
        None, (url, False), None, invoice_id=invoice_id, tenant=world[0], form="json", **given
    )
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def total(amounts: Sequence[str]) -> Fraction:
    return sum(map(Fraction, amounts), Fraction(0))


def test_every_number_adds_up_to_the_invoice(
    world: tuple[str, Path, list[dict[str, Any]]],
    embedded_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kinds = set()
    for document in world[2]:
        found = printed(world, embedded_url, capsys, document["invoice_id"])
        assert found["matches"]
        for line, billed in zip(found["lines"], document["lines"], strict=True):
            kinds |= {step["step"] for step in line["steps"]}
            assert line["matches"]
            assert line["line_id"] == billed["line_id"]
            steps = total([step["amount"] for step in line["steps"] if "amount" in step])
            # Thirds are cut after 30 digits.
            assert abs(steps - Fraction(line["amount_exact"])) < Fraction(1, 10**20)
            rounded = Fraction(line["amount_exact"]) + Fraction(line["rounding"])
            amount = Fraction(line["amount"]) + Fraction(line["tax_contained"] or 0)
            assert abs(rounded - amount) < Fraction(1, 10**20)
            assert line["amount"] == billed["amount"]
            parts = [line["amount"], line["tax"], f"-{line['discount']}", f"-{line['credit']}"]
            assert total(parts) == Fraction(line["total"])
            if line["events"] is not None:
                assert sum(bucket["events"] for bucket in line["buckets"]) == line["events"]
            if line["meter"] in ("calls", "tokens"):
                assert total([b["value"] for b in line["buckets"]]) == Fraction(
                    line["steps"][0]["quantity"]
                )
        assert total([line["total"] for line in found["lines"]]) == Fraction(document["total"])
        assert total([line["amount"] for line in found["lines"]]) == Fraction(found["subtotal"])
        assert total([each["amount"] for each in found["coupons"]]) == Fraction(found["discount"])
        for kind, name in (("promotional", "credit"), ("paid", "prepaid")):
            burnt = [each["amount"] for each in found["credits"] if each["kind"] == kind]
            assert total(burnt) == Fraction(found[name])
        assert total([each["amount"] for each in found["taxes"]]) == Fraction(found["tax"])
        assert Fraction(found["total"]) - Fraction(found["prepaid"]) == Fraction(found["due"])
    assert kinds == {
        *("fee", "prorated", "measured", "converted", "included", "units", "packages", "percent"),
        *("events", "discount", "minimum", "maximum", "tier_rounding"),
    }


def test_rows_of_csv_sum_to_the_total_of_each_line(
    world: tuple[str, Path, list[dict[str, Any]]],
    embedded_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    explained.run_explain(
        None,
        (embedded_url, False),
        None,
        invoice_id=world[2][-1]["invoice_id"],
        lines=[],
        events=None,
        language=None,
        tenant=world[0],
        form="csv",
    )
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    for line in world[2][-1]["lines"]:
        own = [row for row in rows if row["line_id"] == line["line_id"]]
        parts = [row["amount"] for row in own if row["amount"] and row["step"] != "total"]
        (billed,) = (row["amount"] for row in own if row["step"] == "total")
        assert abs(total(parts) - Fraction(billed)) < Fraction(1, 10**20)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_events_of_a_line_are_those_that_its_quantity_counts(
    world: tuple[str, Path, list[dict[str, Any]]],
    embedded_url: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    ending: str,
) -> None:
    document = next(each for each in world[2] if each["customer"] == "acme" and each["lines"][1:])
    file = tmp_path / f"events.{ending}"
    found = printed(world, embedded_url, capsys, document["invoice_id"], events=file)
    rows: list[dict[str, Any]]
    if ending == "parquet":
        rows = pq.read_table(file).to_pylist()
    elif ending == "csv":
        rows = list(csv.DictReader(file.read_text().splitlines()))
    else:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    for line in found["lines"]:
        if line["meter"] not in ("calls", "tokens"):
            continue
        own = [row for row in rows if row["line_id"] == line["line_id"]]
        counted = [row for row in own if row["status"] == "counted"]
        assert len(counted) == len({row["event_id"] for row in counted}) == line["events"]
        assert total([row["value"] for row in counted]) == Fraction(line["steps"][0]["quantity"])
        sums: dict[str, int] = {}
        for row in counted:
            sums[row["bucket_start"]] = sums.get(row["bucket_start"], 0) + 1
        assert sums == {bucket["start"]: bucket["events"] for bucket in line["buckets"]}
    copies = {row["event_id"] for row in rows if row["status"] == "duplicate"}
    assert copies == {"acme3"}


def test_what_changed_since_is_said(
    world: tuple[str, Path, list[dict[str, Any]]], embedded: Warehouse
) -> None:
    tenant, folder, drafts = world
    document = next(each for each in drafts if each["customer"] == "acme" and each["lines"][1:])
    dearer = (folder / "catalog.yaml").read_text().replace('"0.0213"', '"0.03"')
    (folder / "dearer.yaml").write_text(dearer)
    catalog = load_catalog(str(folder / "dearer.yaml"))
    found = explanations.explain(embedded, tenant, catalog, document)
    changed = {line["charge"] for line in found["lines"] if not line["matches"]}
    assert changed == {"calls"}
    assert not found["matches"]
    assert found["coupons"] is None
    # Nothing says that what it is now was rounded to what it was then.
    line = next(line for line in found["lines"] if not line["matches"])
    words = Words("en")
    now = words.short_money(line["amount_exact"], "EUR")
    then = words.money(line["amount"], "EUR")
    said = list(line_words(line, "EUR", words))
    assert said[-1] == f"{now} by usage and prices as they are now, {then} on this document"
    # The page of the document goes by what the document itself says.
    html = render_html(document, presentation_of(catalog, document, "en"), found)
    assert line["description"] in unescape(html)
    assert said[-1] not in html


def test_a_quantity_that_alone_has_changed_is_said(
    world: tuple[str, Path, list[dict[str, Any]]], embedded: Warehouse
) -> None:
    tenant, folder, drafts = world
    document = next(each for each in drafts if each["customer"] == "acme" and each["lines"][1:])
    catalog = load_catalog(str(folder / "catalog.yaml"))
    counted = next(line for line in document["lines"] if line["charge"] == "calls")
    lines = [{**line, "quantity": "7.5"} if line is counted else line for line in document["lines"]]
    found = explanations.explain(embedded, tenant, catalog, {**document, "lines": lines})
    (line,) = (line for line in found["lines"] if not line["matches"])
    words = Words("en")
    said = list(line_words(line, "EUR", words))
    now = words.short_number(counted["quantity"])
    assert said[-1] == f"quantity {now} by usage as it is now, 7.5 on this document"


def test_a_page_and_a_pdf_are_written(
    world: tuple[str, Path, list[dict[str, Any]]], embedded_url: str, tmp_path: Path
) -> None:
    document = next(each for each in world[2] if each["customer"] == "acme" and each["lines"][1:])
    for form in ("html", "pdf"):
        invoices.run_show(
            (embedded_url, False),
            None,
            document["invoice_id"],
            output=tmp_path / form,
            language=None,
            tenant=world[0],
            form=form,
        )
    page = (tmp_path / "html").read_text()
    assert "Rechnung" in page
    assert page.count("<svg") == 5, "one for each meter and group, however many charges it has"
    assert (tmp_path / "pdf").read_bytes().startswith(b"%PDF")
    assert Decimal(document["due"]) > 0
