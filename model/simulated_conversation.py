"""One simulated conversation: a window of real benign chat in which lines of a phrase bank play.

Three kinds: plain chat; a hard negative, whose lines come from the same stages in a benign context; a positive, in which
one author works through several stages. No kind has words of its own, so no keyword tells them apart. Some hard negatives
hold as many lines of the very same stages as a positive, said by two people to each other: no bag of words tells those
apart, only who says what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation, Message
from ringfence.model.phrases import STAGES, THEMES, PhraseBank, pick
from ringfence.model.typing_habits import TypingHabits

THEME_STAGES: Mapping[str, tuple[str, ...]] = {
    "friends": ("meeting", "platform_move", "rapport", "personal_information", "secrecy", "pressure"),
    "family": ("meeting", "personal_information", "gift", "rapport", "risk_assessment", "secrecy"),
    "school": ("personal_information", "meeting", "platform_move", "access", "pressure", "rapport"),
    "clan": ("platform_move", "access", "meeting", "gift", "rapport", "pressure"),
    "support": ("personal_information", "gift", "platform_move", "access", "pressure", "risk_assessment"),
    "trade": ("gift", "meeting", "platform_move", "personal_information", "access", "pressure"),
}
"""The stages whose lines occur in each benign theme, the usual ones first."""

REPLY_SHARE = 0.45
"""Share of the planted lines to which somebody else says something at once."""

ANSWER_SHARE = 0.6
"""Share of those replies that answer what a line of a stage asks or offers; the others say nothing."""

MUTUAL_CONTEXT_SHARE = 0.5
"""Share of the conversations in which two people say such things to each other that have lines of a benign context."""

THEME_FALL = np.array([1.0, 0.9, 0.8, 0.6, 0.15, 0.08])
"""How likely the first, second, ... stage of a theme is, relative to the first."""

START_TIME_S = 1_700_000_000.0
LONGEST_WINDOW = 160


@dataclass(frozen=True, slots=True)
class Style:
    """How the conversations of one company differ from another's.

    Attributes:
        bank: its phrases and words.
        habits: how its people type.
        stage_mix: (9,) float64, positive: how likely each stage is in a positive.
        theme_mix: (6,) float64, sums to 1: how likely each theme is in a hard negative.
        group_share: share of conversations with more than two people, in [0, 1].
        median_length: messages of benign chat in a conversation, median.
        most_hard_stages: most stages in a hard negative, at least 1.
        mutual_share: share of the hard negatives in which two people say what one says in a positive, in [0, 1].
        stray_share: share of plain conversations with one line of a stage, in [0, 1].
    """

    bank: PhraseBank
    habits: TypingHabits
    stage_mix: npt.NDArray[np.float64]
    theme_mix: npt.NDArray[np.float64]
    group_share: float
    median_length: float
    most_hard_stages: int
    mutual_share: float
    stray_share: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line before it has a time: who speaks (a place among the participants), what, and of which stage if of any."""

    speaker: int
    text: str
    stage: str | None = None


def write_positive(style: Style, filler: Conversation, rng: np.random.Generator) -> list[Line]:
    """Return the lines of a conversation in which speaker 0 works through four to eight stages."""
    chosen = _stages_of_pattern(style, rng)
    # Noisy order: stages come back, and late ones may come early.
    position = {stage: stage + 2.5 * rng.standard_normal() for stage in chosen}
    planted: list[Line] = []
    for stage in sorted(chosen, key=position.__getitem__):
        for _ in range(_repeats(rng)):
            planted.append(_line(style, 0, STAGES[stage], rng))
    if rng.random() < 0.35:
        planted = _blend(planted, _context_lines(style, rng, speakers=2, most=3), rng)
    return _blend(_window(style, filler, rng), _with_replies(style, planted, rng), rng)


def write_hard_negative(style: Style, filler: Conversation, rng: np.random.Generator) -> list[Line]:
    """Return the lines of a benign conversation that shares its words with the stages."""
    # No draw where there is none to make: the public simulation stays what the public parts were fitted on.
    if style.mutual_share and rng.random() < style.mutual_share:
        return _write_mutual(style, filler, rng)
    theme = THEMES[int(rng.choice(len(THEMES), p=style.theme_mix))]
    stages = THEME_STAGES[theme]
    fewest = min(2, style.most_hard_stages)
    count = fewest + int(rng.random() * (style.most_hard_stages - fewest + 1))
    chosen = [stages[index] for index in _weighted(THEME_FALL, count, rng)]
    chosen = [chosen[int(index)] for index in rng.permutation(count)]
    one_speaker = rng.random() < 0.6
    planted = [
        _line(style, 0 if one_speaker or rng.random() < 0.5 else 1, stage, rng)
        for stage in chosen
        for _ in range(_repeats(rng))
    ]
    context = _context_lines(style, rng, speakers=2, most=6, theme=theme)
    planted = _with_replies(style, _blend(context, planted, rng), rng)
    return _blend(_window(style, filler, rng), planted, rng)


def write_plain(style: Style, filler: Conversation, rng: np.random.Generator) -> list[Line]:
    """Return the lines of a benign conversation, now and then with a single line of a stage and a reply."""
    lines = _window(style, filler, rng)
    if rng.random() < style.stray_share:
        stage = STAGES[int(rng.random() * len(STAGES))]
        stray = _with_replies(style, [_line(style, int(rng.random() * 2), stage, rng)], rng)
        lines = _blend(lines, stray, rng)
    return lines


def assemble(
    lines: Sequence[Line],
    *,
    conversation_id: str,
    people: Sequence[str],
    label: int,
    platform: str,
    habits: TypingHabits,
    rng: np.random.Generator,
) -> Conversation:
    """Return the lines as a conversation: named speakers, typing habits, exponential gaps with long pauses.

    Args:
        lines: in order; each names its speaker by a place.
        conversation_id: of the result.
        people: at least two author ids; speakers beyond the second share the others at random.
        label: 1 for a positive, else 0.
        platform: the company's name.
        habits: how these people type.
        rng: decides gaps, group speakers and habits.
    """
    gaps = rng.exponential(35.0, len(lines))
    gaps[rng.random(len(lines)) < 0.03] *= 400.0
    times = START_TIME_S + float(rng.random()) * 2e7 + np.cumsum(gaps)
    messages = []
    for line, time in zip(lines, times, strict=True):
        place = line.speaker
        if place == 1 and len(people) > 2:
            place = 1 + int(rng.random() * (len(people) - 1))
        messages.append(
            Message(author=people[place], text=habits.apply(line.text, rng), time=round(float(time), 1))
        )
    return Conversation(id=conversation_id, messages=tuple(messages), label=label, platform=platform)


def _write_mutual(style: Style, filler: Conversation, rng: np.random.Generator) -> list[Line]:
    """Return the lines of two people who say to each other what one author says in a positive."""
    planted = []
    for stage in _stages_of_pattern(style, rng):
        speaker = int(rng.random() < 0.5)
        planted += [_line(style, speaker, STAGES[stage], rng) for _ in range(_repeats(rng))]
    if rng.random() < MUTUAL_CONTEXT_SHARE:
        planted = _blend(_context_lines(style, rng, speakers=2, most=3), planted, rng)
    return _blend(_window(style, filler, rng), _with_replies(style, planted, rng), rng)


def _stages_of_pattern(style: Style, rng: np.random.Generator) -> list[int]:
    """Return four to eight stages, the company's usual ones more often."""
    count = 4 + int(rng.random() * 5)
    return _weighted(style.stage_mix, count, rng)


def _window(style: Style, filler: Conversation, rng: np.random.Generator) -> list[Line]:
    """Return a stretch of real chat, its two most frequent authors as speakers 0 and 1 in random order."""
    messages = filler.messages
    length = int(np.clip(style.median_length * np.exp(0.7 * rng.standard_normal()), 3, LONGEST_WINDOW))
    start = int(rng.random() * max(1, len(messages) - length + 1))
    swap = rng.random() < 0.5
    places: dict[str, int] = {}
    lines = []
    for message in messages[start : start + length]:
        place = places.setdefault(message.author, min(len(places), 1))
        lines.append(Line(1 - place if swap else place, message.text))
    return lines


def _line(style: Style, speaker: int, stage: str, rng: np.random.Generator) -> Line:
    return Line(speaker, style.bank.fill(pick(style.bank.stages[stage], rng), rng), stage)


def _context_lines(
    style: Style, rng: np.random.Generator, *, speakers: int, most: int, theme: str | None = None
) -> list[Line]:
    if theme is None:
        theme = THEMES[int(rng.choice(len(THEMES), p=style.theme_mix))]
    pool = style.bank.contexts[theme]
    count = 1 + int(rng.random() * most)
    return [Line(int(rng.random() * speakers), style.bank.fill(pick(pool, rng), rng)) for _ in range(count)]


def _with_replies(style: Style, lines: Sequence[Line], rng: np.random.Generator) -> list[Line]:
    """Return the lines, some with a reply. People answer alike whoever asks and why: an answer is no sign of anything."""
    result: list[Line] = []
    for line in lines:
        result.append(line)
        if rng.random() < REPLY_SHARE:
            said = style.bank.replies
            if line.stage is not None and rng.random() < ANSWER_SHARE:
                said = style.bank.answers.get(line.stage, said)
            result.append(Line(1 - line.speaker, style.bank.fill(pick(said, rng), rng)))
    return result


def _repeats(rng: np.random.Generator) -> int:
    """Return how many lines a stage gets: one, rarely two or three."""
    return 1 + int(rng.random() < 0.3) + int(rng.random() < 0.1)


def _weighted(weights: npt.NDArray[np.float64], count: int, rng: np.random.Generator) -> list[int]:
    keys = np.log(weights) + rng.gumbel(size=len(weights))
    return [int(index) for index in np.argsort(-keys)[:count]]


def _blend(base: Sequence[Line], added: Sequence[Line], rng: np.random.Generator) -> list[Line]:
    """Return both sequences as one; each keeps its own order."""
    places = np.zeros(len(base) + len(added), bool)
    places[rng.permutation(len(places))[: len(added)]] = True
    first, second = iter(base), iter(added)
    return [next(second) if taken else next(first) for taken in places]
