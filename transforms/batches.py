"""Batches as Beam elements, coded as Arrow IPC.

Elements of the pipelines are whole frames, never single Python objects: coding,
shuffling and combining cost a batch, not a row. Slim columns of a stream travel packed,
as bytes, because packing is work for the threads that prepare them and not for Beam's own.
"""

from __future__ import annotations

import apache_beam as beam
import polars as pl
import pyarrow as pa
from apache_beam.coders import Coder

from meters.measure import Cells

_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("lz4"), use_threads=False)
"""What is shuffled is read once: ZSTD would save a third of its size, but cost twice the time."""


def pack(frame: pl.DataFrame) -> bytes:
    """A frame as a compressed Arrow IPC stream."""
    return pack_table(frame.to_arrow())


def pack_table(table: pa.Table) -> bytes:
    """A table as a compressed Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def unpack(packed: bytes) -> pl.DataFrame:
    """The frame of an Arrow IPC stream."""
    return pl.DataFrame(pl.from_arrow(unpack_table(packed)))


def unpack_table(packed: bytes) -> pa.Table:
    """The table of an Arrow IPC stream."""
    return pa.ipc.open_stream(packed).read_all()


class CellsCoder(Coder):  # type: ignore[misc]
    """Codes `meters.measure.Cells`: the family and two frames, the second maybe absent."""

    _parts = beam.coders.TupleCoder(
        [beam.coders.VarIntCoder(), beam.coders.BytesCoder(), beam.coders.BytesCoder()]
    )

    def encode(self, value: Cells) -> bytes:
        """The parts, length-prefixed."""
        values = b"" if value.values is None else pack(value.values)
        parts = (value.family, pack(value.rows), values)
        return bytes(self._parts.encode(parts))

    def decode(self, encoded: bytes) -> Cells:
        """The cells."""
        family, rows, values = self._parts.decode(encoded)
        return Cells(family, unpack(rows), unpack(values) if values else None)

    def estimate_size(self, value: Cells) -> int:
        """The bytes in memory; Beam's own estimate would code the cells once more."""
        values = 0 if value.values is None else value.values.estimated_size()
        return int(value.rows.estimated_size() + values)

    def is_deterministic(self) -> bool:
        """Equal frames may be chunked, and so coded, differently."""
        return False

    def to_type_hint(self) -> type:
        """The Python type of the elements."""
        return Cells


beam.coders.registry.register_coder(Cells, CellsCoder)
