"""Conversations as the words that occur in them, whoever said them: what a detector has to beat to have seen a pattern."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import ROW_BOUND

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class BagOfWords:
    """Hashed words, and pairs of neighbouring words, that occur in a conversation; each row has the row bound as its norm.

    Args:
        buckets: how many numbers a row has.
        pairs: whether pairs of words count as well as words.
    """

    def __init__(self, buckets: int, *, pairs: bool) -> None:
        self.buckets = buckets
        self._pairs = pairs

    def rows(self, conversations: Sequence[Conversation]) -> csr_matrix:
        """Return one row a conversation, (n, buckets) float64, sparse."""
        held = [sorted(set().union(*map(self._places, _texts(item)))) for item in conversations]
        values = [np.full(len(places), ROW_BOUND / np.sqrt(max(1, len(places)))) for places in held]
        bounds = np.cumsum([0, *map(len, held)])
        return csr_matrix(
            (np.concatenate(values), np.concatenate([np.array(places, np.int64) for places in held]), bounds),
            shape=(len(held), self.buckets),
        )

    def running_scores(
        self, model: npt.NDArray[np.float64], conversation: Conversation
    ) -> npt.NDArray[np.float64]:
        """Return the score by a linear head after each message, (messages,) float64; one score if there is no message."""
        seen: set[int] = set()
        total, scores = 0.0, []
        for text in _texts(conversation):
            new = self._places(text) - seen
            total += float(model[list(new)].sum())
            seen |= new
            scores.append(ROW_BOUND * total / np.sqrt(max(1, len(seen))) + model[-1])
        return np.array(scores or [model[-1]])

    def _places(self, text: str) -> set[int]:
        words = _WORD.findall(text.lower())
        pairs = (" ".join(pair) for pair in itertools.pairwise(words)) if self._pairs else ()
        return {zlib.crc32(term.encode("utf-8", "replace")) % self.buckets for term in (*words, *pairs)}


def _texts(conversation: Conversation) -> list[str]:
    return [message.text for message in conversation.messages]
