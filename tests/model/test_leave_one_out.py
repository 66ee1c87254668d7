"""The features of a conversation without each of its messages: the fast way agrees with leaving each out in turn."""

import numpy as np
import pytest

from ringfence.model.stage_features import raw_rows, raw_rows_without_each


@pytest.mark.parametrize(("messages", "people"), [(0, 1), (1, 1), (2, 1), (2, 2), (7, 3), (40, 5), (60, 60)])
def test_leaving_each_message_out_at_once_agrees_with_leaving_it_out_in_turn(
    messages: int, people: int
) -> None:
    rng = np.random.default_rng(11)
    for _ in range(5):
        authors = [f"p{number}" for number in rng.integers(0, people, messages)]
        # Rounded, so that the largest values tie.
        stages = rng.random((messages, 9)).round(1)
        projections = rng.normal(size=(messages, 64))
        found = raw_rows_without_each(authors, stages, projections)
        assert found.shape == (messages, 108)
        for index in range(messages):
            others = np.arange(messages) != index
            rest = [author for author, stays in zip(authors, others, strict=True) if stays]
            expected = raw_rows(rest, stages[others], projections[others], [messages - 1])[0]
            np.testing.assert_allclose(found[index], expected, atol=1e-9)
