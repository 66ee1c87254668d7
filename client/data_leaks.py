"""Ways in which data makes a detector look better than it is: copies, people on both sides of a split, labels that show.

Everything is compared by hash, and every warning counts; none says what or who.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation
from ringfence.privacy.digest_table import DigestTable

# A sentence or an account in this many of the positive conversations, and at least so many, is more than chance.
_SHARE_OF_POSITIVES = 0.05
_AT_LEAST = 10
# And in other conversations at most this often, for one time in a positive one.
_ELSEWHERE = 0.02
_SHORTEST_SENTENCE = 20
# Hashes of 8 bytes and their counts: a few megabytes.
_MOST_SENTENCES = 400_000
_UNSORTED = 1 << 16
_CONTENT_BYTES = 16
_SEVERAL = -1


class LeakSearch:
    """Looks at each conversation once, and at those that are not positive once more if there is something to compare."""

    def __init__(self) -> None:
        self._contents = DigestTable(_CONTENT_BYTES)
        self._part_of_content = _Parts()
        self._part_of_person = _Parts()
        self._conversations = 0
        self._sentences = _SentenceCounts()
        self._conversations_of_person = array("i")
        self._positives_of_person = array("i")
        self._positives = 0

    def add(self, conversation: Conversation, *, people: Sequence[int], part: int) -> None:
        """Look at a conversation of one of several files.

        Args:
            conversation: to look at.
            people: numbers of those in it; 0 for the first person that is met, 1 for the next.
            part: number of the file.
        """
        if not conversation.messages:
            return
        self._conversations += 1
        self._part_of_content.add(self._contents.number(_content_digest(conversation)), part)
        is_positive = conversation.label == 1
        for person in people:
            self._part_of_person.add(person, part)
            if person == len(self._conversations_of_person):
                self._conversations_of_person.append(0)
                self._positives_of_person.append(0)
            self._conversations_of_person[person] += 1
            self._positives_of_person[person] += is_positive
        if is_positive:
            self._positives += 1
            self._sentences.add(_sentences(conversation))

    def warnings(self, conversations: Iterable[Conversation]) -> list[str]:
        """Return what should be looked at, in sentences.

        Args:
            conversations: all that were added, once more; they are gone through only if there is something to compare.
        """
        enough = max(_AT_LEAST, _SHARE_OF_POSITIVES * self._positives)
        found = self._about_copies()
        if telling := self._telling_sentence(conversations, enough=enough):
            found.append(
                f"One same message stands in {telling} positive conversations and hardly in any other. If it was written "
                "because of the decision, such as a notice, it gives the label away: leave it out."
            )
        if marking := self._marking_account(enough=enough):
            found.append(
                f"One account takes part in {marking} positive conversations and hardly in any other. If it is a "
                "moderator's or a decoy's, its messages give the label away: leave them out."
            )
        return found

    def _telling_sentence(self, conversations: Iterable[Conversation], *, enough: float) -> int:
        """Return in how many positive conversations the sentence is that gives most labels away; 0 if there is none."""
        sentences = self._sentences.at_least(enough)
        if not sentences:
            return 0
        elsewhere: Counter[int] = Counter()
        for conversation in conversations:
            if conversation.label != 1:
                elsewhere.update(_sentences(conversation) & sentences.keys())
        return max((n for key, n in sentences.items() if elsewhere[key] <= n * _ELSEWHERE), default=0)

    def _marking_account(self, *, enough: float) -> int:
        """Return in how many positive conversations the account is that gives most labels away; 0 if there is none."""
        positives = np.array(self._positives_of_person, dtype=np.int64)
        elsewhere = np.array(self._conversations_of_person, dtype=np.int64) - positives
        marking = positives[(positives >= enough) & (elsewhere <= positives * _ELSEWHERE)]
        return int(marking.max(initial=0))

    def _about_copies(self) -> list[str]:
        found = []
        copies = self._conversations - len(self._contents)
        if copies:
            found.append(
                f"{copies} conversations repeat the words of another. Copies in training and in test make quality look "
                "better than it is."
            )
        if people := self._part_of_person.in_several:
            found.append(
                f"{people} people take part in conversations of more than one file. If the files are training and "
                "test, quality looks better than it is: split by person."
            )
        if contents := self._part_of_content.in_several:
            found.append(f"{contents} conversations stand, word for word, in more than one file.")
        return found


class _Parts:
    """In which part each of many numbered things is."""

    def __init__(self) -> None:
        self._part = array("i")

    def add(self, number: int, part: int) -> None:
        """Note where a thing is, one that is known or the next."""
        if number == len(self._part):
            self._part.append(part)
        elif self._part[number] != part:
            self._part[number] = _SEVERAL

    @property
    def in_several(self) -> int:
        """How many things are in more than one part."""
        return self._part.count(_SEVERAL)


class _SentenceCounts:
    """How often sentences were met, of those that are met most."""

    def __init__(self) -> None:
        self._hashes = np.empty(0, dtype=np.uint64)
        self._counts = np.empty(0, dtype=np.int64)
        self._unsorted = array("Q")

    def add(self, hashes: Collection[int]) -> None:
        """Count hashes of 8 bytes."""
        self._unsorted.extend(hashes)
        if len(self._unsorted) >= _UNSORTED:
            self._sort()

    def at_least(self, enough: float) -> dict[int, int]:
        """Return the hashes that were met so often, with their counts."""
        self._sort()
        chosen = self._counts >= enough
        return dict(zip(self._hashes[chosen].tolist(), self._counts[chosen].tolist(), strict=True))

    def _sort(self) -> None:
        hashes, counts = np.unique(np.array(self._unsorted, dtype=np.uint64), return_counts=True)
        self._unsorted = array("Q")
        self._hashes, place = np.unique(np.concatenate((self._hashes, hashes)), return_inverse=True)
        self._counts = _sums(place, np.concatenate((self._counts, counts)))
        rare = 0
        while len(self._hashes) > _MOST_SENTENCES:
            rare += 1
            often = self._counts > rare
            self._hashes, self._counts = self._hashes[often], self._counts[often]


def _sums(place: npt.NDArray[np.intp], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    sums = np.zeros(int(place.max(initial=-1)) + 1, dtype=np.int64)
    np.add.at(sums, place, counts)
    return sums


def _sentences(conversation: Conversation) -> set[int]:
    return {
        int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest())
        for message in conversation.messages
        if len(text := " ".join(message.text.casefold().split())) >= _SHORTEST_SENTENCE
    }


def _content_digest(conversation: Conversation) -> bytes:
    digest = hashlib.blake2b(digest_size=_CONTENT_BYTES)
    for message in conversation.messages:
        digest.update(message.text.encode("utf-8", "replace") + b"\x00")
    return digest.digest()
