"""The languages of a stream: settled from first words that are then let go, and counted for conversations that went."""

from __future__ import annotations

from ringfence.client.stream_languages import StreamLanguages

GERMAN = "ich weiss nicht was du meinst aber wir gehen heute"
ENGLISH = "so i was thinking that you and my brother could come with us"


def test_a_language_is_clear_once_enough_was_said_and_stays() -> None:
    languages = StreamLanguages(most=10)
    assert languages.add("c", "ok") == "unclear"
    for _ in range(3):
        assert languages.add("c", GERMAN) == "de"
    for _ in range(20):
        assert languages.add("c", ENGLISH) == "de", "what it began in"


def test_words_are_held_no_longer_than_it_takes_and_never_many() -> None:
    languages = StreamLanguages(most=10)
    for conversation, text in (("clear", ENGLISH), ("unclear", "zzz 123 ")):
        for _ in range(200):
            languages.add(conversation, text)
    assert all(heard.words is None for heard in languages._held.values())
    languages.add("long", "x" * 1_000_000)
    assert sum(len(heard.words or "") for heard in languages._held.values()) <= 400


def test_conversations_that_went_still_count_and_are_not_held() -> None:
    languages = StreamLanguages(most=3)
    for number in range(30):
        languages.add(f"c{number}", GERMAN if number < 15 else ENGLISH)
    assert len(languages._held) == 3
    assert "About 50%" in str(languages.warning())


def test_nothing_is_warned_of_while_too_little_is_clear() -> None:
    languages = StreamLanguages(most=100)
    for number in range(19):
        languages.add(f"c{number}", GERMAN)
        languages.add(f"unclear-{number}", "ok")
    assert languages.warning(fewest=20) is None
    languages.add("c19", GERMAN)
    assert "About 100%" in str(languages.warning(fewest=20))


def test_english_is_not_warned_of() -> None:
    languages = StreamLanguages(most=100)
    for number in range(30):
        languages.add(f"c{number}", ENGLISH if number % 10 else GERMAN)
    assert languages.warning() is None
