"""The state of a conversation with many people: the same numbers as all at once, at a cost that does not grow with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.model import stage_features
from ringfence.model.stage_features import PROJECTION_DIMENSION, STAGE_COUNT, StageState, raw_rows

# Few values, so that authors often come close to each other, tie, and pass one another.
LEVELS = st.sampled_from((0.0, 0.1, 0.10004, 0.5, 1.0))
MESSAGES = st.lists(
    st.tuples(st.integers(0, 9), st.tuples(LEVELS, LEVELS, LEVELS)), min_size=1, max_size=40
).map(
    lambda items: [(f"author-{author}", np.array([*levels, 0, 0, 0, 0, 0, 0.0])) for author, levels in items]
)
NOTHING = np.zeros(PROJECTION_DIMENSION)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(messages=MESSAGES)
def test_after_every_message_the_state_says_what_all_at_once_says(messages) -> None:
    stages = np.array([levels for _, levels in messages])
    expected = raw_rows(
        [author for author, _ in messages],
        stages,
        np.zeros((len(messages), PROJECTION_DIMENSION)),
        range(1, len(messages) + 1),
    )
    state = StageState()
    for (author, levels), row in zip(messages, expected, strict=True):
        state.add(author, levels, NOTHING)
        np.testing.assert_allclose(state.raw_features(), row, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        StageState.from_bytes(state.to_bytes()).raw_features(), expected[-1], rtol=0, atol=1e-6
    )


def test_a_message_among_a_thousand_people_compares_no_more_than_three_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, rng = StageState(), np.random.default_rng(0)
    for author in range(1000):
        state.add(f"author-{author}", rng.random(STAGE_COUNT), NOTHING)
    compared: list[int] = []

    def watched(sums, maxima, *rest):
        compared.append(len(sums))
        return ordinary(sums, maxima, *rest)

    for name in ("_assemble", "_ascending"):
        ordinary = getattr(stage_features, name)
        monkeypatch.setattr(stage_features, name, watched)
        state.add("author-7", rng.random(STAGE_COUNT), NOTHING)
        state.add("somebody new", rng.random(STAGE_COUNT), NOTHING)
        state.raw_features()
        monkeypatch.undo()
    assert compared
    assert max(compared) <= 3
