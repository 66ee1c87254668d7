"""How people type: the same sentence, written in one company's manner or another's."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

SHORT_FORMS = {
    "you": "u",
    "are": "r",
    "your": "ur",
    "please": "pls",
    "because": "cuz",
    "though": "tho",
    "people": "ppl",
    "tomorrow": "tmrw",
    "really": "rly",
    "want to": "wanna",
    "going to": "gonna",
    "don't know": "dunno",
    "okay": "ok",
    "with": "w",
    "what": "wat",
    "to": "2",
    "for": "4",
    "see": "c",
    "someone": "some1",
    "before": "b4",
}
"""Common short forms of public chat, by the words that they replace."""

EMOJI = ("🙂", "😂", "😅", "👍", "🎮", "🙃", "✨", "😊", "😎", "🤔")

_SHORTENABLE = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, SHORT_FORMS), key=len, reverse=True)) + r")\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class TypingHabits:
    """How likely each habit is; every field is a probability in [0, 1].

    Attributes:
        lower_case: a message is written without capitals.
        drop_apostrophes: a message is written without apostrophes.
        drop_end: a message loses its final full stop or question mark.
        shorten: a word that has a short form takes it.
        mistype: a message holds one swapped pair of letters.
        stretch: the last letter of a message is repeated.
        emoji: a message ends with an emoji.
    """

    lower_case: float
    drop_apostrophes: float
    drop_end: float
    shorten: float
    mistype: float
    stretch: float
    emoji: float

    def apply(self, text: str, rng: np.random.Generator) -> str:
        """Return the text as somebody with these habits would have typed it."""
        draws = rng.random(6)
        if draws[0] < self.lower_case:
            text = text.lower()
        if draws[1] < self.drop_apostrophes:
            text = text.replace("'", "").replace("’", "")
        if self.shorten > 0:
            text = _SHORTENABLE.sub(lambda found: self._short_form(found.group(0), rng), text)
        if draws[2] < self.drop_end:
            text = text.rstrip(".?!") or text
        if draws[3] < self.mistype and len(text) > 4:
            place = 1 + int(rng.random() * (len(text) - 3))
            text = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        if draws[4] < self.stretch and text and text[-1].isalpha():
            text += text[-1] * (1 + int(rng.random() * 3))
        if draws[5] < self.emoji:
            text += " " + EMOJI[int(rng.random() * len(EMOJI))]
        return text

    def _short_form(self, word: str, rng: np.random.Generator) -> str:
        return SHORT_FORMS[word.lower()] if rng.random() < self.shorten else word


def draw_habits(rng: np.random.Generator) -> TypingHabits:
    """Return the habits of one company, drawn at random."""
    draws = rng.random(7)
    return TypingHabits(
        lower_case=float(0.2 + 0.75 * draws[0]),
        drop_apostrophes=float(0.1 + 0.8 * draws[1]),
        drop_end=float(0.1 + 0.7 * draws[2]),
        shorten=float(0.45 * draws[3] ** 2),
        mistype=float(0.08 * draws[4]),
        stretch=float(0.1 * draws[5]),
        emoji=float(0.12 * draws[6]),
    )
