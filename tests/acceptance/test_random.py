"""Random worlds: usage is what the oracle says, however the events come in files."""

from __future__ import annotations

import copy
import random

import pytest

from tests.cli import comparable
from tests.generators import worlds
from tests.oracle import Oracle

SEEDS = range(24)
NAMES = ["a.jsonl", "b.csv", "c.parquet", "d.jsonl.gz", "e.csv.zst", "f.jsonl.zst", "g.csv.gz"]


@pytest.fixture(scope="module")
def expected():
    catalog, events = worlds(SEEDS)
    return catalog, events, Oracle(catalog, events)


@pytest.fixture(scope="module")
def whole(module_site, expected):
    """All events from one JSON Lines file."""
    catalog, events, _ = expected
    site = module_site(catalog)
    site.counts = site.backfill(site.write("all.jsonl", events))
    return site


@pytest.mark.parametrize("granularity", ["hour", "day", "period"])
def test_usage_is_what_the_oracle_says(whole, expected, granularity):
    assert comparable(whole.usage(granularity)) == comparable(expected[2].usage(granularity))


def test_the_counts_are_what_the_oracle_says(whole, expected):
    assert whole.counts == expected[2].counts


@pytest.mark.parametrize("seed", [1, 2])
def test_any_partition_into_files_formats_and_backfills_gives_the_same_usage(
    new_site, expected, seed
):
    catalog, events, oracle = expected
    shuffled = random.Random(seed)
    parts = [[] for _ in NAMES]
    for event in shuffled.sample(events, len(events)):
        shuffled.choice(parts).append(event)
    # A few events stand in two files.
    parts[0] += shuffled.sample(parts[3], 20)
    parts[2] += shuffled.sample(parts[1], 20)
    names = shuffled.sample(NAMES, len(NAMES))
    site = new_site(catalog)
    paths = [site.write(name, part) for name, part in zip(names, parts, strict=True)]
    if seed == 1:
        site.backfill(*paths[:4])
        site.backfill(*paths[4:])
    else:  # every bundle is run three times
        site.backfill(*paths[::-1], options=("--", "--direct_runner_bundle_repeat=2"))
    assert comparable(site.usage("hour")) == comparable(oracle.usage("hour"))


def test_a_later_catalog_and_the_same_file_give_what_the_later_catalog_says(new_site):
    later, events = worlds(range(100, 108))
    for event in events:
        event.pop("external_subscription_id", None)
    r = random.Random(5)
    earlier = copy.deepcopy(later)
    customers = [c for c in earlier["customers"] if r.random() < 0.7]
    known = {customer["id"] for customer in customers}
    earlier["customers"] = customers
    earlier["subscriptions"] = [
        s for s in earlier["subscriptions"] if s["customer"] in known and r.random() < 0.6
    ]
    for meter in earlier["meters"]:
        if r.random() < 0.3:
            meter["filters"] = {"f": ["eu"]}
        if r.random() < 0.3:
            meter["group_by"] = ["f"]
    site = new_site(earlier)
    path = site.write("all.jsonl", events)
    assert site.backfill(path) == Oracle(earlier, events).counts
    site.write_catalog(later)
    oracle = Oracle(later, events)
    assert site.backfill(path) == oracle.counts
    assert comparable(site.usage("hour")) == comparable(oracle.usage("hour"))
