import re
from typing import Any

from meters.catalog import Catalog, Meter, catalog_of
from meters.catalog_file import (
    catalog_content,
    catalog_from_content,
    catalog_hash,
    meter_hash,
)
from meters.yaml_documents import read_document
from tests.meters.catalog_texts import documented


def example() -> Catalog:
    document = read_document("example.yaml", documented().encode())
    data: Any = document.data
    return Catalog.model_validate(data)


def changed(**sections: list[dict[str, object]]) -> Catalog:
    """The documented catalog with some keys of some items replaced, by position."""
    catalog = example()
    update = {
        section: [
            item.model_copy(update=keys)
            for item, keys in zip(getattr(catalog, section), replaced, strict=False)
        ]
        + getattr(catalog, section)[len(replaced) :]
        for section, replaced in sections.items()
    }
    return catalog.model_copy(update=update)


def test_hashes_are_stable_and_short() -> None:
    assert catalog_hash(example()) == catalog_hash(example())
    assert re.fullmatch(r"[0-9a-f]{16}", catalog_hash(example()))


def test_hashes_stay_what_they_were() -> None:
    # Stored usage rows and invoices carry them: another value makes all of them look outdated.
    meter = {
        "id": "tokens",
        "event_name": "llm.request",
        "aggregation": "sum",
        "property": "tokens",
        "filters": {"tier": ["paid", 0, True, None]},
        "group_by": ["region"],
    }
    assert meter_hash(Meter.model_validate(meter)) == "6504ec450c14685a"
    price = {"model": "graduated", "tiers": [{"up_to": "0.50", "unit_amount": "1e-5"}, {}]}
    catalog = {
        "meters": [meter],
        "customers": [{"id": "acme", "time_zone": "Europe/Berlin"}],
        "plans": [
            {
                "id": "pro",
                "currency": "EUR",
                "charges": [{"id": "t", "meter": "tokens", "price": price}, {"id": "f", "fee": 5}],
            }
        ],
        "subscriptions": [
            {"id": "s", "customer": "acme", "plan": "pro", "start": "2026-11-01T00:00:00Z"}
        ],
    }
    assert catalog_hash(Catalog.model_validate(catalog)) == "b41b985ba91d174b"


def test_hashes_ignore_what_cannot_change_a_number() -> None:
    catalog = example()
    assert catalog_hash(changed(meters=[{"description": "x"}])) == catalog_hash(catalog)
    assert catalog_hash(changed(customers=[{"name": "x"}])) == catalog_hash(catalog)
    assert catalog_hash(changed(plans=[{"name": "x"}])) == catalog_hash(catalog)
    turned = catalog.model_copy(update={"meters": catalog.meters[::-1]})
    assert catalog_hash(turned) == catalog_hash(catalog)
    meter = catalog.meters[1]
    same = meter.model_copy(
        update={
            "filters": {name: values[::-1] for name, values in reversed(meter.filters.items())},
            "group_by": meter.group_by[::-1],
        }
    )
    assert meter_hash(same) == meter_hash(meter)


def test_hashes_see_what_changes_a_number() -> None:
    catalog = example()
    # A copy must not take over what was derived before it changed.
    assert catalog_hash(catalog) == catalog_hash(example())
    pro = catalog.plans[0]
    variants = [
        catalog,
        changed(meters=[{"event_name": "x"}]),
        changed(meters=[{"group_by": []}]),
        changed(customers=[{"time_zone": "UTC"}]),
        changed(plans=[{"period": "day"}]),
        changed(plans=[{"charges": pro.charges[::-1]}]),
        changed(subscriptions=[{"end": None}]),
        catalog.model_copy(update={"subscriptions": []}),
    ]
    assert len({catalog_hash(each) for each in variants}) == len(variants)


def test_a_changed_copy_derives_its_own_values() -> None:
    catalog = example()
    assert catalog.subscriptions_by_id
    assert catalog_of(catalog.pickled) == catalog
    copy = catalog.model_copy(update={"subscriptions": []})
    assert copy.subscriptions_by_id == {}
    assert catalog_of(copy.pickled) == copy
    assert catalog.model_copy() == catalog


def test_the_kept_content_reads_back_as_the_same_catalog() -> None:
    catalog = example()
    content = catalog_content(catalog)
    assert catalog_from_content(content) == catalog
    assert catalog_content(catalog_from_content(content)) == content
