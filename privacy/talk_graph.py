"""Who talked with whom, in numbers: a graph of a million people and their conversations in some 50 bytes for each.

Pseudonyms are digests of 32 bytes, kept once for each person and each conversation; everything else is a number.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation
from ringfence.privacy.digest_table import DigestTable, sorted_order

Numbers: TypeAlias = npt.NDArray[np.int32] | npt.NDArray[np.int64]
"""Positions or numbers: ``(count,)``."""

DIGEST_BYTES = 32
_BLOCK = 4_096


@dataclass(frozen=True, slots=True, eq=False)
class TalkGraph:
    """Conversations and the people in them.

    Attributes:
        conversations: (n, 32) uint8, the pseudonym of each conversation.
        starts: (n + 1,) int64, where each conversation's people begin in ``people``, and where the last one's end.
        people: (memberships,) int32, a person's number for each; those of a conversation in the order of their pseudonyms, without
            repetition.
        names: (p, 32) uint8, the pseudonym of each person, each once.
    """

    conversations: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    people: npt.NDArray[np.int32]
    names: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.conversations)

    def people_of(self, positions: Numbers) -> Iterator[tuple[int, list[int]]]:
        """Yield each position with the numbers of the people in that conversation."""
        people = self.people.data
        for first in range(0, len(positions), _BLOCK):
            block = positions[first : first + _BLOCK]
            bounds = zip(self.starts[block].tolist(), self.starts[block + 1].tolist(), strict=True)
            for position, (start, end) in zip(block.tolist(), bounds, strict=True):
                yield position, people[start:end].tolist()

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return how many people each conversation has, (n,) int64."""
        return np.diff(self.starts)

    def degrees(self) -> npt.NDArray[np.int64]:
        """Return in how many conversations each person is, (p,) int64."""
        return np.bincount(self.people, minlength=len(self.names))

    def order(self) -> npt.NDArray[np.int64]:
        """Return the positions in the order of the conversations' pseudonyms, (n,) int64."""
        return sorted_order(self.conversations)

    def only(self, positions: Numbers) -> TalkGraph:
        """Return the graph of some conversations, in the order of their positions; people keep their numbers."""
        sizes = self.sizes()[positions]
        starts = np.concatenate(([0], np.cumsum(sizes)))
        of_people = np.repeat(self.starts[positions] - starts[:-1], sizes)
        of_people += np.arange(len(of_people))
        return TalkGraph(self.conversations[positions], starts, self.people[of_people], self.names)


class TalkGraphBuilder:
    """Makes a graph of conversations that are seen once, one after the other.

    Args:
        conversation: makes the pseudonym of a conversation's id, 32 bytes as good as random.
        person: the same of an author; one for all spellings of one person.
    """

    def __init__(self, *, conversation: Callable[[str], bytes], person: Callable[[str], bytes]) -> None:
        self._conversation = conversation
        self._person = person
        self._conversations = bytearray()
        self._starts = array("q", [0])
        self._people = array("i")
        self._names = DigestTable(DIGEST_BYTES)

    def add(self, conversation: Conversation) -> Sequence[int]:
        """Add a conversation, and return the numbers of its people: 0 for the first person that is met, 1 for the next."""
        names = sorted({self._person(author) for author in conversation.participants})
        people = [self._names.number(name) for name in names]
        self._conversations += self._conversation(conversation.id)
        self._people.extend(people)
        self._starts.append(len(self._people))
        return people

    def build(self) -> TalkGraph:
        """Return the graph of all that were added. No other may be added afterwards."""
        return TalkGraph(
            conversations=np.frombuffer(self._conversations, dtype=np.uint8).reshape(-1, DIGEST_BYTES),
            starts=np.frombuffer(self._starts, dtype=np.int64),
            people=np.frombuffer(self._people, dtype=np.int32),
            names=self._names.digests(),
        )
