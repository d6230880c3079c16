"""Coupons and taxes: golden cases, and laws of spreading."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.builder import build_invoice
from billing.coupons import coupons_in_force, redeem
from billing.invoice import NO_GROUP, Line
from billing.money import minor_units, spread_shares
from billing.slots import due
from billing.taxes import add_taxes
from billing.terms import Terms, terms_of
from meters.catalog import Catalog, Coupon, Tax
from tests.billing.documents import slots, written
from tests.billing.given import instant, plan


def line(cents: int, charge: str = "calls", plan_id: str = "pro") -> Line:
    return Line(
        line_id=charge,
        subscription="sub",
        charge=charge,
        plan_version=None,
        meter=None,
        group=NO_GROUP,
        service_start=None,
        service_end=None,
        quantity=Decimal(1),
        unit_amount=None,
        amount_exact=Fraction(cents, 100),
        amount=Decimal(f"{cents}E-2"),
        description=charge,
        plan=plan_id,
    )


def coupon(name: str, **given: Any) -> Coupon:
    given = {"currency": "EUR", **given} if "amount" in given else given
    return Coupon.model_validate({"id": name, **given})


def tax(rate: str, name: str = "vat", **given: Any) -> Tax:
    return Tax.model_validate({"id": name, "rate": rate, **given})


def discounts(cents: list[int], *coupons: Coupon) -> list[int]:
    lines = [line(amount, f"c{index}") for index, amount in enumerate(cents)]
    return [int(each.discount * 100) for each in redeem(lines, coupons, 2)[0]]


def test_percentages_come_before_amounts_however_they_are_listed() -> None:
    fifty, tenth = coupon("fifty", amount=50), coupon("tenth", percent=10)
    lines, taken = redeem([line(10000)], [fifty, tenth], 2)
    assert lines[0].discount == 60
    assert [(each.coupon, each.amount) for each in taken] == [("tenth", 10), ("fifty", 50)]
    assert lines[0].description == "calls, coupon tenth, coupon fifty"


def test_line_coupons_come_before_plan_coupons_and_these_before_invoice_coupons() -> None:
    lines = [line(1000, "a"), line(1000, "b"), line(1000, "a", "other")]
    everywhere = coupon("everywhere", percent=10)
    of_plan, of_line = (
        coupon("plan", amount=5, plans=["pro"]),
        coupon("line", amount=9, charges=["a"]),
    )
    discounted, taken = redeem(lines, [everywhere, of_plan, of_line], 2)
    assert [each.coupon for each in taken] == ["line", "plan", "everywhere"]
    # line: 4.50 + 4.50 on a; plan: 5.00 over 5.50 and 10.00, so 1.77 + 3.23; then 10 % of
    # 3.73 + 6.77 + 5.50 = 16.00, so 0.37 + 0.68 + 0.55.
    assert [each.discount for each in discounted] == [
        Decimal("6.64"),
        Decimal("3.91"),
        Decimal("5.05"),
    ]


def test_a_discount_is_spread_by_largest_remainders_and_ties_go_to_the_first_charge() -> None:
    assert discounts([100, 100, 100], coupon("x", amount="1.00")) == [34, 33, 33]
    assert discounts([100, 200, 300], coupon("x", percent=1)) == [1, 2, 3]
    assert discounts([333, 333, 334], coupon("x", percent=50)) == [167, 166, 167]


def test_no_line_falls_below_0_and_what_is_left_of_a_coupon_lapses() -> None:
    lines, taken = redeem([line(300), line(-200, "back")], [coupon("x", amount=50)], 2)
    # The sum of all lines, with what is given back, does not fall below 0 either.
    assert [each.discount for each in lines] == [1, 0]
    assert taken[0].amount == 1
    assert redeem([line(0)], [coupon("x", percent=50)], 2)[1] == ()


def test_a_discount_above_the_subtotal_leaves_a_total_of_0_and_no_tax() -> None:
    terms = Terms(coupons=(coupon("x", amount=500),), default_tax=tax("19"))
    invoice = billed(terms)
    assert (invoice["subtotal"], invoice["discount"], invoice["tax"], invoice["total"]) == (
        "100.00",
        "100.00",
        "0.00",
        "0.00",
    )


def billed(terms: Terms, **of_b: Any) -> dict[str, Any]:
    tariff = plan([{"id": "a", "fee": "70"}, {"id": "b", "fee": "30", **of_b}])
    slot = slots(tariff, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")[0]
    return written(build_invoice(slot, tariff, {}, terms=terms))


def test_tax_is_taken_of_the_net_sum_and_rounded_once() -> None:
    lines = add_taxes([line(33), line(33, "b"), line(34, "c")], lambda _: tax("5"), 2)
    # 1.65 + 1.65 + 1.70 cents: 5 in all, where rounding each line would give 6.
    assert [int(each.tax * 100) for each in lines] == [2, 1, 2]


def test_each_rate_has_a_sum_of_its_own() -> None:
    full, reduced = tax("19", "full"), tax("7", "reduced")
    terms = Terms(taxes={"reduced": reduced, "full": full}, default_tax=full)
    invoice = billed(terms, tax="reduced")
    assert [(x["tax_code"], x["tax_rate"], x["tax"]) for x in invoice["lines"]] == [
        ("full", "19", "13.30"),
        ("reduced", "7", "2.10"),
    ]
    assert (invoice["subtotal"], invoice["tax"], invoice["total"]) == ("100.00", "15.40", "115.40")


def test_an_inclusive_tax_is_taken_out_of_the_prices_and_the_total_stays() -> None:
    terms = Terms(coupons=(coupon("x", percent=10),), default_tax=tax("19", inclusive=True))
    invoice = billed(terms)
    # 90.00 to pay, of which 14.37 tax: 90 x 19/119
    assert (invoice["subtotal"], invoice["discount"], invoice["tax"], invoice["total"]) == (
        "85.63",
        "10.00",
        "14.37",
        "90.00",
    )
    assert invoice["lines"][0]["description"] == "a: 70.00, coupon x, tax included"


def test_an_exempt_customer_has_no_tax() -> None:
    invoice = billed(Terms(default_tax=tax("19"), exempt=True))
    assert (invoice["tax"], invoice["lines"][0]["tax_code"]) == ("0.00", None)


DATES = [instant(f"2026-{month:02}-01T00:00Z") for month in range(1, 7)]


@pytest.mark.parametrize(
    ("given", "months"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"periods": 1}, [1]),
        ({"periods": 3}, [1, 2, 3]),
        ({"start": "2026-03-01T00:00:00Z"}, [3, 4, 5, 6]),
        ({"start": "2026-02-15T00:00:00Z", "periods": 2}, [3, 4]),
        ({"end": "2026-03-01T00:00:00Z"}, [1, 2]),
        ({"start": "2026-02-01T00:00:00Z", "end": "2026-04-01T00:00:00Z", "periods": 9}, [2, 3]),
    ],
)
def test_a_coupon_takes_part_in_the_first_invoices_within_its_span(
    given: dict[str, Any], months: list[int]
) -> None:
    one = coupon("x", percent=10, **given)
    found = [
        at.month
        for index, at in enumerate(DATES)
        if coupons_in_force([one], at, DATES[:index]) == (one,)
    ]
    assert found == months


def test_the_terms_of_an_invoice_are_those_of_the_catalog() -> None:
    catalog = Catalog.model_validate(
        {
            "customers": [{"id": "acme", "tax": "vat"}, {"id": "x", "tax_exempt_reason": "export"}],
            "plans": [
                {
                    "id": "pro",
                    "currency": "EUR",
                    "charges": [{"id": "a", "fee": 1, "tax": "books"}, {"id": "b", "fee": 1}],
                }
            ],
            "subscriptions": [
                {
                    "id": f"s-{name}",
                    "customer": name,
                    "plan": "pro",
                    "start": "2026-01-01T00:00:00Z",
                    "coupons": ["first"],
                }
                for name in ("acme", "x")
            ],
            "coupons": [{"id": "first", "percent": 10, "periods": 1}],
            "taxes": [{"id": "vat", "rate": 19}, {"id": "books", "rate": 7}],
        }
    )
    acme, x = (
        due(each, catalog.plans[0], catalog.customers_by_id[each.customer], DATES[0])[0]
        for each in (
            entry.model_copy(update={"start": instant("2025-12-01T00:00Z")})
            for entry in catalog.subscriptions
        )
    )
    first = terms_of(catalog, acme, [], {})
    assert [each.id for each in first.coupons] == ["first"]
    own = line(1).replaced(own_tax="books")
    assert [first.tax_of(each) for each in (own, line(1))] == [catalog.taxes[1], catalog.taxes[0]]
    assert terms_of(catalog, acme, DATES[:1], {}).coupons == ()
    assert terms_of(catalog, x, [], {}).tax_of(line(1)) is None


amounts = st.lists(st.integers(-5000, 10**7), min_size=1, max_size=8)
coupon_lists = st.lists(
    st.builds(
        lambda n, percent, amount, charges: coupon(
            f"k{n}",
            **({"percent": percent} if percent is not None else {"amount": Decimal(amount) / 100}),
            charges=charges,
        ),
        st.integers(0, 9),
        st.none() | st.decimals(0, 100, places=2),
        st.integers(1, 10**6),
        st.lists(st.sampled_from(["c0", "c1", "c2"]), max_size=2),
    ),
    max_size=4,
)
rates = st.decimals(0, 100, places=2)


@given(amounts, coupon_lists)
def test_discounts_sum_to_what_was_redeemed_and_no_line_goes_below_0(
    cents: list[int], coupons: list[Coupon]
) -> None:
    lines, taken = redeem([line(c, f"c{i}") for i, c in enumerate(cents)], coupons, 2)
    assert sum(each.discount for each in lines) == sum(each.amount for each in taken)
    assert sum(each.amount - each.discount for each in lines) >= min(Decimal(sum(cents)) / 100, 0)
    for each, before in zip(lines, cents, strict=True):
        assert 0 <= each.discount * 100 <= max(before, 0)
    assert all(each.amount > 0 for each in taken)


@given(amounts, coupon_lists, rates, st.booleans())
def test_tax_is_the_rounded_tax_of_the_sum_and_each_line_is_within_a_unit_of_its_own(
    cents: list[int], coupons: list[Coupon], rate: Decimal, inclusive: bool
) -> None:
    lines, _ = redeem([line(c, f"c{i}") for i, c in enumerate(cents)], coupons, 2)
    taxed = add_taxes(lines, lambda _: tax(str(rate), inclusive=inclusive), 2)
    share = Fraction(rate) / 100
    factor = share / (1 + share) if inclusive else share
    nets = [Fraction(each.amount - each.discount) * 100 for each in lines]
    assert sum(each.tax for each in taxed) * 100 == minor_units(sum(nets) * factor, 0)
    for each, net in zip(taxed, nets, strict=True):
        assert abs(Fraction(each.tax) * 100 - net * factor) < 1
    gross = sum(each.amount - each.discount + each.tax for each in taxed) * 100
    added = 0 if inclusive else sum(Fraction(each.tax) for each in taxed) * 100
    assert gross == sum(nets) + added


@given(st.lists(st.integers(-10000, 10000), max_size=8), st.integers(1, 1000))
def test_shares_become_whole_units_that_sum_to_the_rounded_sum(
    numerators: list[int], denominator: int
) -> None:
    parts = spread_shares(numerators, denominator)
    assert sum(parts) == minor_units(Fraction(sum(numerators), denominator), 0)
    for part, numerator in zip(parts, numerators, strict=True):
        assert abs(part - Fraction(numerator, denominator)) <= 1
