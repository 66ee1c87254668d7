"""Which language a text is in: named where it is clear, left open where it is not."""

from __future__ import annotations

from collections import Counter

import pytest

from ringfence.model import language
from ringfence.model.conversation import Conversation, Message
from ringfence.model.language import count_languages, language_of, other_language_share


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so i was thinking that you and my brother could come with us", "en"),
        ("lol that is so funny i cant even", "en"),
        ("YO BRO U COMING ON TONITE? WE NEED A HEALER 4 THE RAID", "en"),
        ("ich weiss nicht was du meinst", "de"),
        ("salut ça va? tu fais quoi ce soir", "fr"),
        ("где ты живешь сейчас", "ru"),
        ("مرحبا كيف حالك اليوم", "ar"),
        ("שלום מה שלומך היום", "he"),
        ("", "unclear"),
        ("ok", "unclear"),
        ("😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀", "unclear"),
        ("1234567890 1234567890 1234567890", "unclear"),
        ("h3y wh3r3 d0 y0u l1v3 n0w my fr13nd", "unclear"),
        ("\ud83d" * 40, "unclear"),
    ],
)
def test_a_text_has_a_language_or_is_unclear(text: str, expected: str) -> None:
    assert language_of(text) == expected


def test_plain_english_needs_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted() -> object:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(language, "_identifier", unwanted)
    assert language_of("well i think that you could come with us when they are there") == "en"


def test_the_share_of_other_languages_leaves_unclear_ones_out() -> None:
    assert other_language_share(Counter({"en": 3, "de": 1, "unclear": 96})) == 0.25
    assert other_language_share(Counter({"unclear": 5})) == 0.0
    talk = Conversation("c", (Message("a", "ich weiss nicht"), Message("b", "was du meinst")))
    assert count_languages([talk]) == Counter({"de": 1})
