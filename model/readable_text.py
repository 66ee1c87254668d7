"""What of a message is read, and how: writing that evades a word list is undone before any encoder sees it.

Full-width and other ornamental letters become plain ones, look-alike letters of another script become Latin inside words that mix
scripts, ``h o w  o l d`` and ``h.o.w`` are joined, and ``0ld`` is read as ``old``. Each of these is done only where a plain message has
nothing of the kind, and only towards words of the encoder's own vocabulary, so that ``gr8``, ``b4``, ``2day`` and ``5pm`` stay as people
write them. All of it is public and part of `FEATURE_VERSION`.

Source: Unicode Standard Annex 15 (NFKC) and Technical Standard 39 (confusables), of which `_LOOK_ALIKES` is a small part.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from itertools import product

MAXIMUM_CHARACTERS = 2000
"""Of a message, what is read: the first and the last thousand; what stands between is ignored."""

WHOLE_CHARACTERS = 300
"""A message up to this long is read whole; the encoders learned from messages up to this long."""

WINDOW_CHARACTERS = 100
"""A longer one is read in stretches of about this many at most, so that padding does not drown a sentence."""

_LOOK_ALIKES = str.maketrans(
    "аеорсухіјѕһԁԛԝɡɩькмтвнАВЕКМНОРСТУХІЈЅαεοιυνρτκχΑΒΕΖΗΙΚΜΝΟΡΤΥΧօսոһɑ",
    "aeopcyxijshdqwgibkmtbhABEKMHOPCTYXIJSaeoiuvptkxABEZHIKMNOPTYXounha",
)
"""Cyrillic, Greek, Armenian and a few Latin letters, and the ASCII letters that they look like."""

_LEET = {
    "0": "o",
    "1": "il",
    "3": "e",
    "4": "a",
    "5": "s",
    "6": "g",
    "7": "t",
    "8": "b",
    "9": "g",
    "@": "a",
    "$": "s",
    "!": "i",
    "|": "il",
    "€": "e",
}
"""What each digit or symbol may stand for, the likelier first."""

_KNOWN_PLACE = 14_000
"""A word up to this place of the vocabulary, which is ordered by frequency, is one that people write."""

_COMMON_PLACE = 7_000
_EVERYDAY_PLACE = 2_600
"""The six hundred words that are most frequent: the first two thousand places hold no words."""

_MAXIMUM_WORD = 20
_DIGITS = "0123456789"
_TOO_SHORT = str.maketrans("0134@", "oieaa")
"""What is read in a token of two: m3, g0, @t; but i5, a7 and b4 stay."""

_MAXIMUM_READINGS = 16

_KNOWN_SHARE = 0.6
"""Of letters that stand apart, this share must be in words of two letters and more once they are joined."""

_UNKNOWN_LETTER = 14.0
"""The price of a letter that is no word, beside logarithms of places, which stay below ten."""

_MANY = 2
"""With so many words in disguise, a message is taken to be written that way throughout."""

_SYMBOLS = re.escape("".join(_LEET))
_LETTER = rf"[A-Za-z{_SYMBOLS}]"
_SIGN = rf"[A-Za-z{_SYMBOLS},?;:'’]"
_GAP = r"[ ._*~·-]{1,3}"
_BESIDE = re.compile(rf"[A-Za-z][{_SYMBOLS}]|[{_SYMBOLS}][A-Za-z]")
_TOKEN = re.compile(rf"[A-Za-z0-9{_SYMBOLS}]+")
_NUMBER = re.compile(
    r"[1-9$€][\d$€]*(?:st|nd|rd|th|am|pm|[apkmghsdclfwxy]|km|cm|mm|ml|kg|lbs?|ft|in|mins?|hrs?|secs?|yrs?|yo|gb|mb|hz|mph|fps|[vx]\d+)"
)
"""A number with what it counts: 5pm, 30mins, 2nd, 3d, 100k, 3v3."""

_SINGLE_LETTERS = re.compile(
    rf"[ ._*~·-][A-Za-z]{_GAP}{_LETTER}[ ._*~·-]|^[A-Za-z]{_GAP}{_LETTER}{_GAP}{_LETTER}\b"
)
_SPACED = re.compile(rf"(?<![^\s._*~·-]){_SIGN}(?:{_GAP}{_SIGN}){{3,}}(?![^\s.,?!_*~·-])")
_SENTENCE_END = re.compile(r"[.?!\n]\s")
_RUN = re.compile(rf"{_LETTER}+")
_GAPS = re.compile(rf"({_GAP})")
_FOREIGN_WORD = re.compile(r"[^\W\d_]+")


class TextReader:
    """Reads messages for an encoder.

    Args:
        vocabulary: the encoder's word pieces and their places, in which more frequent words come first.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._words = {word: place for word, place in vocabulary.items() if word.isascii() and word.isalpha()}

    def read(self, text: str) -> str:
        """Return what the encoder is given, in a form that a tokenizer takes; O(n) in the text, of any content."""
        text = _within_bounds(text)
        if not text.isascii():
            text = _plain_letters(text)
        if _SINGLE_LETTERS.search(text):
            text = _SPACED.sub(lambda found: self._joined(found.group()), text)
        if _BESIDE.search(text):
            text = self._without_leet(text)
        return text

    def _without_leet(self, text: str) -> str:
        tokens = set(_TOKEN.findall(text))
        readings = {token: read for token in tokens if (read := self._unleeted(token)) != token}
        if len(readings) >= _MANY:
            readings |= {token: self._read_throughout(token) for token in tokens - readings.keys()}
        return (
            _TOKEN.sub(lambda found: readings.get(found.group(), found.group()), text) if readings else text
        )

    def _read_throughout(self, token: str) -> str:
        """Return a token of a message that is written in leetspeak throughout: 15 is "is" there, and d0n7 is "dont"."""
        core = token.strip("!|")
        lower = core.lower()
        if lower.isalpha() or not 1 <= len(core) <= _MAXIMUM_WORD:
            return token
        if not any(map(str.isalpha, lower)):
            found = self._best_reading(lower, _EVERYDAY_PLACE)
        else:
            found = self._best_reading(lower, len(self._vocabulary)) or _likeliest(lower)
        return token if found is None else token.replace(core, found, 1)

    def _unleeted(self, token: str) -> str:
        """Return a token with its digits and symbols read as letters, if that is a word and the token is none."""
        core = token.strip("!|")
        lower = core.lower()
        letters = sum(map(str.isalpha, lower))
        if not 2 <= len(core) <= _MAXIMUM_WORD or letters in (0, len(core)):
            return token
        if _NUMBER.fullmatch(lower) or lower in self._vocabulary or self._counts(lower):
            return token
        found = self._best_reading(lower, _EVERYDAY_PLACE if letters == 1 else _KNOWN_PLACE)
        if found is None or (len(core) == 2 and not lower.translate(_TOO_SHORT).isalpha()):
            return token
        return token.replace(core, found, 1)

    def _counts(self, token: str) -> bool:
        """Say whether digits at an end stand beside a word: so they do in player1, too1 and 5mile, and not in schoo1 and 0ld."""
        before, after = token.rstrip(_DIGITS), token.lstrip(_DIGITS)
        if before.isalpha() and before != token:
            return len(before) > 1 and self._place(before) <= _COMMON_PLACE
        return after.isalpha() and len(after) > 3 and self._place(after) <= _COMMON_PLACE

    def _best_reading(self, token: str, last_place: int) -> str | None:
        """Return the most frequent word that the token may stand for, or None."""
        choices = [_LEET.get(character, character) for character in token]
        if math.prod(map(len, choices)) > _MAXIMUM_READINGS:
            choices = [one[0] for one in choices]
        readings = map("".join, product(*choices))
        return min(
            (word for word in readings if self._place(word) <= last_place), key=self._place, default=None
        )

    def _place(self, word: str) -> float:
        return self._words.get(word, math.inf)

    def _joined(self, spaced: str) -> str:
        """Return single letters with the same mark between them as words, if they make words."""
        pieces = _GAPS.split(spaced)
        letters, marks = pieces[::2], pieces[1::2]
        if sum(map(str.isalpha, letters)) < max(3, len(letters) // 2):
            return spaced
        # The mark that comes most often stands between letters, any other between words.
        inner = max(dict.fromkeys(marks), key=marks.count)
        words = [letters[0]]
        for mark, letter in zip(marks, letters[1:], strict=True):
            if mark == inner:
                words[-1] += letter
            else:
                words.append(letter)
        apart = " ".join(words)
        cut = _RUN.sub(lambda found: self._words_in(found.group().lower()), apart)
        known = sum(len(word) for word in cut.split() if len(word) > 1)
        if known < _KNOWN_SHARE * sum(map(len, words)):
            return spaced
        return cut if len(words) == 1 else apart

    def _words_in(self, letters: str) -> str:
        """Return the likeliest words that these letters spell one after the other; O(n) for n letters."""
        plain = letters
        if not letters.isalpha():
            plain = self._best_reading(letters, _KNOWN_PLACE) or _likeliest(letters)
        if len(plain) > 1 and plain in self._words:
            return plain
        cost = [0.0] + [math.inf] * len(plain)
        start = [0] * (len(plain) + 1)
        for end in range(1, len(plain) + 1):
            for begin in range(max(0, end - _MAXIMUM_WORD), end):
                price = cost[begin] + self._price(plain[begin:end])
                if price < cost[end]:
                    cost[end], start[end] = price, begin
        words: list[str] = []
        end = len(plain)
        while end:
            words.append(plain[start[end] : end])
            end = start[end]
        return " ".join(reversed(words))

    def _price(self, word: str) -> float:
        """Return how unlikely a word is: the logarithm of its place, as Zipf's law has it; short ones must be common."""
        if len(word) == 1:
            return 9.0 if word in "aiu" else _UNKNOWN_LETTER
        place = self._place(word)
        if place > (_EVERYDAY_PLACE if len(word) == 2 else _COMMON_PLACE if len(word) == 3 else _KNOWN_PLACE):
            return math.inf
        return math.log(place) + 1.0


def windows(text: str) -> list[str]:
    """Return the stretches in which a message is read: one, unless it is very long; cut behind sentences, or else at spaces."""
    if len(text) <= WHOLE_CHARACTERS:
        return [text]
    text = _within_bounds(text)
    result, start = [], 0
    while start < len(text):
        end = start + WINDOW_CHARACTERS
        if end < len(text):
            found = _SENTENCE_END.search(text, start + WINDOW_CHARACTERS // 4, end)
            space = text.rfind(" ", start, end + WINDOW_CHARACTERS // 2) + 1
            end = found.end() if found else max(end, space)
        result.append(text[start:end])
        start = end
    return result


def _within_bounds(text: str) -> str:
    if len(text) > MAXIMUM_CHARACTERS:
        half = MAXIMUM_CHARACTERS // 2
        text = f"{text[:half]} {text[-half:]}"
    # Lone surrogates (half an emoji, cut by a client) have no UTF-8 form, which the tokenizer needs.
    return text.encode("utf-8", "replace").decode("utf-8")


def _plain_letters(text: str) -> str:
    plain = "".join(one if one < "\x80" else _plain(one) for one in text)
    return _FOREIGN_WORD.sub(lambda found: _one_script(found.group()), plain)


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """Return a character without ornament; nothing for marks and for what cannot be seen, which the tokenizer drops anyway."""
    category = unicodedata.category(character)
    if category in ("Cf", "Mn"):
        return ""
    enclosed = _enclosed_letter(character)
    if enclosed is not None:
        return enclosed
    plain = unicodedata.normalize("NFKC", character)
    is_letter = plain.isalnum() and category[0] in "LNS"
    return plain if is_letter or "！" <= character <= "～" else character


def _enclosed_letter(character: str) -> str | None:
    """Return the letter in a square or a filled circle, which NFKC leaves as it is."""
    for first in (0x1F150, 0x1F170, 0x1F1E6):
        if first <= ord(character) < first + 26:
            return chr(ord("a") + ord(character) - first)
    return None


def _one_script(word: str) -> str:
    if word.isascii() or not any(one < "\x80" for one in word):
        return word
    return word.translate(_LOOK_ALIKES)


def _likeliest(letters: str) -> str:
    return "".join(_LEET.get(one, one)[0] for one in letters)
