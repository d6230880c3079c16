"""What a split hands to a shard: slim events, how far it is, and whether to flush."""

from __future__ import annotations

import msgspec

Packed = tuple[int, int, bytes]
"""Version of the catalog, rows, and the packed slim frame."""


class Delivery(msgspec.Struct, array_like=True, frozen=True):
    """One element of the keyed stage; times are microseconds, UTC.

    `sent` is when the split made it, `clock` the greatest record time that the split has
    seen, `watermark` a bound below which it expects no more events, or None where it
    cannot tell yet. `signature` names the catalogs that made the frames.
    """

    split: int
    splits: int
    sent: int
    clock: int
    watermark: int | None
    tick: bool
    drained: bool
    signature: str
    frames: list[Packed] = []

    @property
    def rows(self) -> int:
        """How many slim events it carries."""
        return sum(rows for _, rows, _ in self.frames)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Delivery)


def encode(delivery: Delivery) -> bytes:
    """As MessagePack."""
    return _ENCODER.encode(delivery)


def decode(encoded: bytes) -> Delivery:
    """The delivery."""
    return _DECODER.decode(encoded)
