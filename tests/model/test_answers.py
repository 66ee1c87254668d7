"""Whoever answers a question does not hide who asked it: the public head, on lines that no public part was fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ringfence.model.conversation import Conversation, Message
from ringfence.model.detector import Detector
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.phrases import STAGES, PhraseBank, pick, read_phrase_bank
from ringfence.model.simulated_conversation import ANSWER_SHARE, REPLY_SHARE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CONVERSATIONS = 60
MOST_LOST = 0.6
"""Of the score, on average, where every question is answered; before the public bank knew answers it was .66 and .73."""

SAID = (
    ("hey, i saw you play yesterday, you were good", "thanks lol"),
    ("how old are you", "12"),
    ("where do you live, which school do you go to", "near the river"),
    ("are your parents home right now", "no mum is at work"),
    ("you can tell me anything, i understand you", "my brother never listens"),
    ("do you have another app? lets talk there instead", "i have one but mum reads it"),
    ("dont tell your mom about us, its our secret", "why, she is nice"),
    ("i can buy you a gift card for the game", "really? i want the blue one"),
    ("we should meet up on saturday, just you and me", "i have training on saturday"),
    ("if you dont come i will be really sad, you promised", "sorry i didnt mean it"),
)


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


def scores(features: FeatureSet, bank: PhraseBank, *, answers: bool) -> np.ndarray:
    rng = np.random.default_rng(3)
    made = []
    for number in range(CONVERSATIONS):
        messages = []
        for stage in rng.permutation(len(STAGES))[:6]:
            name = STAGES[int(stage)]
            messages.append(Message("a", bank.fill(pick(bank.stages[name], rng), rng)))
            said, other = (bank.fill(pick(lines, rng), rng) for lines in (bank.answers[name], bank.replies))
            messages.append(Message("b", said if answers else other))
        made.append(Conversation(f"c{number}", tuple(messages)))
    return np.array([score.logit for score in Detector(features, features.warm_start).score_together(made)])


@pytest.mark.parametrize("name", ["fresh", "other"])
def test_natural_answers_do_not_hide_the_pattern(features: FeatureSet, name: str) -> None:
    bank = read_phrase_bank(BENCHMARKS / f"{name}-phrases.json")
    lost = scores(features, bank, answers=False) - scores(features, bank, answers=True)
    assert lost.mean() < MOST_LOST


def test_a_child_who_answers_does_not_hide_who_asks(features: FeatureSet) -> None:
    """Before the public bank knew answers, these took the score down by 1.05."""
    detector = Detector(features, features.warm_start)

    def scored(answers: list[str]) -> float:
        lines = [
            line
            for (asked, _), answer in zip(SAID, answers, strict=True)
            for line in (Message("a", asked), Message("b", answer))
        ]
        return detector.score(Conversation("c", tuple(lines))).logit

    answered, silent = scored([said for _, said in SAID]), scored(["ok"] * len(SAID))
    assert answered > silent - 0.5


def test_replies_say_something_in_the_simulation() -> None:
    assert min(REPLY_SHARE, ANSWER_SHARE) > 0.3
