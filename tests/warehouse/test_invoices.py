"""Invoices: whole documents, drafts that change, and nothing stale."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meters.scalars import parse_json
from tests.warehouse.rows import hour
from warehouse import invoices
from warehouse.client import Warehouse
from warehouse.invoice_columns import document_text
from warehouse.invoices import (
    invoice_lines,
    list_invoices,
    read_invoices,
    write_invoices,
)


def line(line_id: str, **given_fields: Any) -> dict[str, object]:
    return {
        "line_id": line_id,
        "subscription": "sub",
        "charge": "calls",
        "plan_version": None,
        "meter": "api_calls",
        "group": {"region": "eu", "size": Decimal("1.5")},
        "service_start": "2026-02-01T00:00:00Z",
        "service_end": "2026-03-01T00:00:00.000001Z",
        "description": "calls 'é'",
        "quantity": "1234.5",
        "unit_amount": "0.002",
        "amount_exact": "2.469",
        "amount": "2.47",
        "discount": "0.00",
        "credit": "0.00",
        "tax_code": None,
        "tax_rate": None,
        "tax": "0.00",
        "revision": 3,
        **given_fields,
    }


def invoice(invoice_id: str, *lines: dict[str, object], **given_fields: Any) -> dict[str, object]:
    return {
        "invoice_id": invoice_id,
        "kind": "invoice",
        "status": "draft",
        "hold_reason": None,
        "number": None,
        "issuer": None,
        "customer": "acme",
        "subscription": "sub",
        "currency": "EUR",
        "billing_date": "2026-03-01T00:00:00Z",
        "sequence": 0,
        "period_start": "2026-02-01T00:00:00Z",
        "period_end": "2026-03-01T00:00:00Z",
        "issue_date": None,
        "due_date": None,
        "catalog_hash": "hash",
        "lines": list(lines),
        "subtotal": "2.47",
        "discount": "0.00",
        "credit": "0.00",
        "tax": "0.00",
        "total": "2.47",
        "prepaid": "0.00",
        "due": "2.47",
        **given_fields,
    }


def revisions(warehouse: Warehouse, tenant: str) -> int:
    rows = warehouse.query_rows(
        "SELECT uniqExact(invoice_id, revision) AS n FROM invoices "
        "WHERE tenant_id = {tenant:String}",
        {"tenant": tenant},
    )
    return int(str(rows[0]["n"]))


def test_a_draft_comes_back_as_it_was_written(warehouse: Warehouse, tenant: str) -> None:
    document = invoice("i1", line("l1"), line("l2", group={}, meter=None, revision=0))
    assert write_invoices(warehouse, tenant, [document]) == ["i1"]
    found = read_invoices(warehouse, tenant, ["i1", "i2"])
    assert found == {"i1": document}
    assert list(found["i1"]) == list(document)
    assert list_invoices(warehouse, tenant) == [document]


def test_the_columns_repeat_the_document(warehouse: Warehouse, tenant: str) -> None:
    dated = invoice("i1", line("l1"), issue_date="2026-03-02", number="A-1", status="finalized")
    write_invoices(warehouse, tenant, [dated])
    header = warehouse.query_rows(
        "SELECT * FROM invoices FINAL WHERE tenant_id = {t:String}", {"t": tenant}
    )[0]
    assert (header["external_customer_id"], header["number"], header["hold_reason"]) == (
        "acme",
        "A-1",
        "",
    )
    assert (header["total"], str(header["issue_date"]), header["due_date"]) == (
        Decimal("2.47"),
        "2026-03-02",
        None,
    )
    row = invoice_lines(warehouse, tenant, ["i1"])[0]
    assert (row["quantity"], row["amount"], row["usage_revision"], row["group_key"]) == (
        "1234.5",
        Decimal("2.47"),
        3,
        '{"region":"eu","size":1.5}',
    )
    assert str(row["service_end"]) == "2026-03-01 00:00:00.000001+00:00"
    assert row["revision"] == header["revision"]


def test_the_same_draft_is_not_written_again(warehouse: Warehouse, tenant: str) -> None:
    document = invoice("i1", line("l1"))
    write_invoices(warehouse, tenant, [document])
    assert write_invoices(warehouse, tenant, [document]) == []
    assert revisions(warehouse, tenant) == 1


def test_a_draft_with_fewer_lines_leaves_no_stale_line(warehouse: Warehouse, tenant: str) -> None:
    write_invoices(warehouse, tenant, [invoice("i1", line("l1"), line("l2"), line("l3"))])
    shorter = invoice("i1", line("l3"), line("l1", amount="9.00"))
    assert write_invoices(warehouse, tenant, [shorter]) == ["i1"]
    assert [
        (row["line_id"], row["amount"]) for row in invoice_lines(warehouse, tenant, ["i1"])
    ] == [
        ("l3", Decimal("2.47")),
        ("l1", Decimal("9.00")),
    ]
    assert read_invoices(warehouse, tenant, ["i1"]) == {"i1": shorter}
    empty = invoice("i1")
    write_invoices(warehouse, tenant, [empty])
    assert invoice_lines(warehouse, tenant, ["i1"]) == []


def test_a_write_that_is_cut_off_before_its_header_is_done_again(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = invoice("i1", line("l1"), line("l2"))
    write_invoices(warehouse, tenant, [before])
    insert = Warehouse.insert

    def cut(self: Warehouse, table: str, rows: Any) -> None:
        if table == "invoices":
            raise KeyboardInterrupt
        insert(self, table, rows)

    monkeypatch.setattr(Warehouse, "insert", cut)
    after = invoice("i1", line("l2", amount="5.00"))
    with pytest.raises(KeyboardInterrupt):
        write_invoices(warehouse, tenant, [after])
    monkeypatch.undo()
    assert read_invoices(warehouse, tenant, ["i1"]) == {"i1": before}
    assert write_invoices(warehouse, tenant, [after]) == ["i1"]
    assert read_invoices(warehouse, tenant, ["i1"]) == {"i1": after}
    assert [row["amount"] for row in invoice_lines(warehouse, tenant, ["i1"])] == [Decimal(5)]


@pytest.mark.parametrize("status", ["finalized", "void"])
def test_what_is_final_never_changes(warehouse: Warehouse, tenant: str, status: str) -> None:
    final = invoice("i1", line("l1"), status=status)
    write_invoices(warehouse, tenant, [final])
    assert write_invoices(warehouse, tenant, [invoice("i1", line("l2"))]) == []
    assert read_invoices(warehouse, tenant, ["i1"]) == {"i1": final}


def test_a_draft_may_be_held_and_finalized(warehouse: Warehouse, tenant: str) -> None:
    for status in ("draft", "held", "draft", "finalized"):
        document = invoice("i1", line("l1"), status=status)
        assert write_invoices(warehouse, tenant, [document]) == ["i1"]
        assert list_invoices(warehouse, tenant, status=status) == [document]
    assert list_invoices(warehouse, tenant, status="draft") == []


def test_revisions_rise_though_the_clock_goes_back(
    warehouse: Warehouse, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_invoices(warehouse, tenant, [invoice("i1", line("l1"))])
    monkeypatch.setattr(invoices, "_microseconds", lambda instant: 5)
    later = invoice("i1", line("l2"))
    assert write_invoices(warehouse, tenant, [later]) == ["i1"]
    assert read_invoices(warehouse, tenant, ["i1"]) == {"i1": later}


def test_invoices_are_listed_by_customer_and_period(warehouse: Warehouse, tenant: str) -> None:
    documents = [
        invoice("i3", customer="b", subscription=None),
        invoice("i2", period_start="2026-03-01T00:00:00Z", period_end="2026-04-01T00:00:00Z"),
        invoice("i1"),
    ]
    assert write_invoices(warehouse, tenant, documents) == ["i3", "i2", "i1"]

    def ids(**filters: Any) -> list[object]:
        return [document["invoice_id"] for document in list_invoices(warehouse, tenant, **filters)]

    assert ids() == ["i1", "i2", "i3"]
    assert ids(customer="acme") == ["i1", "i2"]
    assert ids(subscription="sub") == ["i1", "i2"]
    assert ids(subscription="") == ["i3"]
    assert ids(ending_by=hour(0)) == ["i1", "i3"]
    assert ids(customer="nobody") == []


def test_an_empty_batch_writes_nothing(warehouse: Warehouse, tenant: str) -> None:
    assert write_invoices(warehouse, tenant, []) == []
    assert read_invoices(warehouse, tenant, []) == {}
    assert invoice_lines(warehouse, tenant, []) == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.integers(-(10**20), 10**20)
    | st.decimals(
        allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_the_text_of_a_document_reads_back_as_the_document(document: object) -> None:
    assert parse_json(document_text(document)) == document


def test_the_text_of_a_document_keeps_the_order_of_its_keys() -> None:
    assert document_text({"b": [1, Decimal("1.50")], "a": "é\n"}) == '{"b":[1,1.5],"a":"é\\n"}'
