import re
import typing
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meters import catalog as models
from meters.catalog_file import load_catalog
from meters.errors import CatalogError
from meters.yaml_documents import MAX_DEPTH, BrokenDocument, read_document
from tests.meters.catalog_texts import (
    CUSTOMERS,
    DOCUMENTATION,
    METERS,
    PLAN,
    documented,
    load,
    problems,
    write,
)

# What loads.


def test_the_documented_example_loads(tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text(documented(), encoding="utf-8")
    catalog = load_catalog(str(file))
    assert [plan.id for plan in catalog.plans] == ["pro", "scale", "shop"]
    assert catalog.meters_by_id["paid_tokens"].allowed["temperature"] == {"0", "0.5"}


def models_in(field: FieldInfo) -> Iterator[type[BaseModel]]:
    """The models in the annotation of a field, however deep."""
    found: list[object] = [field.annotation]
    for each in found:
        found += typing.get_args(each)
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield each


def test_every_key_is_documented_and_in_the_documented() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    pending: list[type[BaseModel]] = [models.Catalog]
    keys: set[str] = set()
    while pending:
        model = pending.pop()
        keys |= {field.alias or name for name, field in model.model_fields.items()}
        pending += [kind for each in model.model_fields.values() for kind in models_in(each)]
    assert keys > {"id", "tiers", "flat_amount", "group_by"}
    missing = {key for key in keys if f"`{key}`" not in text}
    assert not missing
    assert not {key for key in keys if f"{key}:" not in documented()}


def test_a_folder_is_its_yaml_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, PLAN, METERS, CUSTOMERS)
    (tmp_path / "3.yml").write_text("customers: [{id: beta}]", encoding="utf-8")
    (tmp_path / "4.json").write_text("{]", encoding="utf-8")
    (tmp_path / ".5.yaml").write_text("{]", encoding="utf-8")
    (tmp_path / "6.yaml").mkdir()
    catalog = load_catalog(str(tmp_path))
    assert [customer.id for customer in catalog.customers] == ["acme", "beta"]
    assert list(catalog.meters_by_id) == ["calls", "tokens"]


def test_all_sections_are_optional_and_may_be_empty(tmp_path: Path) -> None:
    assert load(tmp_path, "{}").meters == []
    assert load(tmp_path, "meters:\nplans: []").plans == []


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    catalog = load(
        tmp_path,
        """
        customers:
          - &base {id: a, time_zone: Europe/Berlin, currency: EUR}
          - {<<: *base, id: b}
          - <<: [{time_zone: Asia/Tokyo}, *base]
            id: c
        """,
    )
    assert [(c.id, c.time_zone) for c in catalog.customers] == [
        ("a", "Europe/Berlin"),
        ("b", "Europe/Berlin"),
        ("c", "Asia/Tokyo"),
    ]


def test_unquoted_times_whole_numbers_and_filter_decimals_are_exact(tmp_path: Path) -> None:
    catalog = load(
        tmp_path,
        """
        meters:
          - {id: m, event_name: e, aggregation: count, filters: {x: [0.10, 1, 2026-11-01, 1e-3]}}
        customers: [{id: acme}]
        plans:
          - id: p
            currency: EUR
            charges: [{id: c, meter: m, included: 1000, price: {model: flat, amount: 12}}]
        subscriptions:
          - {id: s, customer: acme, plan: p, start: 2026-11-01T00:00:00+01:00}
        """,
    )
    values = catalog.meters[0].filters["x"]
    assert values == [Decimal("0.10"), 1, "2026-11-01", Decimal("0.001")]
    assert [type(value) for value in values] == [Decimal, int, str, Decimal]
    assert catalog.subscriptions[0].start.isoformat() == "2026-10-31T23:00:00+00:00"


def test_a_customer_may_have_another_currency_than_the_plan(tmp_path: Path) -> None:
    load(
        tmp_path,
        METERS,
        PLAN,
        """
        customers: [{id: acme, currency: JPY}]
        subscriptions: [{id: s, customer: acme, plan: pro, start: 2026-11-01T00:00:00Z}]
        """,
    )


# What does not.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "0.yaml: must not be empty"),
        ("# nothing\n", "0.yaml: must not be empty"),
        ("[]", "0.yaml:1: must be a mapping of sections, such as meters (got an empty list)"),
        ("meters", "0.yaml:1: must be a mapping of sections, such as meters (got 'meters')"),
        (
            "meters: [1,\n  {a: b]",
            "0.yaml:2: must be valid YAML (got an error in column 8: did not find expected ',' or "
            "'}', while parsing a flow mapping)",
        ),
        (
            "a: {b: *c}",
            "0.yaml:1: must be valid YAML (got an error in column 8: found undefined alias)",
        ),
        (
            "a: 1\n---\nb: 1",
            "0.yaml:2: must be valid YAML (got an error in column 1: a second document begins",
        ),
        ("a: [&x [*x]]", "0.yaml:1: a[0][0]: must not contain itself"),
        ("a: \x07", "0.yaml:1: must not have control characters (got U+0007)"),
        ("meters: 5", "0.yaml:1: meters: must be a list (got 5)"),
        ("meters: [5]", "0.yaml:1: meters[0]: must be a mapping (got 5)"),
        ("meters: [null]", "0.yaml:1: meters[0]: must be a mapping (got nothing)"),
        ("meters: [!m {}]", "0.yaml:1: meters[0]: must not carry a tag (got !m)"),
        (
            "prices: []",
            "0.yaml:1: prices: unknown key; known keys: meters, customers, plans, subscriptions",
        ),
        (
            "metres: []",
            "0.yaml:1: metres: unknown key; did you mean meters?; known keys: meters, customers, "
            "plans, subscriptions",
        ),
        ("meters: []\nmeters: []", "0.yaml:2: meters: must be given once (got it in line 1"),
        ("[" * (MAX_DEPTH + 1), f"0.yaml:1: must nest at most {MAX_DEPTH} levels deep"),
        ("[" * 100_000, f"0.yaml:1: must nest at most {MAX_DEPTH} levels deep"),
    ],
)
def test_a_broken_file_is_one_problem(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in problems(tmp_path, text)[0]


def test_a_few_aliases_cannot_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(BrokenDocument, match="values once aliases are written out"):
        read_document("f.yaml", "\n".join(lines).encode())


def test_a_file_must_be_there_and_be_utf_8(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "nowhere", "must be a file or folder (got neither)"),
        (tmp_path, "must have at least one file *.yaml or *.yml (got none)"),
        (Path("a\0b"), "must be a"),
    ]:
        with pytest.raises(CatalogError, match=re.escape(message)):
            load_catalog(str(path))
    file = tmp_path / "latin.yaml"
    file.write_bytes("meters: []\n# Gebühr\n".encode("latin-1"))
    with pytest.raises(CatalogError, match=r"latin.yaml:2: must be text in UTF-8 \(got .* 0xfc\)"):
        load_catalog(str(file))
    file.write_bytes("\ufeffmeters: []".encode())
    assert load_catalog(str(file)).meters == []
