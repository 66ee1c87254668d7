"""What makes a detector look better than it is: copies, shared people, and labels that show through."""

from __future__ import annotations

import pytest

from ringfence.client.data_summary import DataSummary, summarise
from ringfence.model.conversation import Conversation, Message

KEY = b"k" * 32
NOTICE = "This account was reported and is under review."


def talk(number: int, *texts: str, label: int = 0, people: tuple[str, ...] = ()) -> Conversation:
    authors = people or (f"a{number}", f"b{number}")
    said = texts or (f"words of {number}", f"an answer to {number}")
    messages = (Message(authors[i % len(authors)], text, 1.7e9 + i) for i, text in enumerate(said))
    return Conversation(f"c{number}", tuple(messages), label=label)


def summary(conversations: list[Conversation], parts: list[int] | None = None) -> DataSummary:
    return summarise(
        conversations, contribution_bound=2, secret=KEY, part=None if parts is None else parts.__getitem__
    )


def warned(found: DataSummary, words: str) -> bool:
    return any(words in line for line in found.warnings)


def test_sound_data_shows_nothing() -> None:
    assert summary([talk(n, label=n % 2) for n in range(80)]).warnings == ()


def test_a_sentence_that_only_positive_conversations_have_is_found() -> None:
    data = [talk(n, f"words of {n}", NOTICE if n % 2 else "fine", label=n % 2) for n in range(80)]
    found = summary(data)
    assert warned(found, "One same message stands in 40 positive conversations")
    assert not any("reported" in line for line in found.warnings), "it is counted, not quoted"


def test_a_sentence_that_everybody_writes_is_not_suspected() -> None:
    data = [talk(n, f"words of {n}", "good morning everybody, how are you", label=n % 2) for n in range(80)]
    assert not warned(summary(data), "One same message")


def test_an_account_that_only_positive_conversations_have_is_found_and_not_named() -> None:
    data = [
        talk(n, label=n % 2, people=(f"a{n}", "moderator-otter") if n % 2 and n < 40 else ())
        for n in range(200)
    ]
    found = summary(data)
    assert warned(found, "One account takes part in 20 positive conversations")
    assert not any("otter" in line for line in found.warnings)


@pytest.mark.parametrize(("shared", "people"), [(True, 1), (False, 0)])
def test_people_and_conversations_in_two_files_are_counted(shared: bool, people: int) -> None:
    train = [talk(n, label=n % 2) for n in range(40)]
    test = [talk(n, label=n % 2) for n in range(40, 80)]
    if shared:
        test.append(talk(99, "other words", people=("A3",)))
        test.append(talk(100, "words of 5", "an answer to 5"))
    found = summary([*train, *test], [0] * len(train) + [1] * len(test))
    assert warned(found, f"{people} people take part in conversations of more than one file") is shared
    assert warned(found, "1 conversations stand, word for word, in more than one file") is shared
    assert not warned(summary([*train, *test]), "more than one file")


def test_languages_are_counted_and_other_ones_than_english_warned_of() -> None:
    english = "well i was thinking that you could come with us to the park when it is warm"
    german = "ich weiss nicht was du meinst aber wir gehen heute in den park wenn es warm ist"
    data = [talk(n, f"{english if n % 2 else german} {n}", label=n % 2) for n in range(80)]
    found = summary(data)
    assert found.languages == {"de": 0.5, "en": 0.5}
    assert warned(found, "About 50% of the conversations are not in English")
    assert not warned(summary([talk(n, f"{english} {n}", label=n % 2) for n in range(80)]), "English")
