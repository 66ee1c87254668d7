"""From tagged messages to the 108 numbers of a conversation, message by message or all at once.

The state of a conversation is small: what each author did over the nine stages, a sum of projections and a count. It does
not depend on who is named how, or on who spoke first.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import DataError
from ringfence.model.phrases import STAGES

STAGE_COUNT = len(STAGES)
PROJECTION_DIMENSION = 64
DIMENSION = 4 * STAGE_COUNT + 6 + 1 + 1 + PROJECTION_DIMENSION
FEATURE_VERSION = 4
"""Raised whenever the arithmetic of this module, of `readable_text`, of `stretches` or of the row bound changes, because the same files then mean other features."""

Floats = npt.NDArray[np.float32]


_COMPARED_DECIMALS = 4
_MAGIC = b"RFS"
_HEAD = struct.Struct("<3sBIH")
_NAME_LENGTH = struct.Struct("<H")


class StageState:
    """What has been said so far: O(1) to extend and to ask, however many authors; 800 bytes of numbers for two, half of that kept.

    Attributes:
        count: messages taken in.
    """

    __slots__ = ("_by_author", "_leading", "_places", "_projection_sum", "count")

    def __init__(self) -> None:
        self._by_author: list[npt.NDArray[np.float64]] = []
        self._places: dict[str, int] = {}
        self._leading: list[int] = []
        self._projection_sum = np.zeros(PROJECTION_DIMENSION)
        self.count = 0

    def add(
        self, author: str, stages: npt.NDArray[np.floating], projection: npt.NDArray[np.floating]
    ) -> None:
        """Take in one message.

        Args:
            author: who wrote it.
            stages: (9,), probability of each stage, in [0, 1].
            projection: (64,), its principal components.
        """
        place = self._places.setdefault(author, len(self._by_author))
        if place == len(self._by_author):
            self._by_author.append(np.zeros((2, STAGE_COUNT)))
        held = self._by_author[place]
        held[0] += stages
        np.maximum(held[1], stages, out=held[1])
        self._projection_sum += projection
        self.count += 1
        self._let_lead(place)

    def to_bytes(self) -> bytes:
        """Return the state in float32: 265 bytes, and 74 and a name for each author."""
        parts = [_HEAD.pack(_MAGIC, FEATURE_VERSION, self.count, len(self._by_author))]
        parts.append(self._projection_sum.astype("<f4").tobytes())
        for author, held in zip(self._places, self._by_author, strict=True):
            # Half of a surrogate pair has no UTF-8 form of its own; it is kept all the same.
            name = author.encode("utf-8", "surrogatepass")
            parts += [_NAME_LENGTH.pack(len(name)), name, held.astype("<f4").tobytes()]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, saved: bytes) -> StageState:
        """Return the state that `to_bytes` gave, to float32.

        Raises:
            DataError: the bytes are no state of this version, or are damaged. Whoever kept them.
        """
        state = cls()
        try:
            magic, version, state.count, authors = _HEAD.unpack_from(saved)
            if magic != _MAGIC or version != FEATURE_VERSION:
                raise ValueError("another kind or version")
            place = _HEAD.size
            state._projection_sum[:] = np.frombuffer(saved, "<f4", PROJECTION_DIMENSION, place)
            place += 4 * PROJECTION_DIMENSION
            for _ in range(authors):
                (length,) = _NAME_LENGTH.unpack_from(saved, place)
                place += _NAME_LENGTH.size
                name = saved[place : place + length].decode("utf-8", "surrogatepass")
                place += length
                held = np.frombuffer(saved, "<f4", 2 * STAGE_COUNT, place)
                state._places[name] = len(state._by_author)
                state._by_author.append(held.reshape(2, STAGE_COUNT).astype(np.float64))
                place += 4 * 2 * STAGE_COUNT
            numbers = [state._projection_sum, *state._by_author]
            if place != len(saved) or not all(np.isfinite(value).all() for value in numbers):
                raise ValueError("bytes are missing or left over")
            if (state.count > 0) != (len(state._by_author) > 0) or len(state._places) != authors:
                raise ValueError("messages and authors do not agree")
            for author in range(authors):
                state._let_lead(author)
        except (struct.error, ValueError) as error:
            raise DataError(
                "These bytes are not the state of a conversation of this version.",
                hint="Begin the conversation's state anew from its messages.",
            ) from error
        return state

    def raw_features(self) -> npt.NDArray[np.float64]:
        """Return the features before standardisation, (108,) float64; zeros for an empty conversation."""
        if self.count == 0:
            return np.zeros(DIMENSION)
        held = np.array([self._by_author[place] for place in self._leading])
        return _assemble(held[:, 0], held[:, 1], self._projection_sum / self.count)

    def _let_lead(self, place: int) -> None:
        """Keep the two authors whose numbers are the features, in the order in which they first spoke.

        What an author did only grows, so whoever has just spoken is the only one who can have passed either of them.
        """
        if place in self._leading:
            return
        self._leading = sorted([*self._leading, place])
        if len(self._leading) > 2:
            held = np.array([self._by_author[leading] for leading in self._leading])
            del self._leading[_ascending(held[:, 0], held[:, 1])[0]]


def raw_rows(
    authors: Sequence[str],
    stages: npt.NDArray[np.floating],
    projections: npt.NDArray[np.floating],
    cuts: Sequence[int],
) -> npt.NDArray[np.float64]:
    """Return the features of several beginnings of one conversation, before standardisation.

    Args:
        authors: of the n messages.
        stages: (n, 9), probability of each stage.
        projections: (n, 64), principal components.
        cuts: how many messages each beginning holds, each in [0, n].

    Returns:
        (len(cuts), 108) float64; the same as `StageState` message by message.
    """
    names = {name: index for index, name in enumerate(dict.fromkeys(authors))}
    who = np.fromiter((names[author] for author in authors), np.int64, len(authors))
    # Authors are numbered as they first speak; whoever has not spoken yet is not there.
    spoken = np.maximum.accumulate(who) + 1
    sums = np.zeros((len(names), STAGE_COUNT))
    maxima = np.zeros((len(names), STAGE_COUNT))
    projection_sum = np.zeros(PROJECTION_DIMENSION)
    result = np.zeros((len(cuts), DIMENSION))
    done = 0
    for row in np.argsort(cuts, kind="stable"):
        cut = cuts[row]
        if cut > done:
            np.add.at(sums, who[done:cut], stages[done:cut])
            np.maximum.at(maxima, who[done:cut], stages[done:cut])
            projection_sum += projections[done:cut].sum(axis=0, dtype=np.float64)
            done = cut
        if cut > 0:
            present = spoken[cut - 1]
            result[row] = _assemble(sums[:present], maxima[:present], projection_sum / cut)
    return result


def raw_rows_without_each(
    authors: Sequence[str], stages: npt.NDArray[np.floating], projections: npt.NDArray[np.floating]
) -> npt.NDArray[np.float64]:
    """Return the features of a conversation without its i-th message, for each i, before standardisation.

    Args:
        authors: of the n messages.
        stages: (n, 9), probability of each stage.
        projections: (n, 64), principal components.

    Returns:
        (n, 108) float64; the same as `raw_rows` on the other messages, in O(n) instead of O(n^2).
    """
    count = len(authors)
    result = np.zeros((count, DIMENSION))
    projection_sum = projections.sum(axis=0, dtype=np.float64)
    names = {name: index for index, name in enumerate(dict.fromkeys(authors))}
    who = np.fromiter((names[author] for author in authors), np.int64, count)
    own = [stages[who == person].astype(np.float64) for person in range(len(names))]
    sums = np.array([mine.sum(axis=0) for mine in own]).reshape(len(names), STAGE_COUNT)
    # The two largest of each author: without the largest, the second takes its place.
    largest = np.array([np.sort(mine, axis=0)[-1] for mine in own]).reshape(len(names), STAGE_COUNT)
    second = np.array(
        [np.sort(mine, axis=0)[-2] if len(mine) > 1 else np.zeros(STAGE_COUNT) for mine in own]
    ).reshape(len(names), STAGE_COUNT)
    for index in range(count if count > 1 else 0):
        person = who[index]
        kept_sums, kept_maxima = sums.copy(), largest.copy()
        kept_sums[person] -= stages[index]
        kept_maxima[person] = np.where(stages[index] >= largest[person], second[person], largest[person])
        if len(own[person]) == 1:
            kept_sums = np.delete(kept_sums, person, axis=0)
            kept_maxima = np.delete(kept_maxima, person, axis=0)
        result[index] = _assemble(kept_sums, kept_maxima, (projection_sum - projections[index]) / (count - 1))
    return result


def _assemble(
    sums: npt.NDArray[np.float64], maxima: npt.NDArray[np.float64], mean_projection: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    top, *others = reversed(_ascending(sums, maxima))
    nothing = np.zeros(STAGE_COUNT)
    widest = maxima[top]
    return np.concatenate(
        [
            np.log1p(2.0 * sums[top]),
            widest,
            np.log1p(2.0 * sums[others[0]]) if others else nothing,
            maxima[others[0]] if others else nothing,
            np.sort(widest)[::-1][:6],
            np.array([np.add.reduce(widest), np.count_nonzero(widest > 0.5)]),
            2.0 * mean_projection,
        ]
    )


def _ascending(sums: npt.NDArray[np.float64], maxima: npt.NDArray[np.float64]) -> list[int]:
    """Return the places of authors, the leading one last."""
    # The author with the widest range of stages leads: range, not volume, is the pattern.
    # How messages are batched moves a number in its last bits, so authors are compared rounded. Between equals their own
    # numbers decide, stage by stage, never who spoke first.
    ranges = np.rint(np.add.reduce(maxima, axis=1) * 10.0**_COMPARED_DECIMALS).tolist()
    if len(set(ranges)) == len(ranges):
        return sorted(range(len(ranges)), key=ranges.__getitem__)
    totals = [sums.sum(axis=1, keepdims=True), maxima.sum(axis=1, keepdims=True)]
    keys = np.concatenate([maxima, sums, *totals], axis=1)
    order: list[int] = np.lexsort(keys.round(_COMPARED_DECIMALS).T).tolist()
    return order
