"""Which messages a reviewer is shown: those of the pattern, those that raise the score and those that lower it."""

from __future__ import annotations

import pytest

from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.explanation import SURE_STAGE, MessageShare, explain, telling
from ringfence.model.feature_set import load_feature_set


def share(index: int, value: float, *, stage: str = "other", sure: float = 0.9) -> MessageShare:
    return MessageShare(index=index, author="u1", stage=stage, stage_probability=sure, share=value)


def test_an_explanation_names_author_and_number_of_each_message() -> None:
    features = load_feature_set()
    texts = ("keep this a secret between us", "ok", "add me on another app")
    conversation = Conversation(
        "c", tuple(Message(f"u{index % 2}", text) for index, text in enumerate(texts))
    )
    found = explain(Detector(features, features.warm_start), conversation)
    assert [(item.index, item.message, item.author) for item in found] == [
        (0, 1, "u0"),
        (1, 2, "u1"),
        (2, 3, "u0"),
    ]


def test_every_message_of_a_sure_stage_is_shown_whatever_its_share() -> None:
    messages = [share(index, 0.0, stage="gift", sure=SURE_STAGE) for index in range(12)]
    unsure = [share(12, 0.0, stage="gift", sure=SURE_STAGE - 0.01), share(13, 0.0)]
    assert telling([*messages, *unsure]) == tuple(messages)


def test_what_lowers_the_score_is_shown_with_what_raises_it_in_the_order_of_the_conversation() -> None:
    values = [0.1, -0.5, 0.4, -0.1, 0.0, 0.2, -0.3, 0.3, -0.2, 0.05]
    shown = telling([share(index, value) for index, value in enumerate(values)])
    assert [item.share for item in shown] == [-0.5, 0.4, 0.2, -0.3, 0.3, -0.2]


@pytest.mark.parametrize("most", [6, 20])
def test_of_too_many_the_stages_with_the_least_shares_are_left_out(most: int) -> None:
    messages = [share(index, 0.01 * index, stage="secrecy") for index in range(40)]
    lowering = [share(40 + index, -1.0 - index) for index in range(5)]
    shown = telling([*messages, *lowering], most=most)
    assert len(shown) == most
    assert [item.index for item in shown] == [*range(43 - most, 40), 42, 43, 44]


def test_nothing_was_said_and_nothing_is_shown() -> None:
    assert telling(()) == ()
