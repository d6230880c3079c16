"""Our answers to the cases of peers about meters: what is counted, levels and shares of events."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from billing.event_shares import price_graduated_shares, shares
from billing.money import from_minor_units, round_amount
from billing.prices import rate
from billing.single_events import Single, in_order
from meters.aggregators import EMPTY, Reading, add, extract
from meters.catalog import (
    GraduatedPrice,
    Meter,
)
from meters.errors import Rejected
from meters.expressions import Expression
from meters.levels import Over, value_over
from meters.numbers import from_scaled, to_scaled
from meters.readings import reading_of
from meters.scalars import parse_json
from meters.zones import microseconds
from tests.billing.given import instant
from tests.billing.peer_invoices import span
from tests.billing.peer_prices import CENTS, number, tier_list, unit
from tests.meters.chain import catalog_of, event, measured, meter, plain_usage


def counted(found: list[dict[str, Any]], each: Meter) -> Decimal | None:
    """The value of a meter over events with these properties, one a second."""
    state = EMPTY
    for second, properties in enumerate(found):
        try:
            read = reading_of(
                each,
                event_name="e",
                event_id=f"{second}",
                timestamp=instant("2026-01-01T00:00:00Z") + timedelta(seconds=second),
                properties=properties,
            )
        except Rejected:
            continue
        assert read is not None
        state = add(each.kind, state, read[1])
    return extract(each.kind, state)


def aggregation_nulls(_: str, given: dict[str, Any]) -> dict[str, Any]:
    name, _, inside = given["aggregation"].rstrip(")").partition("(")
    found: list[dict[str, Any]] = parse_json(json.dumps(given["events_in_time_order"]))
    spec = meter(name.lower(), **({"property": inside} if inside else {}))
    return {"value": counted(found, spec)}


def dedup(_: str, given: dict[str, Any]) -> dict[str, Any]:
    copies = [
        event("same", timestamp=f"2026-01-31T10:{n // 60:02}:{n % 60:02}Z")
        for n in range(given["events"])
    ]
    catalog = catalog_of(meter("count"))
    ((_, state),) = plain_usage(catalog, copies).values()
    _, cells, _ = measured(catalog, copies)
    assert cells[0].rows["events:0"].to_list() == [state.events]
    return {"value": state.events}


def expression(_: str, given: dict[str, Any]) -> dict[str, Any]:
    return {"value": Expression(given["expression"]).evaluate({})}


def level(deltas: list[list[Any]], start: int, end: int, initial: str) -> tuple[Decimal, Decimal]:
    """The mean of a level over a span, and the level at its end."""
    before = add("weighted_sum", EMPTY, Reading(start - 1, "", to_scaled(number(initial))))
    state = EMPTY
    for index, (at, change) in enumerate(deltas):
        reading = Reading(microseconds(instant(at)), f"{index}", to_scaled(number(change)))
        state = add("weighted_sum", state, reading)
    mean = value_over(meter("weighted_sum"), state, Over(start, end, end - start, before))
    assert mean is not None
    return mean, from_scaled(before.sum + state.sum)


def weighted_sum(_: str, given: dict[str, Any]) -> dict[str, Any]:
    start, end = (microseconds(instant(at)) for at in given["period"])
    if "deltas_by_group" in given:
        groups = given["deltas_by_group"].items()
        return {name: round(level(each, start, end, "0")[0], 5) for name, each in groups}
    mean, last = level(given["deltas"], start, end, given["initial"])
    answer: dict[str, Any] = {
        "value_5dp": round(mean, 5),
        "carry_over": last,
    }
    if "unit_price" in given:
        answer["amount_cents"] = rate(unit(given["unit_price"]), mean, exponent=CENTS).amount * 100
    return answer


def prorated(found: list[Single], start: str, last: str) -> list[Fraction]:
    part = span(start, last, last_day_included=True)
    return [share for _, share in shares(found, part, part, "UTC", "day")]


def prorated_sum(_: str, given: dict[str, Any]) -> dict[str, Any]:
    last = given["period_last_day"] if "period_last_day" in given else given["period"][1]
    start = given["period"][0] if "period" in given else f"{last[:7]}-01"
    found = [Single(instant(f"{at}T12:00Z"), f"{at}", number(n)) for at, n in given["events"]]
    if "carried" in given:
        found.insert(0, Single(instant(f"{start}T00:00Z"), "", number(given["carried"])))
    each = prorated(found, start, last)
    return {
        "value_5dp": round(sum(each), 5),
        "per_event_3dp": [round(share, 3) for share in each],
        "exact": CARRIED,
        # Lago rounds its sum up in the fifth place.
        "value": Fraction(math.ceil(sum(each) * 10**5), 10**5),
    }


CARRIED = "5 + 24*6/31 (Lago ceils at 5dp)"


def prorated_unique_count(_: str, given: dict[str, Any]) -> dict[str, Any]:
    found = [
        Single(instant(f"{at}T12:00Z"), f"{at}", Decimal(kind == "add"), item=key)
        for at, kind, key in given["other_keys"]
    ]
    found += [
        Single(instant(f"{at}:00Z"), f"{at}", Decimal(kind == "add"), item="2")
        for at, kind in given["key_2_ops"]
    ]
    last = given["period_last_day"]
    each = prorated(in_order(found), f"{last[:7]}-01", last)
    return {"value_3dp": round(sum(each), 3), "exact": sum(each)}


def graduated_by_event(_: str, given: dict[str, Any]) -> dict[str, Any]:
    price = GraduatedPrice(model="graduated", tiers=tier_list(given["tiers"]))
    units, parts = given["event_units"], given["event_prorated_units"]
    found = [(Fraction(a), Fraction(b)) for a, b in zip(units, parts, strict=True)]
    return {"amount": round_amount(price_graduated_shares(price, found).amount, CENTS)}


def progressive_billing_credit(_: str, given: dict[str, Any]) -> dict[str, Any]:
    """Usage is billed when it reaches the threshold, and the rest at the end."""
    price = unit(given["unit_price"])
    first, *rest = given["events"]
    mid = rate(price, first, exponent=CENTS).amount
    assert mid * 100 >= given["threshold_cents"]
    final = rate(price, sum(rest), first, mid, exponent=CENTS).amount
    total = from_minor_units(given["plan_cents"], CENTS) + final
    return {"mid_invoice_cents": mid * 100, "final_total_cents": total * 100}
