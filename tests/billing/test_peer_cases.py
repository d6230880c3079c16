"""What other billing systems answer, case by case (`tests/data/peer_cases.json`).

The file holds inputs and results from the tests and documents of OpenMeter, Lago,
Meteroid, Kill Bill, Stripe and Orb, each with its source. Every kind of case is
answered here, and every field of an expected result is compared, or answered
otherwise on purpose for a reason that `docs/semantics.md` gives: a new kind or field
fails `test_every_peer_case_is_accounted_for`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tests.billing.peer_invoices import (
    commitment_true_up,
    coupons,
    coupons_and_taxes,
    credits_burndown,
    discount_then_tax,
    leading_proration,
    partial_note,
    percentage_invoice,
    plan_change,
    prepaid_wallet,
    prorated_minimum,
    termination_proration,
    unused_days,
    whole_factor,
)
from tests.billing.peer_meters import (
    CARRIED,
    aggregation_nulls,
    dedup,
    expression,
    graduated_by_event,
    progressive_billing_credit,
    prorated_sum,
    prorated_unique_count,
    weighted_sum,
)
from tests.billing.peer_prices import (
    amount,
    blocks,
    continued,
    converted,
    currency_rounding,
    delta,
    discount_distribution,
    discounted,
    largest_remainder_allocation,
    late_usage_incremental,
    late_usage_period_attribution,
    number,
    package_count,
    percentage,
    usage_discount_progressive,
)

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "peer_cases.json").read_text(encoding="utf-8")
)
PLACES = {"aggregation_nulls": 12}
"""Kinds whose results are binary floats: compared as they are stored here."""

SEMANTICS = Path(__file__).parents[2] / "docs" / "semantics.md"


def answered_otherwise() -> frozenset[tuple[str, str]]:
    """The fields (kind, field) that docs/semantics.md says are answered otherwise."""
    page = SEMANTICS.read_text(encoding="utf-8")
    section = page.split("## Answered otherwise, on purpose\n")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert all(len(cells) == 3 and all(map(str.strip, cells)) for cells in rows), "without reason"
    names = [name for cells in rows for name in re.findall(r"`(\w+)\.(\w+)`", cells[0])]
    assert len(names) == len(set(names)), "a field twice"
    return frozenset(names)


DELIBERATE = answered_otherwise()


ANSWERS: dict[str, Callable[[str, dict[str, Any]], dict[str, Any]]] = {
    "charge_minimum_true_up_prorated": prorated_minimum,
    "credit_note_proration_rounding": unused_days,
    "currency_rounding": currency_rounding,
    "discount_distribution": discount_distribution,
    "graduated": amount,
    "graduated_blocks": blocks,
    "graduated_max_spend": continued,
    "graduated_min_spend": continued,
    "largest_remainder_allocation": largest_remainder_allocation,
    "late_usage_incremental": late_usage_incremental,
    "late_usage_period_attribution": late_usage_period_attribution,
    "leading_proration": leading_proration,
    "package": amount,
    "package_count": package_count,
    "package_min_spend": amount,
    "package_progressive": continued,
    "percentage": percentage,
    "proration_factor": whole_factor,
    "rerate_delta_graduated": delta,
    "rerate_delta_max_spend": delta,
    "rerate_delta_min_spend": delta,
    "rerate_delta_package": delta,
    "rerate_delta_rounding": delta,
    "rerate_delta_unit": delta,
    "rerate_delta_volume": delta,
    "termination_proration": termination_proration,
    "coupons_and_taxes": coupons_and_taxes,
    "coupons_order": coupons,
    "credit_note_partial": partial_note,
    "credits_burndown": credits_burndown,
    "credits_burndown_with_min_spend": credits_burndown,
    "minimum_commitment_true_up_prorated": commitment_true_up,
    "plan_change_proration": plan_change,
    "prepaid_wallet_burndown": prepaid_wallet,
    "discount_then_tax": discount_then_tax,
    "percentage_invoice": percentage_invoice,
    "dynamic_max_spend": continued,
    "dynamic_multiplier": amount,
    "graduated_percentage": amount,
    "graduated_tier_cap": amount,
    "percentage_min_max": percentage,
    "quantity_rounding": converted,
    "unit": amount,
    "unit_conversion": converted,
    "unit_conversion_graduated": converted,
    "unit_discount_then_max_spend": discounted,
    "unit_max_spend": continued,
    "usage_discount_progressive": usage_discount_progressive,
    "volume": amount,
    "volume_blocks": blocks,
    "volume_min_spend": amount,
    "aggregation_nulls": aggregation_nulls,
    "dedup": dedup,
    "expression": expression,
    "graduated_prorated_per_event": graduated_by_event,
    "progressive_billing_credit": progressive_billing_credit,
    "prorated_sum": prorated_sum,
    "prorated_sum_recurring": prorated_sum,
    "prorated_unique_count": prorated_unique_count,
    "weighted_sum": weighted_sum,
    "weighted_sum_grouped": weighted_sum,
    "weighted_sum_invoice": weighted_sum,
}


ANSWERED = [case for case in CASES if case["kind"] in ANSWERS]
COMPARED = [
    case
    for case in ANSWERED
    if any((case["kind"], field) not in DELIBERATE for field in case["expected"])
]


def name(case: dict[str, Any]) -> str:
    return f"{CASES.index(case)}-{case['kind']}-{case['source'].partition('@')[0]}"


def as_number(value: Any) -> Any:
    if isinstance(value, list):
        return [as_number(item) for item in value]
    if isinstance(value, dict):
        return {key: as_number(item) for key, item in value.items()}
    return value if value == CARRIED else Fraction(value)


@pytest.mark.parametrize("case", COMPARED, ids=name)
def test_a_peer_case_has_the_same_answer(case: dict[str, Any]) -> None:
    kind, expected = case["kind"], case["expected"]
    answer = ANSWERS[kind](kind, case["input"])
    compared = [field for field in expected if (kind, field) not in DELIBERATE]
    for field in compared:
        wanted = as_number(expected[field])
        if kind in PLACES:
            wanted = round(wanted, PLACES[kind])
        assert as_number(answer[field]) == wanted, field


def test_cases_that_differ_in_every_field_have_the_same_sums() -> None:
    """Credits above what is payable, and credits by tier, of OpenMeter."""
    differing = [case for case in ANSWERED if case not in COMPARED]
    answers = [credits_burndown(case["kind"], case["input"]) for case in differing]
    assert [case["kind"] for case in differing] == [
        "credits_burndown",
        "credits_burndown_with_min_spend",
    ]
    # 300 of credit for 150: the other 150 stay, where OpenMeter refuses.
    assert (answers[0]["amount_due"], answers[0]["applied_total"]) == (0, 150)
    expected = differing[1]["expected"]
    assert answers[1]["gross_total"] == sum(map(number, expected["lines_gross"]))
    assert answers[1]["amount_due"] == sum(map(number, expected["lines_due"]))


def test_every_peer_case_is_accounted_for() -> None:
    kinds = {case["kind"] for case in CASES}
    assert kinds == ANSWERS.keys()
    fields = {(case["kind"], field) for case in CASES for field in case["expected"]}
    assert fields >= DELIBERATE
    assert DELIBERATE
