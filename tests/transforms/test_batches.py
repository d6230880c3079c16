"""Batches as elements: what is packed or coded comes back as it was."""

from __future__ import annotations

from decimal import Decimal

import apache_beam as beam
import polars as pl
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from meters.aggregators import NUMBER
from meters.measure import Cells
from runners import launch
from tests.meters.chain import catalog_of, event, measured, meter, slim_of
from transforms.batches import CellsCoder, pack, unpack

COLUMNS = {
    "text": (pl.String, st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)),
    "hash": (pl.Binary, st.none() | st.binary(max_size=16)),
    "word": (pl.UInt64, st.integers(0, 2**64 - 1)),
    "time": (pl.Int64, st.none() | st.integers(-(2**63), 2**63 - 1)),
    "index": (pl.Int32, st.none() | st.integers(-1, 2**31 - 1)),
    "number": (
        NUMBER,
        st.none() | st.integers(1 - 10**27, 10**27 - 1).map(lambda n: Decimal(n).scaleb(-12)),
    ),
}


@st.composite
def frames(draw: st.DrawFn) -> pl.DataFrame:
    size = draw(st.integers(0, 6))
    names = draw(st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, min_size=1))
    return pl.DataFrame(
        {
            name: pl.Series(
                draw(st.lists(COLUMNS[name][1], min_size=size, max_size=size)),
                dtype=COLUMNS[name][0],
            )
            for name in names
        }
    )


@settings(max_examples=50)
@given(frames())
def test_a_packed_frame_comes_back_as_it_was(frame):
    assert_frame_equal(unpack(pack(frame)), frame)


@settings(max_examples=30)
@given(st.integers(0, 300), frames(), st.none() | frames())
def test_coded_cells_come_back_as_they_were(family, rows, values):
    coder = CellsCoder()
    assert_same(
        coder.decode(coder.encode(Cells(family, rows, values))), Cells(family, rows, values)
    )


def assert_same(found: Cells, expected: Cells) -> None:
    assert found.family == expected.family
    assert_frame_equal(found.rows, expected.rows)
    assert (found.values is None) == (expected.values is None)
    if found.values is not None:
        assert_frame_equal(found.values, expected.values)


def test_slim_columns_and_cells_of_real_events_come_back_as_they_were():
    catalog = catalog_of(
        meter("latest"), meter("unique_count", id="u", group_by=["g"]), meter("avg", id="a")
    )
    events = [event(n, properties={"x": n % 3, "g": "é"}) for n in range(20)]
    for some in (events, []):
        slim = slim_of(catalog, some)
        assert_frame_equal(unpack(pack(slim)), slim)
    _, cells, _ = measured(catalog, events)
    coder = beam.coders.registry.get_coder(Cells)
    assert isinstance(coder, CellsCoder)
    for part in cells:
        assert_same(coder.decode(coder.encode(part)), part)


def test_cells_travel_through_a_shuffle():
    rows = pl.DataFrame({"customer": [1, 2]})
    sent = [(n, Cells(n, rows.slice(0, n), None if n else rows)) for n in range(3)]

    def same(grouped):
        for key, [cells] in grouped:
            assert_same(cells, dict(sent)[key])
        assert len(list(grouped)) == 3

    with beam.Pipeline(options=launch.options("direct")) as pipeline:
        cells = pipeline | beam.Create(sent).with_output_types(tuple[int, Cells])
        assert_that(cells | beam.GroupByKey() | beam.MapTuple(lambda k, v: (k, list(v))), same)


def test_cells_are_no_keys():
    assert not CellsCoder().is_deterministic()
