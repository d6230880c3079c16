"""Catalogs that must not be billed by: refused with file, line, path and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.meters.catalog_texts import problems

GOOD = """\
meters:
- {id: m, event_name: e, aggregation: sum, property: x}
customers:
- {id: c}
plans:
- {id: p, currency: EUR, charges: [{id: u, meter: m, price: {model: unit, unit_amount: 1}}]}
subscriptions:
- {id: s, customer: c, plan: p, start: 2026-01-01T00:00:00Z}
"""
TIERS = """\
plans:
- id: q
  currency: EUR
  charges:
  - id: t
    meter: m
    price:
      model: graduated
      tiers:
"""
AT = "plans[0].charges[0].price.tiers"
TIME = "2026-01-01T00:00:00Z"
ENTITLED = f"units: 5, start: {TIME}"
CASES = {
    "tiers out of order": (
        f"{TIERS}      - {{up_to: 100}}\n      - {{up_to: 50}}\n      - {{}}\n",
        f"11: {AT}[1].up_to: must be above the bound before it, 100 (got 50)",
    ),
    "tiers that overlap": (
        f"{TIERS}      - {{up_to: 100}}\n      - {{up_to: 100}}\n      - {{}}\n",
        f"11: {AT}[1].up_to: must be above the bound before it, 100 (got 100)",
    ),
    "a gap within tiers": (
        f"{TIERS}      - {{up_to: 100}}\n      - {{unit_amount: 1}}\n      - {{}}\n",
        f"11: {AT}[1].up_to: must be given: only the last tier has no upper bound",
    ),
    "a gap above tiers": (
        f"{TIERS}      - {{up_to: 100}}\n      - {{up_to: 200}}\n",
        f"11: {AT}[1].up_to: must be left out of the last tier, or usage above it would have "
        "no price (got 200)",
    ),
    "a negative bound": (
        f"{TIERS}      - {{up_to: -5}}\n      - {{}}\n",
        f"10: {AT}[0].up_to: must be greater than 0 (got -5)",
    ),
    "rates out of order": (
        TIERS.replace("graduated", "graduated_percentage")
        + "      - {up_to: 100}\n      - {up_to: 50}\n      - {}\n",
        f"11: {AT}[1].up_to: must be above the bound before it, 100 (got 50)",
    ),
    "an unknown currency of a plan": (
        "plans:\n- {id: q, currency: EURO}\n",
        "2: plans[0].currency: must be an ISO 4217 currency code such as EUR (got 'EURO'; "
        "did you mean EUR?)",
    ),
    "an unknown currency of a coupon": (
        "coupons:\n- {id: k, amount: 5, currency: XXX}\n",
        "2: coupons[0].currency: must be an ISO 4217 currency code such as EUR (got 'XXX')",
    ),
    "a meter that does not exist": (
        "plans:\n- id: q\n  currency: EUR\n  charges:\n"
        "  - {id: u, meter: n, price: {model: unit, unit_amount: 1}}\n",
        "5: plans[0].charges[0].meter: must be the id of one of the meters (got 'n')",
    ),
    "a charge twice": (
        "plans:\n- {id: q, currency: EUR, charges: [{id: u, fee: 1}, {id: u, fee: 2}]}\n",
        "2: plans[0].charges[1].id: must be unique in its plan (got 'u' again)",
    ),
    "a coupon that ends before it starts": (
        f"coupons:\n- {{id: k, percent: 5, start: 2026-02-01T00:00:00Z, end: {TIME}}}\n",
        f"2: coupons[0].end: must be after the start, 2026-02-01T00:00:00Z (got {TIME})",
    ),
    "a credit in a currency that is never billed": (
        f"credits:\n- {{id: g, customer: c, amount: 5, currency: USD, start: {TIME}}}\n",
        "2: credits[0].currency: must be a currency that customer c is billed in, EUR (got 'USD')",
    ),
    "thresholds that do not rise": (
        "plans:\n- {id: q, currency: EUR, thresholds: [100, 100]}\n",
        "2: plans[0].thresholds[1]: must be above the one before it, 100 (got 100)",
    ),
    "an entitlement to a meter that does not exist": (
        f"entitlements:\n- {{id: n, customer: c, meter: x, {ENTITLED}}}\n",
        "2: entitlements[0].meter: must be the id of one of the meters (got 'x')",
    ),
    "an entitlement of a customer that does not exist": (
        f"entitlements:\n- {{id: n, customer: d, meter: m, {ENTITLED}}}\n",
        "2: entitlements[0].customer: must be the id of one of the customers (got 'd')",
    ),
    "an entitlement that ends as it starts": (
        f"entitlements:\n- {{id: n, customer: c, meter: m, {ENTITLED}, end: {TIME}}}\n",
        f"2: entitlements[0].end: must be after the start, {TIME} (got {TIME})",
    ),
    "a percentile without its percentage": (
        "meters:\n- {id: n, event_name: e, aggregation: percentile, property: x}\n",
        "2: meters[0].percentile: must be given, above 0 and up to 100",
    ),
    "a percentile above 100": (
        "meters:\n- {id: n, event_name: e, property: x, "
        "aggregation: percentile, percentile: 101}\n",
        "2: meters[0].percentile: must be at most 100 (got 101)",
    ),
    "a level of a sum": (
        "meters:\n- {id: n, event_name: e, aggregation: sum, level: readings, property: x}\n",
        "2: meters[0].level: must be left out unless the aggregation is "
        "weighted_sum (got readings)",
    ),
    "a maximum that recurs": (
        "meters:\n- {id: n, event_name: e, aggregation: max, recurring: true, property: x}\n",
        "2: meters[0].recurring: must be left out unless the aggregation is sum or unique_count or "
        "weighted_sum (got true)",
    ),
    "buckets that recur": (
        "meters:\n- id: n\n  event_name: e\n  aggregation: sum\n  property: x\n  bucket: day\n"
        "  recurring: true\n",
        "7: meters[0].recurring: must be left out beside bucket: nothing is carried over buckets",
    ),
    "operations of a count": (
        "meters:\n- {id: n, event_name: e, aggregation: count, operation_property: o}\n",
        "2: meters[0].operation_property: must be left out unless the aggregation is "
        "unique_count (got o)",
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES)
def test_a_catalog_is_refused_with_its_line(text: str, expected: str, tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD, text) == [f"1.yaml:{expected}"]


def test_an_id_that_is_used_twice_names_the_other_place(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD, "meters:\n- {id: m, event_name: f, aggregation: count}\n")
    place = tmp_path / "0.yaml"
    assert found == f"1.yaml:2: meters[0].id: must be unique (got 'm', as in {place}:2)"
