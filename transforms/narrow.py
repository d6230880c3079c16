"""Slim columns in few bytes, for the way from one stage to the next.

    slim --narrow--> table of narrow types --file or stream--> tables --widen--> slim

Few distinct texts become codes, numbers take 8 bytes where each of a batch fits, and
indexes take one or two. Nothing is lost: the narrow type tells the wide one, and batches
may be narrow in different ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import polars as pl
import pyarrow as pa

from meters.texts import one_chunk

_DIGITS = 18
"""What a decimal of 64 bits holds."""
_WIDE_DIGITS = 38
_SAMPLE = 1024
_SELDOM = 8
"""Texts are coded where a sample of them has not more than one distinct of so many."""
_MOST_TEXTS = 1024
"""Texts are coded where there are not more of them: each part of a table has them all."""
_CODES = (pa.int8(), pa.int16())
_WIDE_CODE = pa.int32()


def narrow(frame: pl.DataFrame) -> pa.Table:
    """The frame's columns in the fewest bytes that hold each of its values."""
    table = frame.to_arrow()
    return pa.table([_narrow(one_chunk(column)) for column in table.columns], table.column_names)


def widen(tables: Sequence[pa.Table]) -> pl.DataFrame:
    """The rows of tables that `narrow` made of frames of one schema, or of parts of them.

    No columns where there are no rows.
    """
    tables = [table for table in tables if table.num_rows]
    names = tables[0].column_names if tables else []
    return pl.DataFrame(
        [
            _wide([chunk for table in tables for chunk in table.column(name).chunks]).alias(name)
            for name in names
        ]
    )


def _narrow(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_decimal128(kind):
        return _fitting(column, (pa.decimal64(_DIGITS, kind.scale),))
    if kind == _WIDE_CODE:
        return _fitting(column, _CODES)
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _coded(column)
    return column


def _fitting(column: pa.Array, kinds: Iterable[pa.DataType]) -> pa.Array:
    """The column in the first type that holds all of its values."""
    for kind in kinds:
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def _coded(column: pa.Array) -> pa.Array:
    sample = column.slice(0, _SAMPLE)
    if len(sample.unique()) * _SELDOM > len(sample):
        return column
    coded = column.dictionary_encode()
    if len(coded.dictionary) > _MOST_TEXTS:
        return column
    codes = _fitting(coded.indices, _CODES)
    return pa.DictionaryArray.from_arrays(codes, coded.dictionary)


def _wide(chunks: Sequence[pa.Array]) -> pl.Series:
    """All chunks of one column, those of one narrow type at a time."""
    runs = groupby(chunks, lambda chunk: chunk.type)
    return pl.concat([_widened(pa.chunked_array(run)) for _, run in runs], rechunk=True)


def _widened(column: pa.ChunkedArray) -> pl.Series:
    """The column in one piece of its own: what it was read into can go."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        # Codes of several dictionaries may need more than the width of each.
        wide = column.cast(pa.dictionary(_WIDE_CODE, kind.value_type)).unify_dictionaries()
        codes = pa.chunked_array([chunk.indices for chunk in wide.chunks]).combine_chunks()
        texts = pl.Series(pl.from_arrow(wide.chunk(0).dictionary))
        return texts.gather(pl.Series(pl.from_arrow(codes)))
    whole = column.combine_chunks()
    if kind in _CODES:
        whole = whole.cast(_WIDE_CODE)
    series = pl.Series(pl.from_arrow(whole))
    if pa.types.is_decimal(kind):
        return series.cast(pl.Decimal(_WIDE_DIGITS, kind.scale))
    return series
