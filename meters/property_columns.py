"""Properties as columns: JSON objects -> the JSON text of each property that is asked for.

    texts --parse, a few hundred at a time--> texts of each property --> numbers, scalars, hashes

Only values that are asked for are kept, as the text that was sent, so no value passes
through a float. Columns are made by whole expressions; texts outside the plain forms
are looked at one by one, by the scalar rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from itertools import chain

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from msgspec.structs import astuple

from meters.aggregators import NUMBER
from meters.errors import Rejected
from meters.event import hash128
from meters.numbers import parse_number, rounds
from meters.scalars import canonical_scalar, parse_json
from meters.texts import pieces

NO_SCALAR = "!"
"""Stands for a composite value: no JSON text equals it, so it meets no scalar."""

_NOTHING = msgspec.Raw(b"")
_END = b"\x1e"
"""Ends each text: JSON has no control character but white space outside its escapes."""

_PLAIN_NUMBER = r"^-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,12})?$"
_CANONICAL = r'^(?:"[^"\\]*"|-?[1-9][0-9]{0,29}|0|true|false)$'


class PropertyColumns:
    """Cuts the properties of a fixed list of names out of JSON objects."""

    def __init__(self, names: Sequence[str]) -> None:
        slots = {name: f"p{index}" for index, name in enumerate(names)}
        shape = msgspec.defstruct(
            "Properties",
            [
                (slot, msgspec.Raw, msgspec.field(name=_encodable(name), default=_NOTHING))
                for name, slot in slots.items()
            ],
            gc=False,
        )
        self._names = list(names)
        self._decode: Callable[[bytes], msgspec.Struct] = msgspec.json.Decoder(shape).decode
        if any(_encodable(name) is None for name in names):
            self._decode = _any_names(shape, slots)

    def read(self, texts: pa.StringArray) -> tuple[dict[str, pl.Series], dict[int, str]]:
        """The JSON texts of each property, and the cause for each text that is no object.

        A property that is missing is the empty text. The columns leave out the texts
        that are no object; their causes are by position.
        """
        parts: list[bytes] = []
        bad: dict[int, str] = {}
        start = 0
        for piece in pieces(texts):
            rows = self._parse(piece, start, bad)
            start += len(piece)
            if rows and self._names:
                parts.append(_END.join(chain.from_iterable(map(astuple, rows))))
        width = len(self._names)
        every = _cut(parts)
        return {name: every.gather_every(width, i) for i, name in enumerate(self._names)}, bad

    def _parse(self, texts: list[bytes], start: int, bad: dict[int, str]) -> list[msgspec.Struct]:
        rows: list[msgspec.Struct] = []
        before = len(bad)
        decoded = map(self._decode, texts)
        while True:
            try:
                # Goes on behind a text that could not be decoded.
                rows.extend(decoded)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                bad[start + len(rows) + len(bad) - before] = str(error)
            else:
                return rows


def _cut(parts: list[bytes]) -> pl.Series:
    """The texts that `_END` parts, as strings: joining avoids a Python string for each."""
    if not parts:
        return pl.Series(dtype=pl.String)
    joined = _END.join(parts)
    ends = pa.py_buffer(np.array([0, len(joined)], dtype=np.int64))
    line = pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(joined))
    return pl.Series(pl.from_arrow(line)).str.split(_END.decode()).explode()


def number_column(raw: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Numbers (or decimal strings) at 12 places; null where missing or invalid.

    Beside them the rows of those that lost digits.
    """
    bare = raw.str.strip_chars('"')
    plain = bare.str.contains(_PLAIN_NUMBER)
    result = pl.select(pl.when(plain).then(bare).cast(NUMBER, strict=False)).to_series()
    places = ((~plain) & (raw != "") & (raw != "null")).arg_true()
    if places.is_empty():
        return result, places
    read = [_read_number(text) for text in raw.gather(places).to_list()]
    rounded = pl.Series([lost for _, lost in read], dtype=pl.Boolean)
    values = pl.Series([number for number, _ in read], dtype=NUMBER)
    return result.scatter(places, values), places.filter(rounded)


def _read_number(raw: str) -> tuple[Decimal | None, bool]:
    """The number, and whether it lost digits; None where `raw` is no number."""
    try:
        number = parse_raw_number(raw, "value")
    except Rejected:
        return None, False
    return number, rounds(str(parse_json(raw)) if raw[:1] == '"' else raw)


def parse_raw_number(raw: str, name: str) -> Decimal:
    """The number that the JSON text `raw` writes. Raises `Rejected`."""
    if raw[:1] == '"':
        value = parse_json(raw)
        return parse_number(value if isinstance(value, str) else raw, name)
    if raw[:1] in "[{tf":
        raise Rejected("invalid_number", name, raw, "a number or a decimal string")
    return parse_number(raw, name)


def canonical_column(raw: pl.Series) -> pl.Series:
    """Canonical JSON scalars; null where missing or null, `NO_SCALAR` where composite."""
    if raw.is_empty():
        return raw
    simple = raw.str.contains(_CANONICAL)
    blank = (raw == "") | (raw == "null")
    rest = ~(simple | blank)
    result = pl.select(pl.when(~blank).then(raw)).to_series()
    if not rest.any():
        return result
    places = rest.arg_true()
    texts = raw.gather(places)
    distinct = texts.unique()
    replaced = [canonical_or_mark(text) for text in distinct.to_list()]
    return result.scatter(
        places, texts.replace_strict(distinct, pl.Series(replaced, dtype=pl.String))
    )


def canonical_or_mark(raw: str) -> str:
    """The canonical text of the JSON text `raw`, `NO_SCALAR` where it is no scalar."""
    try:
        value = parse_json(raw)
        if isinstance(value, dict | list):
            return NO_SCALAR
        text = canonical_scalar(value)  # type: ignore[arg-type]
        text.encode()
    except (ValueError, RecursionError):
        return NO_SCALAR
    return text


def hash_column(canonical: pl.Series) -> pl.Series:
    """Hashes of canonical scalars; null where there is none or it is no scalar."""
    distinct = canonical.unique().drop_nulls()
    distinct = distinct.filter(distinct != NO_SCALAR)
    hashes = pl.Series(hash128(distinct.cast(pl.Binary).to_list()), dtype=pl.Binary)
    return canonical.replace_strict(distinct, hashes, default=None, return_dtype=pl.Binary)


def _encodable(name: str) -> str | None:
    """The name as msgspec takes it for a field; None where it does not."""
    return name if name.isprintable() and not {'"', "\\"} & set(name) else None


def _any_names(
    shape: Callable[..., msgspec.Struct], fields: dict[str, str]
) -> Callable[[bytes], msgspec.Struct]:
    """A slower decoder of the same shape, for properties of any name."""
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def shaped(text: bytes) -> msgspec.Struct:
        found = decode(text)
        return shape(**{slot: found[name] for name, slot in fields.items() if name in found})

    return shaped
