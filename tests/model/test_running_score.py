"""A conversation that goes on: after each message its score is that of the conversation so far, scored whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.demo.company_data import benign_chat
from ringfence.model.calibration import Calibration
from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.errors import DataError
from ringfence.model.feature_set import FEATURE_VERSION, load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.release_examples import EXAMPLES
from ringfence.model.running_score import LiveConversation, timeline


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def detector(request: pytest.FixtureRequest) -> Detector:
    features = load_feature_set()
    start = ARCHITECTURES[request.param].initial(features)
    return Detector(features, start, request.param, Calibration(slope=0.7, intercept=-0.2))


TEXTS = st.one_of(
    st.sampled_from(
        ["hi", "how old are you", "keep this between us", "add me on the other app", "", "🙂", "ok", "ok"]
    ),
    st.text(max_size=40),
)
CONVERSATIONS = st.lists(st.tuples(st.sampled_from("abcd"), TEXTS), min_size=1, max_size=25).map(
    lambda items: Conversation("c", tuple(Message(author, text) for author, text in items))
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(conversation=CONVERSATIONS)
def test_every_running_score_is_that_of_the_conversation_so_far(
    detector: Detector, conversation: Conversation
) -> None:
    live = LiveConversation(detector, "c")
    whole = timeline(detector, conversation)
    beginnings = [Conversation("c", conversation.messages[:count]) for count in range(1, len(whole) + 1)]
    expected = detector.score_together(beginnings)
    for message, at_once, score in zip(conversation.messages, whole, expected, strict=True):
        found = live.add(message)
        for value in (found, at_once):
            assert abs(value.logit - score.logit) <= 1e-6
            assert abs(value.probability - score.probability) <= 1e-6
        assert (found.message, found.stage) == (at_once.message, at_once.stage)


def test_somebody_who_has_not_spoken_yet_is_not_there(detector: Detector) -> None:
    """A first message that says next to nothing once came second to the silence of whoever spoke after it."""
    conversation = Conversation("c", (Message("a", "."), Message("b", "hi")))
    alone = detector.score(Conversation("c", conversation.messages[:1])).logit
    assert abs(timeline(detector, conversation)[0].logit - alone) <= 1e-6


def test_a_long_conversation_stays_within_a_millionth(detector: Detector) -> None:
    messages = tuple(
        Message(f"a{index % 3}", message.text)
        for index, message in enumerate(message for item in benign_chat() for message in item.messages)
    )[:3000]
    live = LiveConversation(detector, "long")
    for message in messages:
        found = live.add(message)
    assert abs(found.logit - detector.score(Conversation("long", messages)).logit) <= 1e-6


def test_a_score_rises_where_the_pattern_begins_and_names_its_stage(detector: Detector) -> None:
    example = next(item for item in EXAMPLES if item.id == "example-pattern")
    scores = timeline(detector, example)
    assert scores[-1].logit > scores[0].logit + 1
    assert "secrecy" in {score.stage for score in scores}


def test_nothing_said_has_no_timeline(detector: Detector) -> None:
    assert timeline(detector, Conversation("c", ())) == ()


def test_a_timeline_encodes_each_message_once(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encoded = detector.feature_set._encoder, list[str]()
    encode = encoder.encode

    def watched(texts: Sequence[str]) -> np.ndarray:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", watched)
    timeline(detector, EXAMPLES[0])
    assert len(encoded) == len(EXAMPLES[0].messages)


class TestAKeptState:
    def half_way(self, detector: Detector) -> tuple[bytes, tuple[Message, ...]]:
        messages = EXAMPLES[0].messages
        live = LiveConversation(detector, "c")
        for message in messages[:4]:
            live.add(message)
        return live.to_bytes(), messages[4:]

    def test_goes_on_where_it_was(self, detector: Detector) -> None:
        saved, rest = self.half_way(detector)
        live = LiveConversation(detector, "c", saved=saved)
        for message in rest:
            found = live.add(message)
        assert found.message == len(EXAMPLES[0].messages)
        assert found.logit == pytest.approx(detector.score(EXAMPLES[0]).logit, abs=1e-5)

    def test_is_small_and_holds_no_text(self, detector: Detector) -> None:
        live = LiveConversation(detector, "c")
        for index in range(200):
            live.add(Message(f"a{index % 2}", "the blue heron waits"))
        assert len(live.to_bytes()) < 900
        live = LiveConversation(detector, "c")
        for index in range(30):
            live.add(Message(f"a{index % 2}", "the blue heron waits"))
        assert len(live.to_bytes()) < 450
        assert b"heron" not in live.to_bytes()

    def test_of_unusual_names_comes_back(self, detector: Detector) -> None:
        live = LiveConversation(detector, "c")
        for name in ("", "日本語", "\ud83d", "x" * 512):
            live.add(Message(name, "hello there"))
        again = LiveConversation(detector, "c", saved=live.to_bytes())
        assert again.to_bytes() == live.to_bytes()

    def test_has_no_room_for_a_name_as_long_as_a_book_and_says_so(self, detector: Detector) -> None:
        live = LiveConversation(detector, "c")
        live.add(Message("x" * 65_535, "hello there"))
        assert LiveConversation(detector, "c", saved=live.to_bytes()).to_bytes() == live.to_bytes()
        live.add(Message("y" * 65_536, "hello there"))
        with pytest.raises(DataError, match="65,535 bytes") as caught:
            live.to_bytes()
        assert "yy" not in caught.value.message + caught.value.hint

    @pytest.mark.parametrize(
        "damage",
        [
            lambda saved: b"",
            lambda saved: saved[:-1],
            lambda saved: saved + b"\0",
            lambda saved: b"XYZ" + saved[3:],
            lambda saved: saved[:3] + bytes([FEATURE_VERSION + 1]) + saved[4:],
            lambda saved: saved[:10] + np.float32(np.nan).tobytes() + saved[14:],
            lambda saved: saved[:4] + bytes(4) + saved[8:],
        ],
        ids=["empty", "cut off", "longer", "another kind", "another version", "not a number", "no messages"],
    )
    def test_that_is_damaged_or_of_another_version_is_refused(self, detector: Detector, damage) -> None:
        saved, _ = self.half_way(detector)
        with pytest.raises(DataError, match="state"):
            LiveConversation(detector, "c", saved=damage(saved))
