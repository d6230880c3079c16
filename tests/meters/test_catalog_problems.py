import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.catalog_file import load_catalog
from meters.errors import CatalogError, Problem
from tests.meters.catalog_texts import CUSTOMERS, METERS, PLAN, only, problems


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "- {id: m, event_name: e, aggregation: summ, property: p}",
            "meters[0].aggregation: must be one of count, sum, max, min, avg, latest, "
            "unique_count, weighted_sum, percentile (got 'summ'; did you mean sum?)",
        ),
        ("- {event_name: e, aggregation: count}", "meters[0].id: must be given"),
        ('- {id: "", event_name: e, aggregation: count}', "meters[0].id: must not be empty"),
        (
            "- {id: 5, event_name: e, aggregation: count}",
            "meters[0].id: must be text (got 5: put it in quotes)",
        ),
        (
            f"- {{id: {'m' * 257}, event_name: e, aggregation: count}}",
            "meters[0].id: must have at most 256 characters (got 257)",
        ),
        (
            "- {id: m, event_name: beammeter.void, aggregation: count}",
            "meters[0].event_name: must not begin with 'beammeter.', which is reserved (got "
            "'beammeter.void')",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, property: p}",
            "meters[0].property: must be left out: count counts events and takes no value",
        ),
        (
            "- {id: m, event_name: e, aggregation: sum}",
            "meters[0]: must have either property or expression, which sum is taken of (got "
            "neither)",
        ),
        (
            "- {id: m, event_name: e, aggregation: sum, expression: a +}",
            "meters[0].expression: must be a CEL expression (got its end at line 1, column 3)",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, filters: {tier: paid}}",
            "meters[0].filters.tier: must be a list (got 'paid')",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, filters: {a b: []}}",
            "meters[0].filters['a b']: must have at least one item (got none)",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, filters: {tier: [[1]]}}",
            "meters[0].filters.tier[0]: must be text (in quotes), a plain number, true, false or "
            "null (got [1])",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, filters: {country: [no]}}",
            "meters[0].filters.country[0]: must be true, false or quoted text (got no, which not "
            "every reader of YAML reads alike)",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, group_by: [a, b, a]}",
            "meters[0].group_by[2]: must not be repeated (got 'a' twice)",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, aggregation: sum}",
            "meters[0].aggregation: must be given once (got it in line 2 already)",
        ),
        (
            "- {id: m, event_name: e, aggregation: count, groupby: [a]}",
            "meters[0].groupby: unknown key; did you mean group_by?; known keys: id, event_name, "
            "aggregation, property, expression, filters, group_by, bucket, level, percentile, "
            "recurring, operation_property, description",
        ),
    ],
)
def test_a_wrong_meter_is_explained(line: str, expected: str, tmp_path: Path) -> None:
    assert only(problems(tmp_path, f"meters:\n  {line}\n")) == f"0.yaml:2: {expected}"


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (
            "{model: unit, unit_amount: 0.0020}",
            'price.unit_amount: must be in quotes, "0.0020", to stay exact (got 0.0020 without)',
        ),
        (
            "{model: unit, unit_amount: 1e3}",
            'price.unit_amount: must be in quotes, "1e3", to stay exact (got 1e3 without)',
        ),
        (
            "{model: unit, unit_amount: 1_000}",
            "price.unit_amount: must be a plain or quoted number (got 1_000, which not every "
            "reader of YAML reads alike)",
        ),
        (
            "{model: unit, unit_amount: 010}",
            "price.unit_amount: must be a plain or quoted number (got 010, which not every reader "
            "of YAML reads alike)",
        ),
        (
            '{model: unit, unit_amount: "1,50"}',
            "price.unit_amount: must be a decimal such as \"0.002\" (got '1,50')",
        ),
        ("{model: unit, unit_amount: -1}", "price.unit_amount: must not be negative (got -1)"),
        ("{model: unit}", "price.unit_amount: must be given"),
        ("{model: package, amount: 1, size: 0}", "price.size: must be greater than 0 (got 0)"),
        (
            "{model: unti, unit_amount: 1}",
            "price.model: must be one of flat, unit, package, graduated, volume, percentage, "
            "graduated_percentage, dynamic (got 'unti'; did you mean unit?)",
        ),
        (
            "{unit_amount: 1}",
            "price.model: must be given: one of flat, unit, package, graduated, volume, "
            "percentage, graduated_percentage, dynamic",
        ),
        (
            '"0.002"',
            "price: must be a mapping that names its model, one of flat, unit, package, graduated, "
            "volume, percentage, graduated_percentage, dynamic (got '0.002')",
        ),
        (
            "{model: unit, unit_amount: 1, unit: 5}",
            "price.unit: unknown key; known keys: model, unit_amount",
        ),
        (
            "{model: graduated, tiers: [{up_to: 10}, {up_to: 5}, {}]}",
            "price.tiers[1].up_to: must be above the bound before it, 10 (got 5)",
        ),
        (
            "{model: volume, tiers: [{up_to: 10}, {up_to: 1000}]}",
            "price.tiers[1].up_to: must be left out of the last tier, or usage above it would have "
            "no price (got 1000)",
        ),
        (
            "{model: volume, tiers: [{}, {up_to: 1000}, {}]}",
            "price.tiers[0].up_to: must be given: only the last tier has no upper bound",
        ),
        (
            "{model: volume, tiers: [{up_to: -5}, {}]}",
            "price.tiers[0].up_to: must be greater than 0 (got -5)",
        ),
        ("{model: volume, tiers: []}", "price.tiers: must have at least one item (got none)"),
        (
            "{model: volume, tiers: [{amount: 5}]}",
            "price.tiers[0].amount: unknown key; did you mean max_amount?; known keys: up_to, "
            "unit_amount, flat_amount, block_size, max_amount",
        ),
        (
            "{model: volume, tiers: [{}], flat_at_zero: 1}",
            "price.flat_at_zero: must be true or false (got 1)",
        ),
        (
            "{model: percentage, rate: 2, free_events: -1}",
            "price.free_events: must be at least 0 (got -1)",
        ),
        (
            "{model: percentage, rate: 2, free_events: x}",
            "price.free_events: must be a whole number (got 'x')",
        ),
        (
            "{model: percentage, rate: 2, minimum_per_event: 3, maximum_per_event: 2}",
            "price.minimum_per_event: must not be above maximum_per_event, 2 (got 3)",
        ),
        (
            "{model: percentage, rate: 2, free_events: 3}, included: 5",
            "included: must be left out: this price is taken of single events",
        ),
        (
            "{model: graduated_percentage, tiers: [{up_to: 10, rate: 1}, {unit_amount: 2}]}",
            "price.tiers[1].unit_amount: unknown key; did you mean flat_amount?; known "
            "keys: up_to, rate, flat_amount",
        ),
        (
            "{model: graduated_percentage, tiers: [{up_to: 10, rate: 1}, {up_to: 5}]}",
            "price.tiers[1].up_to: must be left out of the last tier, or usage above it would have "
            "no price (got 5)",
        ),
        (
            "{model: unit, unit_amount: 1}, convert: {precision: 2}",
            "convert.precision: must be left out without round (got 2)",
        ),
        (
            "{model: unit, unit_amount: 1}, discount: {percent: 101}",
            "discount.percent: must be at most 100 (got 101)",
        ),
        (
            "{model: unit, unit_amount: 1}, price_by: [region]",
            "price_by[0]: must be a group_by property of meter calls: none (got 'region')",
        ),
        (
            "{model: unit, unit_amount: 1}, default_price: {model: flat, amount: 1}",
            "default_price: must be left out without prices",
        ),
        (
            "{model: percentage, rate: 1, free_events: 1}",
            "price: must be a price of the whole quantity: single events are priced of a meter "
            "whose aggregation is sum (got count)",
        ),
        (
            "{model: flat, amount: 1}, minimum: 5, maximum: 4",
            "minimum: must not be above the maximum, 4 (got 5)",
        ),
    ],
)
def test_a_wrong_price_is_explained(price: str, expected: str, tmp_path: Path) -> None:
    lines = [
        "plans:",
        "  - id: pro",
        "    currency: EUR",
        "    charges:",
        "      - {id: fee, fee: 5}",
        f"      - {{id: c, meter: calls, price: {price}}}",
    ]
    found = only(problems(tmp_path, "\n".join(lines), METERS))
    assert found == f"0.yaml:6: plans[0].charges[1].{expected}"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("plan: pro, start: 2026-11-01T00:00:00Z", "customer: must be given"),
        (
            "customer: acm, plan: pro, start: 2026-11-01T00:00:00Z",
            "customer: must be the id of one of the customers (got 'acm')",
        ),
        (
            "customer: acme, plan: free, start: 2026-11-01T00:00:00Z",
            "plan: must be the id of one of the plans (got 'free')",
        ),
        (
            "customer: acme, plan: pro, start: 2026-11-01",
            "start: must be an RFC 3339 time with an offset, such as 2026-11-01T00:00:00Z (got "
            "'2026-11-01')",
        ),
        (
            "customer: acme, plan: pro, start: 1969-12-31T23:59:59Z",
            "start: must not be before 1970 (got 1969-12-31T23:59:59Z)",
        ),
        (
            "customer: acme, plan: pro, start: 2026-11-01T00:00:00Z, end: 2026-11-01T00:00:00Z",
            "end: must be after the start, 2026-11-01T00:00:00Z (got 2026-11-01T00:00:00Z)",
        ),
    ],
)
def test_a_wrong_subscription_is_explained(keys: str, expected: str, tmp_path: Path) -> None:
    found = only(
        problems(tmp_path, METERS, CUSTOMERS, PLAN, f"subscriptions:\n- {{id: s, {keys}}}")
    )
    assert found == f"3.yaml:2: subscriptions[0].{expected}"


def test_wrong_customers_are_explained(tmp_path: Path) -> None:
    found = problems(
        tmp_path, "customers:\n- {id: a, time_zone: Europe/Berln}\n- {id: b, currency: Euro}"
    )
    assert found == [
        "0.yaml:2: customers[0].time_zone: must be an IANA time zone such as Europe/Berlin (got "
        "'Europe/Berln'; did you mean Europe/Berlin?)",
        "0.yaml:3: customers[1].currency: must be an ISO 4217 currency code such as EUR (got "
        "'Euro'; did you mean EUR?)",
    ]


def test_ids_are_unique_over_all_files(tmp_path: Path) -> None:
    found = problems(tmp_path, METERS, CUSTOMERS, "customers:\n- {id: beta}\n- {id: acme}", METERS)
    assert [re.sub(r"as in .*/", "as in ", each) for each in found] == [
        "2.yaml:3: customers[1].id: must be unique (got 'acme', as in 1.yaml:2)",
        "3.yaml:2: meters[0].id: must be unique (got 'calls', as in 0.yaml:2)",
        "3.yaml:3: meters[1].id: must be unique (got 'tokens', as in 0.yaml:3)",
    ]


def test_every_problem_is_reported_once_in_the_order_of_files_and_lines(
    tmp_path: Path,
) -> None:
    found = problems(
        tmp_path,
        """
        plans:
          - id: pro
            currency: EUR
            charges:
              - {id: a, meter: call, price: {model: flat, amount: 1}}
              - {id: a, fee: 0.5}
              - 7
            period: hour
          - {id: basic, currency: EUR, charges: [{id: x, fee: 1}, {id: x, fee: 2}]}
        """,
        "meters: {",
        "customers: [{id: acme, name: 7}]",
        "subscriptions: [{id: s, customer: acme, plan: pro}, {id: t, customer: who, plan: pro}]",
    )
    places = [re.match(r"(\S+): (\S+):", each) for each in found]
    assert [
        place.groups() if place else each for place, each in zip(places, found, strict=True)
    ] == [
        ("0.yaml:5", "plans[0].charges[0].meter"),
        ("0.yaml:6", "plans[0].charges[1].fee"),
        ("0.yaml:6", "plans[0].charges[1].id"),
        ("0.yaml:7", "plans[0].charges[2]"),
        ("0.yaml:8", "plans[0].period"),
        ("0.yaml:9", "plans[1].charges[1].id"),
        found[6],
        ("2.yaml:1", "customers[0].name"),
        ("3.yaml:1", "subscriptions[0].start"),
        ("3.yaml:1", "subscriptions[1].start"),
        ("3.yaml:1", "subscriptions[1].customer"),
    ]
    assert found[6].startswith("1.yaml:")


def test_a_problem_of_a_merged_value_points_at_the_value(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        customers:
          - &base
            id: a
            currency: EURO
          - <<: *base
            id: b
        """,
    )
    assert [each.partition(": must")[0] for each in found] == [
        "0.yaml:4: customers[0].currency",
        "0.yaml:4: customers[1].currency",
    ]


# Laws.

scalars = st.sampled_from(
    ["x", "1", "0.5", "no", "~", '""', "2026-11-01", "[]", "{}", "[1, a]", "{a: 1}", "*a", "&a 1"]
)
keys = st.sampled_from(
    [
        *("id", "event_name", "aggregation", "property", "filters", "group_by", "price", "model"),
        *(
            "prices",
            "price_by",
            "when",
            "convert",
            "tiers",
            "up_to",
            "fee",
            "meter",
            "charges",
            "currency",
            "time_zone",
            "start",
            "end",
        ),
        *("customer", "plan", "rate", "<<"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["meters", "customers", "plans", "subscriptions", "more"]),
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
            | st.dictionaries(keys, inner, max_size=5).map(
                lambda pairs: "{" + ", ".join(f"{k}: {v}" for k, v in pairs.items()) + "}"
            )
        ),
        max_leaves=15,
    ),
)
def test_whatever_the_file_it_loads_or_every_problem_is_plain(
    tmp_path_factory: pytest.TempPathFactory, section: str, value: str
) -> None:
    file = tmp_path_factory.mktemp("fuzz") / "c.yaml"
    file.write_text(f"{section}: [{value}]", encoding="utf-8")
    try:
        load_catalog(str(file))
    except CatalogError as error:
        found = error
    else:
        return
    assert found.problems
    for problem in found.problems:
        assert problem.file == str(file)
        assert problem.message.startswith(("must ", "unknown key"))
        assert not re.search(r"pydantic|Traceback|object at|valid:|\(\w+\)\.", str(problem))


def test_the_problems_arrive_in_another_process_as_they_are() -> None:
    error = CatalogError([Problem("a.yaml", 3, "plans[0].id", "must be given")])
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.problems) == (str(error), error.problems)
