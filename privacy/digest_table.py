"""Digests of one width and their numbers: what tells people apart in a few bytes each, where strings and sets take hundreds.

Digests are compared whole, so that two numbers are equal exactly if their digests are.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

_FIRST_SLOTS = 1 << 10
_WORD = 8
_BLOCK = 1 << 16


class DigestTable:
    """Gives each digest a number, 0 for the first that is met, 1 for the next: some 10 bytes for each beside the digest.

    Args:
        width: bytes of each digest, at least 8; all as good as random.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._digests = bytearray()
        # Open addressing; a slot holds a number and 1, or 0 where it is free.
        self._slots = array("i", bytes(4 * _FIRST_SLOTS))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def number(self, digest: bytes) -> int:
        """Return the number of a digest, the next one if it was never met."""
        slots, digests, width = self._slots, self._digests, self._width
        mask = len(slots) - 1
        slot = int.from_bytes(digest[:_WORD], "big") & mask
        while found := slots[slot]:
            if digests[(found - 1) * width : found * width] == digest:
                return found - 1
            slot = slot + 1 & mask
        digests += digest
        self._count += 1
        slots[slot] = self._count
        if 3 * self._count > 2 * len(slots):
            self._grow()
        return self._count - 1

    def digests(self) -> npt.NDArray[np.uint8]:
        """Return the digests in the order of their numbers, ``(count, width)`` uint8. No other may be added afterwards."""
        return np.frombuffer(self._digests, dtype=np.uint8).reshape(-1, self._width)

    def _grow(self) -> None:
        slots = array("i", bytes(4 * 2 * len(self._slots)))
        mask = len(slots) - 1
        for start in range(0, self._count, _BLOCK):
            # A copy of a block: the bytes must not stay borrowed, or they could not grow.
            block = np.frombuffer(
                bytes(self._digests[start * self._width : (start + _BLOCK) * self._width]), dtype=np.uint8
            )
            wanted = _word(block.reshape(-1, self._width), 0) & np.uint64(mask)
            for number, slot in enumerate(wanted.tolist(), start=start + 1):
                while slots[slot]:
                    slot = slot + 1 & mask
                slots[slot] = number
        self._slots = slots


def sorted_order(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the positions of digests in ascending order, equal ones in the order given.

    Args:
        digests: ``(count, width)`` uint8; the width is a multiple of 8.
    """
    order = np.argsort(_word(digests, 0), kind="stable")
    first = _word(digests, 0)[order]
    if (first[1:] == first[:-1]).any():
        # Digests that are equal, or differ later: all their words decide.
        order = np.lexsort([_word(digests, at) for at in reversed(range(digests.shape[1] // _WORD))])
    return order


def ranks(digests: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return for each digest how many different ones are smaller: equal numbers for equal digests, and only for those.

    Args:
        digests: ``(count, width)`` uint8; the width is a multiple of 8.
    """
    order = sorted_order(digests)
    differs = np.zeros(len(order), dtype=np.bool_)
    for at in range(digests.shape[1] // _WORD):
        word = _word(digests, at)[order]
        differs[1:] |= word[1:] != word[:-1]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.cumsum(differs)
    return found


def _word(digests: npt.NDArray[np.uint8], at: int) -> npt.NDArray[np.uint64]:
    """Return eight bytes of each digest as a number of which larger ones come later."""
    bytes_ = np.ascontiguousarray(digests[:, at * _WORD : (at + 1) * _WORD])
    return bytes_.view(">u8")[:, 0].astype(np.uint64)
