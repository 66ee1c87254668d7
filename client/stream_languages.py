"""Which languages the conversations of a stream are in, known while it goes on.

Of a conversation no more than its first words are held, and these only until its language is clear.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass

from ringfence.model.language import ENGLISH, UNKNOWN, language_of, languages_warning

FEWEST_CLEAR = 20
"""Conversations of a clear language before the first warning: fewer say little of a stream that goes on."""

_ENOUGH_CHARACTERS = 100
_MOST_CHARACTERS = 400


@dataclass(slots=True)
class _Heard:
    language: str
    words: str | None  # None once the language is settled


class StreamLanguages:
    """The languages of the conversations that were last heard of.

    Args:
        most: conversations that are held; the one that was silent longest goes, and what it was in still counts.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, _Heard] = OrderedDict()
        self._languages: Counter[str] = Counter()

    def add(self, conversation: str, text: str) -> str:
        """Take in a message and return the language of its conversation so far, ``unclear`` while nobody can tell."""
        heard = self._held.get(conversation)
        if heard is None:
            heard = self._held[conversation] = _Heard(UNKNOWN, "")
            self._languages[UNKNOWN] += 1
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        self._held.move_to_end(conversation)
        if heard.words is None:
            return heard.language
        words = f"{heard.words} {text[:_MOST_CHARACTERS]}".strip()[:_MOST_CHARACTERS]
        language = language_of(words)
        self._languages[heard.language] -= 1
        self._languages[language] += 1
        heard.language = language
        settled = len(words) >= (_MOST_CHARACTERS if language == UNKNOWN else _ENOUGH_CHARACTERS)
        heard.words = None if settled else words
        return language

    def warning(self, *, fewest: int = 1) -> str | None:
        """Return what a person should know of the stream so far, or None; also while fewer than ``fewest`` are clear."""
        if self._languages.total() - self._languages[UNKNOWN] < fewest:
            return None
        return languages_warning(self._languages)


def is_other(language: str) -> bool:
    """Return whether a language is clear and is not the one that the detector was made for."""
    return language not in (ENGLISH, UNKNOWN)
