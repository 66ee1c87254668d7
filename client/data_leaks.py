"""Ways in which data makes a detector look better than it is: copies, people on both sides of a split, labels that show.

Everything is compared by hash, and every warning counts; none says what or who.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ringfence.model.conversation import Conversation
from ringfence.privacy.bounding import normalise_participant

# A sentence or an account in this many of the positive conversations, and at least so many, is more than chance.
_SHARE_OF_POSITIVES = 0.05
_AT_LEAST = 10
# And in other conversations at most this often, for one time in a positive one.
_ELSEWHERE = 0.02
_SHORTEST_SENTENCE = 20
# Hashes of 8 bytes and their counts: a few tens of megabytes.
_MOST_SENTENCES = 400_000
_Key = TypeVar("_Key", int, str)


class LeakSearch:
    """Looks at each conversation once, and at those that are not positive once more if there is something to compare."""

    def __init__(self) -> None:
        self._parts_of_content: dict[bytes, int] = {}
        self._parts_of_person: dict[str, int] = {}
        self._parts = 0
        self._conversations = 0
        self._sentences: Counter[int] = Counter()
        self._accounts: Counter[str] = Counter()
        self._positives = 0

    def add(self, conversation: Conversation, *, part: int) -> None:
        """Look at a conversation of one of several files."""
        if not conversation.messages:
            return
        self._conversations += 1
        bit = 1 << part
        self._parts |= bit
        content = _content_digest(conversation)
        self._parts_of_content[content] = self._parts_of_content.get(content, 0) | bit
        people = _people(conversation)
        for person in people:
            self._parts_of_person[person] = self._parts_of_person.get(person, 0) | bit
        if conversation.label == 1:
            self._positives += 1
            self._accounts.update(people)
            self._sentences.update(_sentences(conversation))
            if len(self._sentences) > _MOST_SENTENCES:
                self._sentences = Counter({key: count for key, count in self._sentences.items() if count > 1})

    def to_compare(self, labels: Sequence[int | None]) -> list[int]:
        """Return the positions of the conversations that `warnings` wants to see again, which may be none."""
        if not self._suspects(self._sentences) and not self._suspects(self._accounts):
            return []
        return [position for position, label in enumerate(labels) if label != 1]

    def warnings(self, others: Iterable[Conversation]) -> list[str]:
        """Return what should be looked at, in sentences.

        Args:
            others: the conversations of `to_compare`.
        """
        sentences, accounts = self._suspects(self._sentences), self._suspects(self._accounts)
        sentences_elsewhere: Counter[int] = Counter()
        accounts_elsewhere: Counter[str] = Counter()
        for conversation in others:
            sentences_elsewhere.update(_sentences(conversation) & sentences.keys())
            accounts_elsewhere.update(_people(conversation) & accounts.keys())
        telling = max(
            (n for key, n in sentences.items() if sentences_elsewhere[key] <= n * _ELSEWHERE), default=0
        )
        marking = max(
            (n for key, n in accounts.items() if accounts_elsewhere[key] <= n * _ELSEWHERE), default=0
        )
        found = self._about_copies()
        if telling:
            found.append(
                f"One same message stands in {telling} positive conversations and hardly in any other. If it was written "
                "because of the decision, such as a notice, it gives the label away: leave it out."
            )
        if marking:
            found.append(
                f"One account takes part in {marking} positive conversations and hardly in any other. If it is a "
                "moderator's or a decoy's, its messages give the label away: leave them out."
            )
        return found

    def _suspects(self, counts: Counter[_Key]) -> dict[_Key, int]:
        enough = max(_AT_LEAST, _SHARE_OF_POSITIVES * self._positives)
        return {key: count for key, count in counts.items() if count >= enough}

    def _about_copies(self) -> list[str]:
        found = []
        copies = self._conversations - len(self._parts_of_content)
        if copies:
            found.append(
                f"{copies} conversations repeat the words of another. Copies in training and in test make quality look "
                "better than it is."
            )
        if self._parts.bit_count() > 1:
            people = sum(parts.bit_count() > 1 for parts in self._parts_of_person.values())
            contents = sum(parts.bit_count() > 1 for parts in self._parts_of_content.values())
            if people:
                found.append(
                    f"{people} people take part in conversations of more than one file. If the files are training and "
                    "test, quality looks better than it is: split by person."
                )
            if contents:
                found.append(f"{contents} conversations stand, word for word, in more than one file.")
        return found


def _people(conversation: Conversation) -> set[str]:
    return {normalise_participant(author) for author in conversation.participants}


def _sentences(conversation: Conversation) -> set[int]:
    return {
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
        for message in conversation.messages
        if len(text := " ".join(message.text.casefold().split())) >= _SHORTEST_SENTENCE
    }


def _content_digest(conversation: Conversation) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for message in conversation.messages:
        digest.update(message.text.encode("utf-8", "replace") + b"\x00")
    return digest.digest()
