"""What a conversation is: values without behaviour, the same in every part of Ringfence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        author: who wrote it; an identifier within the data set, never empty.
        text: what was written; may be empty.
        time: seconds since the epoch, or None where the source has no times.
    """

    author: str
    text: str
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Participant:
    """A person of a data set, with the conversations in which they take part.

    Attributes:
        id: the author identifier.
        conversations: identifiers of the conversations, in the order met.
    """

    id: str
    conversations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation: the unit of scoring, and one example in training.

    Attributes:
        id: identifier within the data set, never empty.
        messages: in the order in which they were sent.
        label: 1 for the harmful pattern, 0 for its absence, None if nobody decided.
        platform: name of the platform, where a source holds several.
    """

    id: str
    messages: tuple[Message, ...]
    label: int | None = None
    platform: str | None = None

    @property
    def participants(self) -> tuple[str, ...]:
        """Every author, in the order of their first message."""
        return tuple(dict.fromkeys(message.author for message in self.messages))


def participants_of(conversations: tuple[Conversation, ...] | list[Conversation]) -> tuple[Participant, ...]:
    """Return every person of a data set with their conversations, in the order first met."""
    found: dict[str, list[str]] = {}
    for conversation in conversations:
        for author in conversation.participants:
            found.setdefault(author, []).append(conversation.id)
    return tuple(Participant(id=author, conversations=tuple(ids)) for author, ids in found.items())
