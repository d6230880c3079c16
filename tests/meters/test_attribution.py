import pickle
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from meters.attribution import OPEN_END, Attribution, Overlap
from meters.catalog import Catalog
from meters.zones import microseconds

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def catalog(*subscriptions: tuple[str, str, str, int, int | None]) -> Catalog:
    """Subscriptions as (id, customer, plan, start, end), in hours after noon."""
    price = {"model": "unit", "unit_amount": 1}
    charges = [
        {"id": meter, "meter": meter, "price": price} for meter in ("calls", "tokens", "idle")
    ]
    plans = {
        "both": charges[:2],
        "calls_only": charges[:1],
        "fee_only": [{"id": "fee", "fee": 5}],
    }
    return Catalog.model_validate(
        {
            "customers": [{"id": "a"}, {"id": "b"}],
            "plans": [{"id": name, "currency": "EUR", "charges": of} for name, of in plans.items()],
            "subscriptions": [
                {
                    "id": name,
                    "customer": customer,
                    "plan": plan,
                    "start": NOON + timedelta(hours=start),
                    "end": None if end is None else NOON + timedelta(hours=end),
                }
                for name, customer, plan, start, end in subscriptions
            ],
        }
    )


def at(hours: float) -> int:
    return microseconds(NOON + timedelta(hours=hours))


def test_a_subscription_owns_its_start_and_not_its_end() -> None:
    rule = Attribution(catalog(("s", "a", "both", 0, 2)))
    end = NOON + timedelta(hours=2)
    assert rule.subscription_for("a", "calls", NOON, None) == "s"
    assert rule.subscription_for("a", "calls", NOON - TICK, None) is None
    assert rule.subscription_for("a", "calls", end - TICK, None) == "s"
    assert rule.subscription_for("a", "calls", end, None) is None


def test_only_a_plan_that_charges_the_meter_takes_its_events() -> None:
    rule = Attribution(catalog(("fees", "a", "fee_only", 0, None), ("s", "a", "calls_only", 1, 9)))
    later = NOON + timedelta(hours=5)
    assert rule.subscription_for("a", "calls", later, None) == "s"
    assert rule.subscription_for("a", "tokens", later, None) is None
    assert rule.subscription_for("a", "unheard_of", later, None) is None


def test_of_several_the_earliest_started_wins_and_ties_go_by_id_bytes() -> None:
    rule = Attribution(
        catalog(
            ("young", "a", "both", 1, None),
            ("z", "a", "both", 0, None),
            ("\U0001f600", "a", "both", 0, None),
            ("\uff5a", "a", "both", 0, None),
        )
    )
    assert rule.subscription_for("a", "calls", NOON + timedelta(hours=3), None) == "z"
    # By UTF-16 units the emoji would come before U+FF5A; by bytes it comes after.
    rest = Attribution(catalog(("\U0001f600", "a", "both", 0, 9), ("\uff5a", "a", "both", 0, 9)))
    assert rest.subscription_for("a", "calls", NOON, None) == "\uff5a"


def test_an_explicit_id_wins_whatever_the_dates_and_the_plan() -> None:
    rule = Attribution(catalog(("s", "a", "both", 0, None), ("ended", "a", "fee_only", 0, 1)))
    later = NOON + timedelta(days=400)
    assert rule.subscription_for("a", "calls", later, "ended") == "ended"


def test_an_explicit_id_that_is_unknown_or_anothers_gives_none() -> None:
    rule = Attribution(catalog(("s", "a", "both", 0, None), ("t", "b", "both", 0, None)))
    assert rule.subscription_for("a", "calls", NOON, "t") is None
    assert rule.subscription_for("a", "calls", NOON, "never") is None


def test_an_unknown_customer_has_no_subscription() -> None:
    rule = Attribution(catalog(("s", "a", "both", 0, None)))
    assert rule.subscription_for("nobody", "calls", NOON, None) is None
    assert rule.subscription_for("nobody", "calls", NOON, "s") is None
    assert rule.segments("nobody", "calls") == [(0, OPEN_END, None)]


def test_segments_cover_all_time_with_gaps_as_none() -> None:
    rule = Attribution(
        catalog(
            ("first", "a", "both", 0, 4), ("inside", "a", "both", 1, 2), ("late", "a", "both", 3, 6)
        )
    )
    assert rule.segments("a", "tokens") == [
        (0, at(0), None),
        (at(0), at(4), "first"),
        (at(4), at(6), "late"),
        (at(6), OPEN_END, None),
    ]


def test_a_subscription_without_end_lasts_to_the_open_end() -> None:
    rule = Attribution(catalog(("s", "a", "both", 0, None)))
    assert rule.segments("a", "calls")[-1] == (at(0), OPEN_END, "s")
    assert microseconds(datetime.max.replace(tzinfo=UTC)) < OPEN_END < 2**63


def test_overlaps_name_every_match_and_the_one_chosen() -> None:
    rule = Attribution(
        catalog(
            ("old", "a", "calls_only", 0, 4),
            ("new", "a", "both", 2, None),
            ("newest", "a", "calls_only", 4, None),
            ("alone", "b", "both", 0, None),
        )
    )
    two, four = NOON + timedelta(hours=2), NOON + timedelta(hours=4)
    assert rule.overlaps() == [
        Overlap("a", "calls", two, four, ("old", "new"), "old"),
        Overlap("a", "calls", four, None, ("new", "newest"), "new"),
    ]


def test_back_to_back_subscriptions_do_not_overlap() -> None:
    rule = Attribution(catalog(("one", "a", "both", 0, 2), ("two", "a", "both", 2, None)))
    assert rule.overlaps() == []


subscriptions = st.lists(
    st.tuples(
        st.sampled_from(["a", "a", "b"]),
        st.sampled_from(["both", "calls_only", "fee_only"]),
        st.integers(-5, 5),
        st.none() | st.integers(1, 6),
    ),
    max_size=6,
)


@given(subscriptions, st.sampled_from(["calls", "tokens"]))
@example([("a", "both", 0, 2), ("a", "both", 0, None)], "calls")
def test_the_timeline_equals_the_scalar_rule(
    drawn: list[tuple[str, str, int, int | None]], meter: str
) -> None:
    rule = Attribution(
        catalog(
            *(
                (f"s{index}", customer, plan, start, None if length is None else start + length)
                for index, (customer, plan, start, length) in enumerate(drawn)
            )
        )
    )
    for customer in ("a", "b"):
        segments = rule.segments(customer, meter)
        assert segments[0][0] == 0
        assert segments[-1][1] == OPEN_END
        for before, after in pairwise(segments):
            assert before[1] == after[0], "disjoint, sorted, without holes"
            assert before[2] != after[2], "as long as possible"
        for hour in range(-7, 13):
            for instant in (NOON + timedelta(hours=hour), NOON + timedelta(hours=hour) - TICK):
                us = microseconds(instant)
                found = [name for start, end, name in segments if start <= us < end]
                assert found == [rule.subscription_for(customer, meter, instant, None)]


@given(subscriptions)
def test_overlaps_are_where_more_than_one_would_match(
    drawn: list[tuple[str, str, int, int | None]],
) -> None:
    named = [
        (f"s{index}", customer, plan, start, None if length is None else start + length)
        for index, (customer, plan, start, length) in enumerate(drawn)
    ]
    rule = Attribution(catalog(*named))
    for hour in range(-6, 13):
        now = NOON + timedelta(hours=hour)
        expected = {
            name
            for name, customer, plan, start, end in named
            if (customer, plan) in (("a", "both"), ("a", "calls_only"))
            and start <= hour
            and (end is None or hour < end)
        }
        reported = [
            overlap
            for overlap in rule.overlaps()
            if (overlap.customer, overlap.meter) == ("a", "calls")
            and overlap.start <= now
            and (overlap.end is None or now < overlap.end)
        ]
        assert len(reported) == (len(expected) > 1)
        for overlap in reported:
            assert set(overlap.subscriptions) == expected
            assert overlap.chosen == rule.subscription_for("a", "calls", now, None)


def test_it_survives_pickling() -> None:
    rule = pickle.loads(pickle.dumps(Attribution(catalog(("s", "a", "both", 0, 2)))))
    assert rule.subscription_for("a", "calls", NOON, None) == "s"
