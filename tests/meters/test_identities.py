"""Identities behave like a dict that keeps what it saw first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.identities import SLOT_BYTES, Identities, Keys

WORD = st.sampled_from([0, 1, 2, 1 << 10, 1 << 20, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)
BATCH = st.lists(st.tuples(WORD, WORD, WORD), max_size=40, unique_by=lambda key: key[:2])


def keys(rows: list[tuple[int, int, int]]) -> Keys:
    columns = np.array(rows, dtype=np.uint64).reshape(-1, 3)
    return Keys(columns[:, 0], columns[:, 1], columns[:, 2])


@given(st.lists(st.tuples(BATCH, st.integers(0, 9)), max_size=12))
@settings(max_examples=200, deadline=None)
def test_what_was_seen_first_is_kept(batches: list[tuple[list[tuple[int, int, int]], int]]) -> None:
    table = Identities()
    model: dict[tuple[int, int], tuple[int, int]] = {}
    for rows, number in batches:
        known, content = table.add(keys(rows), number)
        for (high, low, said), is_known, seen in zip(rows, known, content, strict=True):
            assert is_known == ((high, low) in model)
            if is_known:
                assert seen == model[high, low][0]
            else:
                model[high, low] = said, number
    assert len(table) == len(model)
    for number in range(10):
        gone = [key for key, (_, at) in model.items() if at == number]
        assert table.counts().get(number, 0) == len(gone)
        assert table.forget({number}) == len(gone)
        for key in gone:
            del model[key]
        rows = [(high, low, 0) for high, low in model]
        known, content = table.find(keys(rows))
        assert known.all()
        assert content.tolist() == [said for said, _ in model.values()]


def test_many_keys_that_want_one_slot_are_all_found() -> None:
    rows = [(7 << 40, low, low) for low in range(5000)]
    table = Identities()
    table.add(keys(rows), 0)
    known, content = table.find(keys(rows))
    assert known.all()
    assert content.tolist() == [low for _, low, _ in rows]
    assert not table.find(keys([(7 << 40, 5000, 0)]))[0].any()


def test_a_table_that_is_being_moved_answers_like_one_that_is_not() -> None:
    random = np.random.default_rng(1)
    words = random.integers(0, 1 << 63, (3, 900_000), dtype=np.uint64)
    every = Keys(words[0], words[1], words[2])
    table = Identities()
    sizes = set()
    for start in range(0, len(every), 9000):
        number = start // 300_000
        batch = every[slice(start, start + 9000)]
        assert not table.add(batch, number)[0].any()
        sizes.add(table.bytes // SLOT_BYTES)
        again = Keys(batch.high, batch.low, batch.content + np.uint64(1))
        known, content = table.add(again, number + 1)
        assert known.all()
        assert (content == batch.content).all()
    assert any(size & (size - 1) for size in sizes), "no batch met two tables"
    assert table.counts() == {0: 306_000, 1: 297_000, 2: 297_000}
    assert table.forget({0}) == 306_000
    assert table.bytes // SLOT_BYTES & (table.bytes // SLOT_BYTES - 1)
    known, content = table.find(every)
    assert not known[:306_000].any()
    assert known[306_000:].all()
    assert (content[306_000:] == every.content[306_000:]).all()
    known, _ = table.add(every[slice(0, 306_000)], 3)
    assert not known.any()
    assert sum(len(part) for _, part in table.segments()) == len(table) == 900_000
    assert table.counts() == {1: 297_000, 2: 297_000, 3: 306_000}


def test_segments_hold_everything_once() -> None:
    rows = [(n * 1_000_003, n, n + 1) for n in range(3000)]
    table = Identities()
    table.add(keys(rows), np.arange(3000) % 3)
    found = {
        (int(high), int(low), int(said), number)
        for number, part in table.segments()
        for high, low, said in zip(part.high, part.low, part.content, strict=True)
    }
    assert found == {(*row, index % 3) for index, row in enumerate(rows)}
