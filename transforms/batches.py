"""Arrow tables as Beam elements: one batch an element, coded as Arrow IPC.

Elements of the pipelines are whole tables (or dataclasses of polars frames), never
single Python objects: coding, shuffling and combining cost a batch, not a row.
Buffers are compressed with LZ4, since shuffled columns repeat themselves a lot.
"""

from __future__ import annotations

import io

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.coders import Coder

from meters.measure import Cells

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


class TableCoder(Coder):  # type: ignore[misc]
    """Codes a `pyarrow.Table` as an Arrow IPC stream. Not deterministic: not for keys."""

    def encode(self, value: pa.Table) -> bytes:
        """The IPC stream of the table."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema, options=_OPTIONS) as writer:
            writer.write_table(value)
        return bytes(sink.getvalue().to_pybytes())

    def decode(self, encoded: bytes) -> pa.Table:
        """The table of an IPC stream."""
        return pa.ipc.open_stream(encoded).read_all()

    def is_deterministic(self) -> bool:
        """Equal tables may be chunked, and so coded, differently."""
        return False

    def to_type_hint(self) -> type:
        """The Python type of the elements."""
        return pa.Table  # type: ignore[no-any-return]


class FrameCoder(Coder):  # type: ignore[misc]
    """Codes a `polars.DataFrame` as an Arrow IPC stream."""

    def encode(self, value: pl.DataFrame) -> bytes:
        """The IPC stream of the frame."""
        sink = io.BytesIO()
        value.write_ipc_stream(sink, compression="lz4")
        return sink.getvalue()

    def decode(self, encoded: bytes) -> pl.DataFrame:
        """The frame of an IPC stream."""
        return pl.read_ipc_stream(io.BytesIO(encoded))

    def is_deterministic(self) -> bool:
        """Equal frames may be chunked, and so coded, differently."""
        return False

    def to_type_hint(self) -> type:
        """The Python type of the elements."""
        return pl.DataFrame


class CellsCoder(Coder):  # type: ignore[misc]
    """Codes `meters.measure.Cells`: the family and two frames, the second maybe absent."""

    _frames = FrameCoder()
    _parts = beam.coders.TupleCoder(
        [beam.coders.VarIntCoder(), beam.coders.BytesCoder(), beam.coders.BytesCoder()]
    )

    def encode(self, value: Cells) -> bytes:
        """The parts, length-prefixed."""
        values = b"" if value.values is None else self._frames.encode(value.values)
        parts = (value.family, self._frames.encode(value.rows), values)
        return bytes(self._parts.encode(parts))

    def decode(self, encoded: bytes) -> Cells:
        """The cells."""
        family, rows, values = self._parts.decode(encoded)
        return Cells(
            family, self._frames.decode(rows), self._frames.decode(values) if values else None
        )

    def is_deterministic(self) -> bool:
        """Equal frames may be chunked, and so coded, differently."""
        return False

    def to_type_hint(self) -> type:
        """The Python type of the elements."""
        return Cells


beam.coders.registry.register_coder(pa.Table, TableCoder)
beam.coders.registry.register_coder(pl.DataFrame, FrameCoder)
beam.coders.registry.register_coder(Cells, CellsCoder)
