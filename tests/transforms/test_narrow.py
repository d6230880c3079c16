"""Narrow columns: whatever is in them comes back, in files and in streams."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from meters.aggregators import NUMBER
from tests.meters.chain import catalog_of, event, meter, slim_of
from transforms.narrow import narrow, widen
from transforms.spill import IN_MEMORY, Spill

TEXTS = st.characters(exclude_categories=["Cs"])
EDGES = [0, 1, *(10**n + d for n in (18, 27) for d in (-1, 0) if n + d < 27)]
SCHEMA = {
    "text": (pl.String, st.none() | st.text(TEXTS, max_size=3)),
    "hash": (pl.Binary, st.none() | st.binary(max_size=16)),
    "word": (pl.UInt64, st.integers(0, 2**64 - 1)),
    "time": (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
    "index": (
        pl.Int32,
        st.none()
        | st.integers(-1, 200)
        | st.integers(2**15 - 2, 2**15 + 2)
        | st.integers(-(2**31), 2**31 - 1),
    ),
    "number": (
        NUMBER,
        st.none()
        | (st.sampled_from(EDGES) | st.integers(0, 10**27 - 1)).flatmap(
            lambda n: st.sampled_from([Decimal(n).scaleb(-12), Decimal(-n).scaleb(-12)])
        ),
    ),
    "version": (pl.UInt16, st.integers(0, 2**16 - 1)),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    """Rows, some of them many times: so that texts are coded in some frames and not in others."""
    size = draw(st.integers(1, 4))
    times = draw(st.sampled_from([1, 1, 10]))
    return pl.DataFrame(
        {
            name: pl.Series(draw(st.lists(some, min_size=size, max_size=size)) * times, dtype=kind)
            for name, (kind, some) in SCHEMA.items()
        }
    )


@pytest.mark.parametrize("in_files", [True, False])
@settings(max_examples=60)
@given(data=st.data(), batches=st.lists(frames(), min_size=1, max_size=4))
def test_frames_of_batches_come_back_as_they_were(tmp_path_factory, in_files, data, batches):
    spill = Spill(str(tmp_path_factory.mktemp("spill"))) if in_files else IN_MEMORY
    tables = []
    for batch in batches:
        bounds = data.draw(st.lists(st.integers(1, batch.height), unique=True))
        sizes = [b - a for a, b in pairwise(sorted({0, batch.height, *bounds}))]
        tokens = spill.put(narrow(batch), sizes)
        parts = [spill.get(token) for token in tokens]
        assert [part.num_rows for part in parts] == sizes
        tables += parts
    assert_frame_equal(widen(tables), pl.concat(batches))


def test_texts_that_begin_alike_and_then_differ_come_back_as_they_were():
    few = ["a"] * 1024
    batches = [
        pl.DataFrame({"text": few + [f"{kind}{n}" for n in range(distinct)]})
        for kind, distinct in (("b", 10), ("c", 200), ("d", 40_000), ("e", 1000), ("f", 1023))
    ]
    tables = [narrow(batch) for batch in batches]
    coded = [pa.dictionary(width, pa.large_string()) for width in (pa.int8(), pa.int16())]
    types = [table.column("text").type for table in tables]
    assert types == [*coded, pa.large_string(), coded[1], coded[1]]
    assert_frame_equal(widen(tables), pl.concat(batches))
    parts = [table.slice(start, 9) for table in tables for start in range(0, 2000, 9)]
    expected = [batch.slice(start, 9) for batch in batches for start in range(0, 2000, 9)]
    assert_frame_equal(widen(parts), pl.concat(expected))


@pytest.mark.parametrize(
    ("units", "narrow_type"),
    [
        (10**18 - 1, pa.decimal64(18, 12)),
        (-(10**18) + 1, pa.decimal64(18, 12)),
        (10**18, pa.decimal128(38, 12)),
        (-(10**18), pa.decimal128(38, 12)),
        (2**64, pa.decimal128(38, 12)),
        (10**27 - 1, pa.decimal128(38, 12)),
    ],
)
def test_numbers_take_eight_bytes_only_where_each_of_them_fits(units, narrow_type):
    numbers = [Decimal(1), None, Decimal(units).scaleb(-12)]
    frame = pl.DataFrame({"n:x": pl.Series(numbers, dtype=NUMBER)})
    table = narrow(frame)
    assert table.column("n:x").type == narrow_type
    assert_frame_equal(widen([table]), frame)
    assert_frame_equal(widen([table, narrow(frame.head(2))]), pl.concat([frame, frame.head(2)]))


def test_slim_columns_of_real_events_take_less_and_come_back_as_they_were():
    catalog = catalog_of(
        meter("latest"), meter("unique_count", id="u", group_by=["g"]), meter("avg", id="a")
    )
    events = [event(n, properties={"x": n % 3, "g": "é"}) for n in range(2000)]
    slim = slim_of(catalog, events)
    table = narrow(slim)
    assert_frame_equal(widen([table]), slim)
    assert table.nbytes < 0.7 * slim.to_arrow().nbytes


@pytest.mark.parametrize("in_files", [True, False])
def test_texts_that_only_the_first_rows_share_do_not_travel_with_each_frame(tmp_path, in_files):
    texts = pl.Series([None] * 2000 + [f"text {n}" for n in range(8000)], dtype=pl.String)
    batch = pl.DataFrame({"text": texts})
    spill = Spill(str(tmp_path)) if in_files else IN_MEMORY
    tokens = spill.put(narrow(batch), [100] * 100)
    parts = [spill.get(token) for token in tokens]
    assert_frame_equal(widen(parts), batch)
    held = sum(part.get_total_buffer_size() for part in parts)
    assert held < 2 * batch.to_arrow().nbytes
    assert sum(map(len, tokens)) < 2 * batch.to_arrow().nbytes


def test_no_rows_are_no_columns():
    empty = narrow(pl.DataFrame(schema={name: kind for name, (kind, _) in SCHEMA.items()}))
    assert widen([]).is_empty()
    assert widen([empty]).is_empty()
