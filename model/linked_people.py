"""People who are linked by what they take part in: who must be kept together when conversations are parted."""

from __future__ import annotations

from collections.abc import Sequence


def linked_groups(participants: Sequence[Sequence[str]]) -> list[int]:
    """Return the group of each conversation, numbered in the order in which they are met.

    Two conversations are in one group if somebody is in both, directly or by way of others. One without anybody is a group of
    its own.

    Args:
        participants: of each conversation.
    """
    leader: dict[str, str] = {}

    def find(person: str) -> str:
        while leader.setdefault(person, person) != person:
            leader[person] = leader[leader[person]]
            person = leader[person]
        return person

    for people in participants:
        for other in people[1:]:
            leader[find(other)] = find(people[0])
    numbers: dict[str | int, int] = {}
    return [
        numbers.setdefault(find(people[0]) if people else place, len(numbers))
        for place, people in enumerate(participants)
    ]
