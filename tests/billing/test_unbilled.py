"""Usage that is never billed: against an oracle that walks day by day, and cases in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.unbilled import Coverage, Gap, Reason
from meters.attribution import Attribution
from meters.catalog import Catalog
from meters.periods import Span

DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = 7
DAYS = 70
"""The days that are asked about; anything that changes does so within them."""
HORIZON = 3 * DAYS


def at(day: int) -> datetime:
    return DAY_0 + timedelta(days=day)


# What a test is about, in days.


@dataclass(frozen=True)
class Pays:
    """A plan: what it charges for the meter by version, from a day on; "" is nothing."""

    name: str
    versions: tuple[tuple[int, str], ...]

    def in_force(self, day: int) -> str:
        return [charge for since, charge in self.versions if since <= day][-1]


@dataclass(frozen=True)
class Phase:
    since: int
    plan: Pays
    pinned: int | None = None


@dataclass(frozen=True)
class Owner:
    name: str
    customer: str
    phases: tuple[Phase, ...]
    end: int | None = None
    trial: int | None = None

    @property
    def start(self) -> int:
        return self.phases[0].since

    def phase(self, day: int) -> Phase:
        return [each for each in self.phases if each.since <= day][-1]

    def is_active(self, day: int) -> bool:
        return self.start <= day and (self.end is None or day < self.end)

    def week(self, day: int) -> int:
        return (day - self.start) // WEEK

    def charge(self, day: int) -> str:
        """What it pays by for usage on one of its days."""
        phase = self.phase(day)
        if phase.pinned is not None:
            return phase.plan.versions[phase.pinned][1]
        return phase.plan.in_force(max(self.start + WEEK * self.week(day), phase.since))

    def bills(self, meter: str, day: int, used: int) -> bool:
        """Whether what it pays by on a day has usage of another one in it."""
        charge = self.charge(day)
        if not charge:
            return False
        if used == day:
            return True
        by_event = charge == "dynamic"
        carries = charge == "prorated" or (meter in ("recurring", "level") and not by_event)
        if not carries or used > day:
            return False
        return meter == "recurring" or (used >= self.start and self.week(used) == self.week(day))


def why(owners: list[Owner], customer: str, name: str | None, meter: str, day: int) -> str | None:
    """The slow oracle: why usage of one day is never billed."""
    if name is None:
        active = [each for each in owners if each.customer == customer and each.is_active(day)]
        some = any(charge for each in active for _, charge in each.phase(day).plan.versions)
        return "unknown_subscription" if some else "no_subscription"
    found = [each for each in owners if (each.name, each.customer) == (name, customer)]
    if not found:
        return "unknown_subscription"
    [owner] = found
    if any(owner.bills(meter, later, day) for later in range(HORIZON) if owner.is_active(later)):
        return None
    if day < owner.start:
        return "before_start"
    return "not_charged" if owner.is_active(day) else "after_end"


# The same as a catalog.

METERS: dict[str, dict[str, Any]] = {
    "plain": {"aggregation": "sum", "property": "v"},
    "recurring": {"aggregation": "sum", "property": "v", "recurring": True},
    "level": {"aggregation": "weighted_sum", "property": "v"},
}
UNIT = {"model": "unit", "unit_amount": "1"}
CHARGES: dict[str, dict[str, Any]] = {
    "unit": {"price": UNIT},
    "dynamic": {"price": {"model": "dynamic", "property": "cost"}},
    "prorated": {"price": UNIT, "prorate_events": True},
}


def charges(meter: str, kind: str) -> list[dict[str, Any]]:
    return [{"id": "c", "meter": meter, **CHARGES[kind]}] if kind else []


def plan_of(meter: str, pays: Pays) -> dict[str, Any]:
    made = {"id": pays.name, "currency": "EUR", "period": "week"}
    if len(pays.versions) == 1:
        return {**made, "charges": charges(meter, pays.versions[0][1])}
    return {
        **made,
        "versions": [
            {"version": f"v{number}", "from": at(since), "charges": charges(meter, kind)}
            for number, (since, kind) in enumerate(pays.versions)
        ],
    }


def phase_of(phase: Phase) -> dict[str, Any]:
    pinned = {} if phase.pinned is None else {"pin_version": f"v{phase.pinned}"}
    return {"plan": phase.plan.name, **pinned}


def catalog_of(owners: list[Owner], plans: list[Pays], meter: str) -> Catalog:
    return Catalog.model_validate(
        {
            "meters": [{"id": meter, "event_name": "e", **METERS[meter]}],
            "customers": [{"id": "acme"}, {"id": "other"}],
            "plans": [plan_of(meter, each) for each in plans],
            "subscriptions": [
                {
                    "id": each.name,
                    "customer": each.customer,
                    "start": at(each.start),
                    **phase_of(each.phases[0]),
                    "changes": [{"from": at(p.since), **phase_of(p)} for p in each.phases[1:]],
                    **({} if each.end is None else {"end": at(each.end)}),
                    **({} if each.trial is None else {"trial_end": at(each.trial)}),
                }
                for each in owners
            ],
        }
    )


def by_day(gaps: list[Gap], within: tuple[int, int]) -> list[Reason | None]:
    found = []
    for day in range(*within):
        [reason] = [gap.reason for gap in gaps if at(day) in gap.span] or [None]
        found.append(reason)
    return found


# Any catalogs.


@st.composite
def plans(draw: st.DrawFn, meter: str) -> list[Pays]:
    kinds = ["", "unit"]
    if meter != "level":
        kinds += ["dynamic", "prorated"]
    made = []
    for name in "ab":
        later = draw(st.lists(st.integers(1, DAYS - 1), max_size=2, unique=True))
        made.append(
            Pays(name, tuple((day, draw(st.sampled_from(kinds))) for day in [0, *sorted(later)]))
        )
    return made


@st.composite
def owner(draw: st.DrawFn, name: str, every: list[Pays]) -> Owner:
    start = draw(st.integers(0, DAYS // 2))
    end = draw(st.none() | st.integers(start + 1, DAYS))
    inner = range(start + 1, end or DAYS)
    days = draw(st.sets(st.sampled_from(inner), max_size=2)) if inner else set()
    phases = []
    for day in [start, *sorted(days)]:
        pays = draw(st.sampled_from(every))
        number = st.none() | st.integers(0, len(pays.versions) - 1)
        pinned = draw(number) if len(pays.versions) > 1 else None
        phases.append(Phase(day, pays, pinned))
    trial = draw(st.none() | st.integers(start + 1, end or DAYS))
    customer = draw(st.sampled_from(["acme", "acme", "other"]))
    return Owner(name, customer, tuple(phases), end, trial)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), meter=st.sampled_from(sorted(METERS)))
def test_gaps_are_what_a_walk_day_by_day_finds(data: st.DataObject, meter: str) -> None:
    every = data.draw(plans(meter))
    owners = [data.draw(owner(name, every)) for name in ("s", "t")]
    catalog = catalog_of(owners, every, meter)
    first = data.draw(st.integers(0, DAYS - 1))
    within = first, data.draw(st.integers(first + 1, DAYS))
    name = data.draw(st.sampled_from([None, "s", "t", "gone"]))
    final = data.draw(st.lists(st.tuples(st.integers(0, DAYS), st.integers(0, DAYS)), max_size=2))
    final = [pair for pair in final if pair[0] < pair[1]]
    span, billed = Span(at(first), at(within[1])), [Span(at(a), at(b)) for a, b in final]
    gaps = Coverage(catalog).gaps("acme", name, meter, span, billed)
    ends = [instant for gap in gaps for instant in (gap.span.start, gap.span.end)]
    assert ends == sorted(ends)
    assert all(span.start <= gap.span.start < gap.span.end <= span.end for gap in gaps)
    assert by_day(gaps, within) == [
        None
        if any(start <= day < end for start, end in final)
        else why(owners, "acme", name, meter, day)
        for day in range(*within)
    ]
    # Usage that names nothing goes where the attribution says, and that is never out of dates.
    for day in range(*within):
        chosen = Attribution(catalog).subscription_for("acme", meter, at(day), None)
        here = Span(at(day), at(day + 1))
        reasons = {gap.reason for gap in Coverage(catalog).gaps("acme", chosen, meter, here)}
        assert reasons <= {"no_subscription", "not_charged"}


# In words.

CHARGED = Pays("a", ((0, "unit"),))
FREE = Pays("b", ((0, ""),))
S = Owner("s", "acme", (Phase(10, CHARGED),), end=40)


def reasons(
    mine: Owner, name: str | None = "s", meter: str = "plain", customer: str = "acme"
) -> list[tuple[int, int, str]]:
    """(first day, day after the last, reason) of each gap."""
    every = [CHARGED, FREE, *{phase.plan for phase in mine.phases} - {CHARGED, FREE}]
    catalog = catalog_of([mine], every, meter)
    found = Coverage(catalog).gaps(customer, name, meter, Span(at(0), at(DAYS)))
    return [
        ((gap.span.start - DAY_0).days, (gap.span.end - DAY_0).days, gap.reason) for gap in found
    ]


@pytest.mark.parametrize(
    ("mine", "meter", "expected"),
    [
        pytest.param(
            S, "plain", [(0, 10, "before_start"), (40, 70, "after_end")], id="outside the dates"
        ),
        pytest.param(replace(S, end=None), "plain", [(0, 10, "before_start")], id="open end"),
        pytest.param(
            S,
            "recurring",
            [(40, 70, "after_end")],
            id="what recurs had been before",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, CHARGED), Phase(20, FREE))),
            "plain",
            [(20, 70, "not_charged")],
            id="a change to a plan without the meter",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, FREE), Phase(20, CHARGED))),
            "level",
            [(0, 14, "not_charged")],
            id="a level is carried from the start of its week",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, FREE), Phase(60, CHARGED)), trial=30),
            "recurring",
            [],
            id="a recurring meter is carried into a plan to come",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, FREE), Phase(800, CHARGED))),
            "recurring",
            [],
            id="however late that plan is",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, Pays("c", ((0, "unit"), (20, "")))),)),
            "plain",
            [(21, 70, "not_charged")],
            id="a version without the meter holds from the next period on",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, Pays("c", ((0, "unit"), (20, ""))), pinned=0),)),
            "plain",
            [],
            id="a pinned version goes on",
        ),
        pytest.param(
            Owner("s", "acme", (Phase(0, CHARGED),), trial=30), "plain", [], id="a trial is billed"
        ),
    ],
)
def test_cases(mine: Owner, meter: str, expected: list[tuple[int, int, str]]) -> None:
    assert reasons(mine, meter=meter) == expected


def test_a_charge_that_an_override_prices_by_event_carries_nothing() -> None:
    made = catalog_of([S], [CHARGED], "recurring").model_dump(by_alias=True, exclude_none=True)
    made["subscriptions"][0]["overrides"] = {"c": CHARGES["dynamic"]}
    catalog = Catalog.model_validate(made)
    gaps = Coverage(catalog).gaps("acme", "s", "recurring", Span(at(0), at(DAYS)))
    assert [gap.reason for gap in gaps] == ["before_start", "after_end"]


def test_usage_that_belongs_to_nobody() -> None:
    assert reasons(S, None) == [
        (0, 10, "no_subscription"),
        (10, 40, "unknown_subscription"),
        (40, 70, "no_subscription"),
    ]
    assert reasons(S, "gone") == [(0, 70, "unknown_subscription")]
    assert reasons(S, customer="other") == [(0, 70, "unknown_subscription")]
    assert reasons(S, customer="nobody") == [(0, 70, "unknown_customer")]


def test_an_hour_in_which_the_subscription_ends_has_usage_from_behind_it() -> None:
    made = catalog_of([S], [CHARGED], "plain").model_dump(by_alias=True, exclude_none=True)
    made["subscriptions"][0]["end"] = at(40) + timedelta(minutes=90)
    gaps = Coverage(Catalog.model_validate(made)).gaps("acme", None, "plain", Span(at(39), at(41)))
    assert gaps == [
        Gap(Span(at(39), at(40) + timedelta(hours=1)), "unknown_subscription"),
        Gap(Span(at(40) + timedelta(hours=1), at(41)), "no_subscription"),
    ]


def test_a_meter_that_the_catalog_has_no_more_is_not_charged() -> None:
    catalog = catalog_of([S], [CHARGED], "plain")
    [gap] = Coverage(catalog).gaps("acme", "s", "gone", Span(at(12), at(14)))
    assert gap == Gap(Span(at(12), at(14)), "not_charged")
