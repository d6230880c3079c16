"""What a stream remembers of the events that it has seen: compact, exact, bounded.

    (key, content, slice)  --add-->  found before? with which content?

An open-addressing hash table in plain columns: 26 bytes a slot, at most seven tenths
full, so 37 to 74 bytes an identity. A whole batch is looked up and added at once, with
a few vector operations and no Python object for an identity.

`slice` numbers the stretch of record time in which an identity was first seen; whole
slices are forgotten together, by `forget`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

SLOT_BYTES = 26

_SMALLEST = 1 << 10
_FULLEST = 0.7
_EMPTY = np.int16(-1)
_CHUNK = 1 << 20
NUMBERS = 32_767
"""A multiple of the slices that are remembered, so that both agree on a place in a ring."""


@dataclass(frozen=True)
class Keys:
    """Identities of one batch, each once: two words of the key and one of the content."""

    high: Uint64s
    low: Uint64s
    content: Uint64s

    def __len__(self) -> int:
        return len(self.high)

    def __getitem__(self, chosen: Bools | slice) -> Keys:
        return Keys(self.high[chosen], self.low[chosen], self.content[chosen])


class Identities:
    """A set of 128-bit keys, each with the content that was seen first and its slice."""

    def __init__(self) -> None:
        self._size = 0
        self._allocate(_SMALLEST)

    def __len__(self) -> int:
        return self._size

    @property
    def bytes(self) -> int:
        """Memory of the table."""
        return len(self._slices) * SLOT_BYTES

    def add(self, keys: Keys, slice_number: int | npt.NDArray[np.int64]) -> tuple[Bools, Uint64s]:
        """Remember the keys that are new, in one slice or each in its own.

        Returns which were known before, and the content that they were known with
        (undefined for new ones). No key may occur twice in `keys`.
        """
        while self._size + len(keys) > _FULLEST * len(self._slices):
            self._rebuild(2 * len(self._slices), np.ones(len(self._slices), dtype=np.bool_))
        return self._add(keys, np.asarray(slice_number % NUMBERS, dtype=np.int16))

    def find(self, keys: Keys) -> tuple[Bools, Uint64s]:
        """Which keys are known, and the content that they are known with; adds none."""
        mask = np.uint64(len(self._slices) - 1)
        known = np.zeros(len(keys), dtype=np.bool_)
        content = np.zeros(len(keys), dtype=np.uint64)
        left = np.arange(len(keys))
        slots = keys.high & mask
        while len(left):
            used, same = self._compare(keys, left, slots)
            known[left[same]] = True
            content[left[same]] = self._content[slots[same]]
            on = used & ~same
            left, slots = left[on], (slots[on] + np.uint64(1)) & mask
        return known, content

    def forget(self, slices: set[int]) -> int:
        """Forget all identities of these slices; returns how many."""
        gone = np.isin(self._slices, [number % NUMBERS for number in slices])
        count = int(gone.sum())
        if count:
            self._rebuild(_capacity(self._size - count), ~gone)
        return count

    def counts(self) -> dict[int, int]:
        """How many identities each slice holds, by its number modulo 32767."""
        numbers, counts = np.unique(self._slices[self._slices != _EMPTY], return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))

    def segments(self) -> Iterator[tuple[int, Keys]]:
        """All identities, by their slice modulo 32767."""
        for number in self.counts():
            here = np.flatnonzero(self._slices == number)
            for rows in _chunks(here):
                yield number, Keys(self._high[rows], self._low[rows], self._content[rows])

    def _allocate(self, capacity: int) -> None:
        self._high = np.zeros(capacity, dtype=np.uint64)
        self._low = np.zeros(capacity, dtype=np.uint64)
        self._content = np.zeros(capacity, dtype=np.uint64)
        self._slices = np.full(capacity, _EMPTY, dtype=np.int16)

    def _add(self, keys: Keys, numbers: npt.NDArray[np.int16]) -> tuple[Bools, Uint64s]:
        mask = np.uint64(len(self._slices) - 1)
        numbers = np.broadcast_to(numbers, len(keys))
        known = np.zeros(len(keys), dtype=np.bool_)
        content = np.zeros(len(keys), dtype=np.uint64)
        left = np.arange(len(keys))
        slots = keys.high & mask
        while len(left):
            used, same = self._compare(keys, left, slots)
            known[left[same]] = True
            content[left[same]] = self._content[slots[same]]
            # Of several new keys that want one slot the last one written has it.
            wanting, wanted = left[~used], slots[~used]
            self._high[wanted] = keys.high[wanting]
            self._low[wanted] = keys.low[wanting]
            placed = self._high[wanted] == keys.high[wanting]
            placed &= self._low[wanted] == keys.low[wanting]
            self._content[wanted[placed]] = keys.content[wanting[placed]]
            self._slices[wanted[placed]] = numbers[wanting[placed]]
            self._size += int(placed.sum())
            done = same
            done[~used] = placed
            left = left[~done]
            slots = (slots[~done] + np.uint64(1)) & mask
        return known, content

    def _compare(self, keys: Keys, left: Places, slots: Uint64s) -> tuple[Bools, Bools]:
        """Which of the slots are used, and which hold the key that looks there."""
        used = self._slices[slots] != _EMPTY
        same = used & (self._high[slots] == keys.high[left])
        same &= self._low[slots] == keys.low[left]
        return used, same

    def _rebuild(self, capacity: int, keep: Bools) -> None:
        old = self._high, self._low, self._content, self._slices
        kept = np.flatnonzero(keep & (self._slices != _EMPTY))
        self._size = 0
        self._allocate(capacity)
        for rows in _chunks(kept):
            self._add(Keys(*(column[rows] for column in old[:3])), old[3][rows])


def _capacity(size: int) -> int:
    capacity = _SMALLEST
    while size > _FULLEST * capacity:
        capacity *= 2
    return capacity


def _chunks(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
