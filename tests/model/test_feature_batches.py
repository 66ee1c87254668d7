"""How conversations are batched, and who speaks first, does not decide what they score."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.model.conversation import Conversation, Message
from ringfence.model.feature_set import load_feature_set
from ringfence.model.stage_features import STAGE_COUNT, raw_rows

# Two authors say the same words, so that only rounding could tell them apart.
TWINS = (
    "gg",
    "how old are you",
    "keep it between us",
    "ok",
    "gg",
    "how old are you",
    "keep it between us",
    "lol",
)


def conversation(name: str, *, authors: str = "ababbaab") -> Conversation:
    return Conversation(
        id=name,
        messages=tuple(Message(author=who, text=text) for who, text in zip(authors, TWINS, strict=True)),
    )


def test_a_conversation_has_the_same_row_alone_and_among_others() -> None:
    features = load_feature_set()
    many = [
        conversation(str(number), authors=authors)
        for number, authors in enumerate(["ababbaab", "babaabba", "aabbaabb", "abcabcab"] * 50)
    ]
    together = features.rows_of(many)[:, 0]
    alone = np.concatenate([features.rows(item) for item in many])
    assert np.abs(together - alone).max() < 1e-4


@pytest.mark.parametrize("seed", range(20))
def test_equal_authors_are_ordered_by_their_own_numbers_and_not_by_who_spoke_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 4, (3, STAGE_COUNT)) / 4
    # The other author has the same totals, stage by stage in another order.
    other = one[:, rng.permutation(STAGE_COUNT)]
    stages = np.concatenate([one, other])
    nothing = np.zeros((6, 64))
    first = raw_rows(["a"] * 3 + ["b"] * 3, stages, nothing, [6])
    swapped = raw_rows(["b"] * 3 + ["a"] * 3, np.concatenate([other, one]), nothing, [6])
    assert (first == swapped).all()
