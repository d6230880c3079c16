"""Shards of customers."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from meters.shards import shard_of

GOLDEN = [3, 10, 10, 9, 3, 15]


def test_a_shard_is_the_hash_of_both_ids_with_a_zero_byte_between() -> None:
    expected = xxhash.xxh3_64_intdigest("ténant\0çustomer".encode())
    assert shard_of("ténant", "çustomer", 1_000_003) == expected % 1_000_003
    # A value that must never change: state and progress are kept by it.
    assert [shard_of("default", f"customer-{n}", 16) for n in range(6)] == GOLDEN


@given(tenant=st.text(), customer=st.text(), shards=st.integers(1, 4096))
def test_every_customer_has_one_shard(tenant: str, customer: str, shards: int) -> None:
    assert 0 <= shard_of(tenant, customer, shards) < shards
    assert shard_of(tenant, customer, 1) == 0


@pytest.mark.parametrize("shards", [0, -1])
def test_there_is_at_least_one_shard(shards: int) -> None:
    with pytest.raises(ValueError, match=r"shards must be at least 1 \(got"):
        shard_of("t", "c", shards)
