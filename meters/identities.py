"""What a stream remembers of the events that it has seen: compact, exact, bounded.

    (key, content, slice)  --add-->  found before? with which content?

An open-addressing hash table in plain columns: 26 bytes a slot, at most seven tenths
full, so 37 to 74 bytes an identity. A whole batch is looked up and added at once, with
a few vector operations and no Python object for an identity.

`slice` numbers the stretch of record time in which an identity was first seen; whole
slices are forgotten together, by `forget`. A table that grows, or forgets, is moved to
another one bit by bit, with each batch that is added: no batch waits for all the others.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

SLOT_BYTES = 26

_SMALLEST = 1 << 10
_FULLEST = 0.7
_STEP = 4
_LEAST_STEP = 1 << 16
_LARGE = 1 << 22
_SLOT = np.dtype("V24")
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
        self._table = _Table(_SMALLEST)
        self._old: _Table | None = None
        self._moved = 0
        self._gone: list[int] = []
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(self._counts.values())

    @property
    def bytes(self) -> int:
        """Memory of the table, with the one that is moved from."""
        old = 0 if self._old is None else self._old.capacity
        return (self._table.capacity + old) * SLOT_BYTES

    def add(self, keys: Keys, slice_number: int | npt.NDArray[np.int64]) -> tuple[Bools, Uint64s]:
        """Remember the keys that are new, in one slice or each in its own.

        Returns which were known before, and the content that they were known with
        (undefined for new ones). No key may occur twice in `keys`.
        """
        self._move(_STEP * len(keys))
        while len(self) + len(keys) > _FULLEST * self._table.capacity:
            self._replace(2 * self._table.capacity, [])
        numbers = np.broadcast_to(np.asarray(slice_number % NUMBERS, dtype=np.int16), len(keys))
        known, content = self._find_old(keys)
        if known.any():
            new = ~known
            known[new], content[new] = self._table.add(keys[new], numbers[new])
        else:
            known, content = self._table.add(keys, numbers)
        for number, count in zip(*np.unique(numbers[~known], return_counts=True), strict=True):
            self._counts[int(number)] = self._counts.get(int(number), 0) + int(count)
        return known, content

    def find(self, keys: Keys) -> tuple[Bools, Uint64s]:
        """Which keys are known, and the content that they are known with; adds none."""
        slots = self._table.find(keys)
        known, content = self._find_old(keys)
        here = slots >= 0
        content[here] = self._table.content(slots[here])
        return known | here, content

    def forget(self, slices: set[int]) -> int:
        """Forget all identities of these slices; returns how many."""
        gone = [number % NUMBERS for number in slices]
        count = sum(self._counts.pop(number, 0) for number in gone)
        if count:
            self._replace(_capacity(len(self)), gone)
        return count

    def counts(self) -> dict[int, int]:
        """How many identities each slice holds, by its number modulo 32767."""
        return dict(self._counts)

    def segments(self) -> Iterator[tuple[int, Keys]]:
        """All identities, by their slice modulo 32767."""
        self._move_all()
        for number in self._counts:
            here = np.flatnonzero(self._table.marks == number + 1)
            for rows in _chunks(here):
                yield number, self._table.keys(rows)

    def _find_old(self, keys: Keys) -> tuple[Bools, Uint64s]:
        """Those that are still in the table that is moved from."""
        old = self._old
        if old is None:
            return np.zeros(len(keys), dtype=np.bool_), np.zeros(len(keys), dtype=np.uint64)
        slots = old.find(keys, self._moved)
        known = slots >= 0
        if self._gone:
            known &= ~np.isin(old.marks[slots] - 1, self._gone)
        return known, old.content(slots)

    def _replace(self, capacity: int, gone: list[int]) -> None:
        """Begin to move to another table, without these slices."""
        self._move_all()
        self._old, self._table = self._table, _Table(capacity)
        self._moved, self._gone = 0, gone
        self._move(0)

    def _move_all(self) -> None:
        while self._old is not None:
            self._move(_CHUNK)

    def _move(self, most: int) -> None:
        """Move what is in the next slots of the old table, if there is one."""
        old = self._old
        if old is None:
            return
        until = self._moved + max(most, _LEAST_STEP)
        marks = old.marks[self._moved : until]
        here = marks != 0
        if self._gone:
            here &= ~np.isin(marks - 1, self._gone)
        rows = self._moved + np.flatnonzero(here)
        self._table.add(old.keys(rows), old.marks[rows] - 1)
        old.release(self._moved, until)
        self._moved = until
        if until >= old.capacity:
            self._old, self._gone = None, []


class _Table:
    """Keys by slot. `marks` has the slice of a used slot plus one, so fresh memory is empty.

    The three words of a slot stand together: a lookup costs one miss of the cache, not three.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._memory, words = _fresh(3 * capacity, np.dtype(np.uint64))
        self._words: npt.NDArray[np.uint64] = words.reshape(capacity, 3)
        self._slots = words.view(_SLOT)
        self.marks: npt.NDArray[np.int16] = _fresh(capacity, np.dtype(np.int16))[1]

    def keys(self, rows: Places) -> Keys:
        """The keys in these slots."""
        words = self._words.take(rows, axis=0)
        return Keys(words[:, 0], words[:, 1], words[:, 2])

    def content(self, rows: Places) -> Uint64s:
        """The contents in these slots."""
        found: Uint64s = self._words[rows, 2]
        return found

    def release(self, first: int, until: int) -> None:
        """Give back the memory of slots that are not needed any more; their marks stay.

        All at once would be as slow as it was to take it.
        """
        if self._memory is not None:
            page = mmap.PAGESIZE
            start = -(-first * _SLOT.itemsize // page) * page
            size = min(until, self.capacity) * _SLOT.itemsize // page * page - start
            if size > 0:
                self._memory.madvise(mmap.MADV_DONTNEED, start, size)

    def find(self, keys: Keys, first: int = 0) -> Places:
        """The slot of each key from the slot `first` on, -1 where it is not there."""
        mask = np.uint64(self.capacity - 1)
        found = np.full(len(keys), -1, dtype=np.int64)
        left = np.arange(len(keys))
        slots = keys.high & mask
        while len(left):
            used, same = self._compare(keys, left, slots)
            same &= slots >= first
            found[left[same]] = slots[same]
            on = used & ~same
            left, slots = left[on], (slots[on] + np.uint64(1)) & mask
        return found

    def add(self, keys: Keys, numbers: npt.NDArray[np.int16]) -> tuple[Bools, Uint64s]:
        """Add the keys that are not there, each in its slice; the others, and their content."""
        mask = np.uint64(self.capacity - 1)
        known = np.zeros(len(keys), dtype=np.bool_)
        content = np.zeros(len(keys), dtype=np.uint64)
        rows = np.column_stack([keys.high, keys.low, keys.content])
        whole = rows.view(_SLOT).reshape(-1)
        left = np.arange(len(keys))
        slots = keys.high & mask
        while len(left):
            used, same = self._compare(keys, left, slots)
            known[left[same]] = True
            content[left[same]] = self._words[slots[same], 2]
            # Of several new keys that want one slot the last one written has it.
            wanting, wanted = left[~used], slots[~used]
            self._slots[wanted] = whole[wanting]
            holding = self._words.take(wanted, axis=0)
            placed = holding[:, 0] == keys.high[wanting]
            placed &= holding[:, 1] == keys.low[wanting]
            self.marks[wanted[placed]] = numbers[wanting[placed]] + 1
            done = same
            done[~used] = placed
            left = left[~done]
            slots = (slots[~done] + np.uint64(1)) & mask
        return known, content

    def _compare(self, keys: Keys, left: Places, slots: Uint64s) -> tuple[Bools, Bools]:
        """Which of the slots are used, and which hold the key that looks there."""
        used = self.marks[slots] != 0
        here = np.flatnonzero(used)
        words, looking = self._words.take(slots[here], axis=0), left[here]
        same = np.zeros(len(left), dtype=np.bool_)
        same[here] = (words[:, 0] == keys.high[looking]) & (words[:, 1] == keys.low[looking])
        return used, same


def _fresh(size: int, kind: np.dtype[Any]) -> tuple[mmap.mmap | None, npt.NDArray[Any]]:
    """Zeros that cost time when they are used, and not before.

    NumPy asks for huge pages, so that the first batch in a large table would wait until
    nearly all of it was cleared: seconds, for 50 million identities.
    """
    count = size * kind.itemsize
    if count < _LARGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return None, np.zeros(size, dtype=kind)
    memory = mmap.mmap(-1, count)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory, np.frombuffer(memory, dtype=kind)


def _capacity(size: int) -> int:
    capacity = _SMALLEST
    while size > _FULLEST * capacity:
        capacity *= 2
    return capacity


def _chunks(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
