"""Texts of columns: every text once, in order, whatever the slice, and nothing beside them."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from meters.texts import AT_ONCE, compact, one_chunk, pieces

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=8)


@given(texts, st.integers(0, 8), st.integers(0, 8))
def test_pieces_are_the_bytes_of_any_slice(given_texts, first, length):
    array = pa.array(given_texts, pa.string()).slice(min(first, len(given_texts)), length)
    found = [text for piece in pieces(array) for text in piece]
    assert found == [text.encode() for text in array.to_pylist()]


def test_pieces_are_small_and_lose_nothing_between_them():
    array = pa.array([f"text {n}" for n in range(2 * AT_ONCE + 1)])
    found = list(pieces(array))
    assert [len(piece) for piece in found] == [AT_ONCE, AT_ONCE, 1]
    assert [text.decode() for piece in found for text in piece] == array.to_pylist()


def test_chunks_become_one_array():
    column = pa.chunked_array([["a"], [], ["b", "c"]], pa.string())
    assert one_chunk(column).equals(pa.array(["a", "b", "c"]))
    assert one_chunk(pa.chunked_array([], pa.string())).equals(pa.array([], pa.string()))


def test_a_compact_frame_is_equal_and_holds_only_its_own_texts():
    whole = pl.DataFrame({"id": [f"{n:040}" for n in range(1000)], "n": range(1000)})
    few = whole.filter(pl.col("n") < 3)
    assert compact(few).equals(few)
    assert compact(few).schema == few.schema
    views = compact(few)["id"].to_arrow(compat_level=pl.CompatLevel.newest())
    held = sum(buffer.size for buffer in views.buffers() if buffer is not None)
    assert held < 1000
