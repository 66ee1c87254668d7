"""A long conversation is scored by its stretches: the same live, at once and from a kept state."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.demo.company_data import benign_chat
from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.errors import DataError
from ringfence.model.explanation import explain
from ringfence.model.feature_set import load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.release_examples import EXAMPLES
from ringfence.model.running_score import LiveConversation, timeline
from ringfence.model.stretches import (
    STEP,
    STRETCH,
    deciding_stretch,
    ends_a_stretch,
    highest_so_far,
    present_stretch,
)

PATTERN = next(item for item in EXAMPLES if item.id == "example-pattern").messages


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def detector(request: pytest.FixtureRequest) -> Detector:
    features = load_feature_set()
    return Detector(features, ARCHITECTURES[request.param].initial(features), request.param)


@pytest.fixture(scope="module")
def chat() -> list[Message]:
    lines = [message for item in benign_chat()[:60] for message in item.messages]
    who = [message.author for message in PATTERN]
    return [Message(who[index % 2], message.text) for index, message in enumerate(lines)]


def by_definition(detector: Detector, messages: list[Message]) -> float:
    """Return the highest score of a stretch of 60 that begins every 30 messages; the last may be shorter."""
    starts = [0] if len(messages) <= STRETCH else range(0, len(messages) - STEP, STEP)
    parts = [Conversation("c", tuple(messages[start : start + STRETCH])) for start in starts]
    return max(detector.score(part).logit for part in parts)


@pytest.mark.parametrize("count", [1, 30, 31, 59, 60, 61, 89, 90, 91, 120, 121, 200])
def test_the_score_is_that_of_the_highest_stretch(
    detector: Detector, chat: list[Message], count: int
) -> None:
    messages = [*chat[:70], *PATTERN, *chat[70:]][:count]
    whole = Conversation("c", tuple(messages))
    expected = by_definition(detector, messages)
    live = LiveConversation(detector, "c")
    for message in messages:
        found = live.add(message)
    scores = (
        found.logit,
        detector.score(whole).logit,
        timeline(detector, whole)[-1].logit,
        detector.score_together([EXAMPLES[0], whole, EXAMPLES[1], whole])[3].logit,
    )
    assert scores == pytest.approx([expected] * 4, abs=1e-6)


def test_every_running_score_is_that_of_the_conversation_so_far(
    detector: Detector, chat: list[Message]
) -> None:
    messages = [*chat[:50], *PATTERN, *chat[50:130]]
    live = LiveConversation(detector, "c")
    at_once = timeline(detector, Conversation("c", tuple(messages)))
    for index, message in enumerate(messages):
        found = live.add(message)
        if index % 7 == 0 or 55 < index < 95:
            so_far = detector.score(Conversation("c", tuple(messages[: index + 1]))).logit
            assert (found.logit, at_once[index].logit) == pytest.approx((so_far, so_far), abs=1e-6)
        if index % 13 == 0 or index in (29, 30, 31, 59, 60, 61, 89, 90):
            live = LiveConversation(detector, "c", saved=live.to_bytes())


@pytest.mark.parametrize("before", [0, 17, 400, 985])
def test_a_thousand_messages_of_plain_chat_do_not_bury_the_pattern(
    detector: Detector, chat: list[Message], before: int
) -> None:
    """Read as one, what a thousand messages leave covers the pattern: its score fell below that of plain chat."""
    plain = detector.score(Conversation("c", tuple(chat[:1000]))).logit
    hidden = Conversation("c", (*chat[:before], *PATTERN, *chat[before:1000]))
    read_as_one = detector.logits(detector.feature_set.rows_of([hidden])[:, 0])[0]
    assert read_as_one < plain < detector.score(hidden).logit


def test_an_explanation_points_into_the_stretch_that_gave_the_score(
    detector: Detector, chat: list[Message]
) -> None:
    messages = [*chat[:400], *PATTERN, *chat[400:600]]
    shares = explain(detector, Conversation("c", tuple(messages)))
    assert len(shares) == len(messages)
    told = [item.index for item in shares if item.share != 0.0]
    assert max(told) - min(told) < STRETCH
    strongest = max(shares, key=lambda item: item.share)
    assert 400 <= strongest.index < 400 + len(PATTERN)
    without = [message for index, message in enumerate(messages) if index != strongest.index]
    start = present_stretch(max(told) + 1)
    part = [message for index, message in enumerate(messages) if start <= index <= max(told)]
    rest = [message for message in part if message is not messages[strongest.index]]
    difference = by_definition(detector, part) - by_definition(detector, rest)
    assert strongest.share == pytest.approx(difference, abs=1e-6)
    assert len(without) == len(messages) - 1


def test_where_stretches_begin_and_end() -> None:
    assert [present_stretch(n) for n in (0, 1, 60, 61, 90, 91, 120, 121)] == [0, 0, 0, 30, 30, 60, 60, 90]
    assert [n for n in range(200) if ends_a_stretch(n)] == [60, 90, 120, 150, 180]


def test_what_a_stretch_came_to_at_its_end_stays_and_what_it_was_on_the_way_does_not() -> None:
    scores = np.zeros(130)
    scores[[10, 70, 100]] = 5.0  # after 11, 71 and 101 messages: on the way
    scores[89] = 2.0  # after 90 messages: an end
    found = highest_so_far(scores)
    assert found[10] == found[70] == found[100] == 5.0
    assert found[[11, 71, 88]].tolist() == [0.0, 0.0, 0.0]
    assert found[90] == found[99] == found[129] == 2.0
    assert deciding_stretch(scores) == slice(30, 90)
    assert deciding_stretch(scores[:60]) == slice(0, 60)


class TestAKeptState:
    @pytest.fixture
    def saved(self, detector: Detector, chat: list[Message]) -> bytes:
        live = LiveConversation(detector, "c")
        for message in chat[:75]:
            live.add(message)
        return live.to_bytes()

    def test_is_refused_at_any_length_but_its_own(self, detector: Detector, saved: bytes) -> None:
        for length in range(len(saved)):
            with pytest.raises(DataError):
                LiveConversation(detector, "c", saved=saved[:length])
        with pytest.raises(DataError):
            LiveConversation(detector, "c", saved=saved + b"\0")

    @pytest.mark.parametrize(
        ("at", "bytes_"), [(11, (74).to_bytes(4, "little")), (0, b"\0" * 6 + b"\xf8\x7f"), (15, b"\1")]
    )
    def test_of_parts_that_do_not_agree_is_refused(
        self, detector: Detector, saved: bytes, at: int, bytes_: bytes
    ) -> None:
        """Another number of messages; a highest score that is no number; another number of stretches."""
        changed = saved[:at] + bytes_ + saved[at + len(bytes_) :]
        assert changed != saved
        with pytest.raises(DataError):
            LiveConversation(detector, "c", saved=changed)
