"""Conversations of the same people as one training example, so that few have to be left out.

Keeping whole conversations while nobody is in more than k of them leaves most of the data of busy people unused. Here what
that would leave out joins the example of a conversation that is kept, and the example is clipped as a whole: the gradients of
its conversations are clipped, weighted and added, and the sum is clipped again. A person is then protected as before, since
what is bounded is how much of the sum hangs on that person, not how many conversations it comes from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from ringfence.model.bounds import Bounds
from ringfence.model.conversation import Conversation
from ringfence.privacy.bounding import (
    MOST_IN_AN_EXAMPLE,
    BoundedContributions,
    KeptConversation,
    bound_contributions,
    check_terms,
    fractional_weights,
    greedy_positions,
    pseudonymous_rows,
)


def group_contributions(
    conversations: Sequence[Conversation], *, contribution_bound: int, secret: bytes
) -> BoundedContributions:
    """Keep what `bound_contributions` keeps, and let other conversations of the same people join those examples.

    A conversation joins an example only if each of its participants is in that example already or is in fewer than k. Its
    weight is 1 over the most conversations of the example that a participant of it is in without being in all of them.

    Mechanism: per-conversation clipping to C, weights, a sum for each example, clipping of that sum to C.
    Unit: one participant, in at most k examples.
    Assumes: as `bound_contributions`; every conversation is in every step (no sampling: without the person an example may still
        be something, which the accounting of samples does not know); weights and examples come from the graph and the secret
        alone.
    Sensitivity: at most C for a participant in one example. Either the example is nothing but conversations with that
        participant, and has a norm of at most C; or leaving them out changes the sum before its clipping by at most the sum
        of their weights times C, which is at most C, and clipping, the projection onto a ball, does not lengthen a
        difference. Hence k * C for a participant, and C for a conversation.
    Source: clipping what a person gives as a whole: McMahan, Ramage, Talwar and Zhang 2018, arXiv 1710.06963, section 2;
        projections do not lengthen: Bauschke and Combettes 2017, proposition 4.16; relation and graph: Ganesh et al. 2025,
        arXiv 2503.03622, section 3.

    Args and errors are those of `bound_contributions`. The rows of an example lie together.
    """
    check_terms(contribution_bound, secret)
    rows = pseudonymous_rows(conversations, secret)
    alone = greedy_positions(rows, contribution_bound=contribution_bound)
    examples = [[position] for position in alone]
    of_person: dict[str, set[int]] = {}
    for example, position in enumerate(alone):
        for participant in rows[position].participants:
            of_person.setdefault(participant, set()).add(example)
    left_out = set(range(len(rows))).difference(alone)
    for position in sorted(left_out, key=lambda index: rows[index].pseudonym):
        participants = rows[position].participants
        chosen = _example_for(participants, examples, of_person, contribution_bound=contribution_bound)
        if chosen is not None:
            examples[chosen].append(position)
            for participant in participants:
                of_person.setdefault(participant, set()).add(chosen)
    grouped = list(rows)
    for members in examples:
        for position, weight in zip(members, _weights([rows[p] for p in members]), strict=True):
            group = rows[members[0]].pseudonym if len(members) > 1 else ""
            grouped[position] = replace(rows[position], weight=weight, group=group)
    return BoundedContributions.of(
        grouped, [position for members in examples for position in members], contribution_bound
    )


class Bounding(Protocol):
    """A way to keep a contribution bound."""

    def __call__(
        self, conversations: Sequence[Conversation], *, contribution_bound: int, secret: bytes
    ) -> BoundedContributions:
        """Return which conversations are used; see `bound_contributions`."""


BOUNDS: Mapping[Bounds, Bounding] = MappingProxyType(
    {"greedy": bound_contributions, "fractional": fractional_weights, "grouped": group_contributions}
)
"""Name in plans -> how the bound is kept."""


def _example_for(
    participants: Sequence[str],
    examples: Sequence[Sequence[int]],
    of_person: dict[str, set[int]],
    *,
    contribution_bound: int,
) -> int | None:
    """Return the example that a conversation may join, the one with most of its people if there are several."""
    busy = [
        of_person[person] for person in participants if len(of_person.get(person, ())) >= contribution_bound
    ]
    open_to_it = {
        example
        for example in (set.intersection(*busy) if busy else set())
        if len(examples[example]) < MOST_IN_AN_EXAMPLE
    }
    known = Counter(example for person in participants for example in of_person.get(person, ()))
    return min(open_to_it, key=lambda example: (-known[example], example), default=None)


def _weights(rows: Sequence[KeptConversation]) -> list[float]:
    appearances = Counter(participant for row in rows for participant in row.participants)
    return [
        1.0
        / max(
            (appearances[person] for person in row.participants if appearances[person] < len(rows)), default=1
        )
        for row in rows
    ]
