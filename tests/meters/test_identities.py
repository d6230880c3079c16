"""Identities behave like a dict that keeps what it saw first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meters.identities import Identities, Keys

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
