"""What a split hands to a shard: slim events, how far it is, and whether to flush."""

from __future__ import annotations

import msgspec

from meters.zones import LEAST_US
from warehouse.tracing import Traced

Packed = tuple[int, int, bytes]
"""Version of the catalog, rows, and the packed slim frame."""


class Delivery(msgspec.Struct, array_like=True, frozen=True):
    """One element of the keyed stage; times are microseconds, UTC.

    `sent` is when the split made it, `clock` the greatest record time that the split has
    seen, `watermark` a bound below which it expects no more events, or None where it
    cannot tell yet. `signature` names the catalogs that made the frames, and `newest` is
    the greatest time of an event in them. `traced` are the spans that
    brought them. `behind` says that the split has much more to read.
    """

    split: int
    splits: int
    sent: int
    clock: int
    watermark: int | None
    tick: bool
    drained: bool
    signature: str
    newest: int = LEAST_US
    frames: list[Packed] = []
    traced: tuple[Traced, ...] = ()
    behind: bool = False

    @property
    def rows(self) -> int:
        """How many slim events it carries."""
        return sum(rows for _, rows, _ in self.frames)

    def without_frames(self) -> Delivery:
        """Without its events, which the shard has loaded from the raw events."""
        return msgspec.structs.replace(self, frames=[], newest=LEAST_US)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Delivery)


def encode(delivery: Delivery) -> bytes:
    """As MessagePack."""
    return _ENCODER.encode(delivery)


def decode(encoded: bytes) -> Delivery:
    """The delivery."""
    return _DECODER.decode(encoded)
