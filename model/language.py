"""Which language a text is in, roughly: so that a person is told where a detector that learned English is out of its depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from ringfence.model.conversation import Conversation

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

ENGLISH = "en"
UNKNOWN = "unclear"
OTHER_LANGUAGE_SHARE = 0.2
"""From this share of conversations in other languages on, a person is warned."""

# Languages of many chats. More candidates would find rare languages, and find them in slang and in spelled-out words too.
_CANDIDATES = "ar cs da de el en es fa fi fr he hi hu id it ja ko nl no pl pt ro ru sv th tr uk ur vi zh"
# Frequent in English and nowhere else: most English is known by them, long before a model is read from disk.
_ENGLISH = (
    "the and you that it's what my your are have with this but don't how just i'm know think would could about when they "
    "there from like can't did does want going here then because who i'll that's which been were where why"
)
_ENGLISH_WORDS = frozenset(_ENGLISH.split())
_ENGLISH_SHARE = 0.2
_FEWEST_WORDS = 6
_CHARACTERS = 1_000
_FEWEST_LETTERS = 14
_SUREST = 0.9


def language_of(text: str) -> str:
    """Return the two-letter code of a text's language, or ``unclear`` for one that is too short or like none."""
    sample = text[:_CHARACTERS]
    if sum(character.isalpha() for character in sample) < _FEWEST_LETTERS:
        return UNKNOWN
    sample = sample.lower()  # shouting is still English
    words = sample.split()
    if len(words) >= _FEWEST_WORDS and sum(word in _ENGLISH_WORDS for word in words) >= _ENGLISH_SHARE * len(
        words
    ):
        return ENGLISH
    language, certainty = _identifier().classify(sample.encode("utf-8", "replace").decode())
    return str(language) if certainty >= _SUREST else UNKNOWN


def language_of_conversation(conversation: Conversation) -> str:
    """Return the language of a conversation's first words."""
    words: list[str] = []
    length = 0
    for message in conversation.messages:
        words.append(message.text[:_CHARACTERS])
        length += len(words[-1])
        if length >= _CHARACTERS:
            break
    return language_of(" ".join(words))


def count_languages(conversations: Iterable[Conversation]) -> Counter[str]:
    """Return how many conversations are in each language."""
    return Counter(language_of_conversation(item) for item in conversations)


def other_language_share(languages: Counter[str]) -> float:
    """Return which share of the conversations whose language is clear is not in English; 0 if none is clear."""
    clear = sum(count for language, count in languages.items() if language != UNKNOWN)
    return (clear - languages[ENGLISH]) / clear if clear else 0.0


def languages_warning(languages: Counter[str]) -> str | None:
    """Return what a person should know of conversations in these languages that are scored, or None."""
    share = other_language_share(languages)
    if share < OTHER_LANGUAGE_SHARE:
        return None
    return (
        f"About {share:.0%} of the conversations are not in English, which is what the detector was made for: low "
        "scores there say little."
    )


class LanguageWatch:
    """Passes conversations on and looks at the language of the first of them.

    Args:
        conversations: to pass on.
        first: how many to look at.
    """

    def __init__(self, conversations: Iterable[Conversation], *, first: int = 200) -> None:
        self._conversations = conversations
        self._first = first
        self._languages: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Conversation]:
        for conversation in self._conversations:
            if self._languages.total() < self._first:
                self._languages[language_of_conversation(conversation)] += 1
            yield conversation

    def warning(self) -> str | None:
        """Return what a person should know of what was passed on so far, or None."""
        return languages_warning(self._languages)


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(_CANDIDATES.split())
    return identifier
