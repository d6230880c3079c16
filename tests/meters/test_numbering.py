import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from meters.numbering import number_groups

WIDE = st.sampled_from([-(2**61), -5, -1, 0, 3, 10**16, 2**61])
TEXTS = st.sampled_from([None, "", "null", '"a"', '"ä"', "1"])


@given(st.lists(st.tuples(WIDE, st.integers(-1, 2), TEXTS, WIDE, TEXTS), max_size=40))
def test_rows_share_a_number_exactly_where_all_their_keys_are_equal(rows):
    schema = {"a": pl.Int64, "b": pl.Int32, "c": pl.String, "d": pl.Int64, "e": pl.String}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    numbers = number_groups(frame, frame.columns)
    assert numbers.dtype == pl.UInt32
    assert len(set(zip(rows, numbers, strict=True))) == len(set(rows)) == len(set(numbers))
    assert sorted(set(numbers)) == list(range(len(set(rows))))


def test_without_keys_all_rows_are_one_group():
    assert number_groups(pl.DataFrame({"a": [7, 8]}), []).to_list() == [0, 0]
