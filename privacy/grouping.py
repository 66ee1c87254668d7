"""Conversations of the same people as one training example, so that few have to be left out.

Keeping whole conversations while nobody is in more than k of them leaves most of the data of busy people unused. Here what
that would leave out joins the example of a conversation that is kept, and the example is clipped as a whole: the gradients of
its conversations are clipped, weighted and added, and the sum is clipped again. A person is then protected as before, since
what is bounded is how much of the sum hangs on that person, not how many conversations it comes from.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ringfence.model.bounds import Bounds
from ringfence.model.conversation import Conversation
from ringfence.privacy.bounding import (
    MOST_IN_AN_EXAMPLE,
    BoundedContributions,
    Choice,
    bound_contributions,
    check_terms,
    choose_fractions,
    choose_whole,
    fractional_weights,
    talk_graph,
)
from ringfence.privacy.talk_graph import TalkGraph


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
    graph = talk_graph(conversations, secret)
    return BoundedContributions.of(graph, choose_groups(graph, contribution_bound), contribution_bound)


def choose_groups(graph: TalkGraph, contribution_bound: int) -> Choice:
    """Return what `group_contributions` keeps of a graph, the rows of an example together.

    Raises:
        DataError: two conversations have one id. The data owner's fault.
    """
    alone = choose_whole(graph, contribution_bound).positions
    example_of = np.full(len(graph), -1, dtype=np.int32)
    example_of[alone] = np.arange(len(alone))
    sizes, joined = array("i", [1]) * len(alone), array("i")
    order = graph.order()
    left_out = order[example_of[order] < 0]
    if len(left_out):
        examples_of = _ExamplesOfPeople(graph, contribution_bound=contribution_bound)
        for example, (_, people) in enumerate(graph.people_of(alone)):
            examples_of.add(example, people)
    for position, people in graph.people_of(left_out):
        chosen = _example_for(people, sizes, examples_of, contribution_bound=contribution_bound)
        if chosen is not None:
            example_of[position] = chosen
            sizes[chosen] += 1
            joined.append(position)
            examples_of.add(chosen, people)
    if not joined:
        return Choice(alone)
    positions = np.concatenate((alone, np.array(joined, dtype=np.int32)))
    # The one that was kept alone comes first, those that joined it in their order.
    positions = positions[np.argsort(example_of[positions], kind="stable")]
    return _weighted(graph, positions, np.array(sizes, dtype=np.int64))


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


CHOICES: Mapping[Bounds, Callable[[TalkGraph, int], Choice]] = MappingProxyType(
    {"greedy": choose_whole, "fractional": choose_fractions, "grouped": choose_groups}
)
"""Name in plans -> what that keeps of a graph under a contribution bound."""


class _ExamplesOfPeople:
    """Which examples each person is in: never more than k, nor more than their conversations."""

    def __init__(self, graph: TalkGraph, *, contribution_bound: int) -> None:
        room = np.minimum(graph.degrees(), contribution_bound)
        self._starts = array("q", (np.cumsum(room) - room).tobytes())
        self._counts = array("i", bytes(4 * len(room)))
        self._examples = array("i", bytes(4 * int(room.sum())))

    def add(self, example: int, people: Sequence[int]) -> None:
        """Put people into an example; those who are in it already stay as they are."""
        for person in people:
            if example not in self.of(person):
                self._examples[self._starts[person] + self._counts[person]] = example
                self._counts[person] += 1

    def of(self, person: int) -> Sequence[int]:
        """Return the examples that a person is in."""
        start = self._starts[person]
        return self._examples[start : start + self._counts[person]]


def _example_for(
    people: Sequence[int], sizes: Sequence[int], examples_of: _ExamplesOfPeople, *, contribution_bound: int
) -> int | None:
    """Return the example that a conversation may join, the one with most of its people if there are several."""
    theirs = [examples_of.of(person) for person in people]
    busy = [set(examples) for examples in theirs if len(examples) >= contribution_bound]
    open_to_it = {
        example
        for example in (set.intersection(*busy) if busy else set())
        if sizes[example] < MOST_IN_AN_EXAMPLE
    }
    known = Counter(example for examples in theirs for example in examples)
    return min(open_to_it, key=lambda example: (-known[example], example), default=None)


def _weighted(graph: TalkGraph, positions: npt.NDArray[np.int32], sizes: npt.NDArray[np.int64]) -> Choice:
    """Return a choice of examples of given sizes, whose conversations follow each other."""
    weights = np.ones(len(positions))
    groups = np.full(len(positions), -1, dtype=np.int32)
    starts = np.cumsum(sizes) - sizes
    together = sizes > 1
    for start, size in zip(starts[together].tolist(), sizes[together].tolist(), strict=True):
        end = start + size
        weights[start:end] = _weights([people for _, people in graph.people_of(positions[start:end])])
        groups[start:end] = start
    return Choice(positions, weights, groups)


def _weights(conversations: Sequence[Sequence[int]]) -> list[float]:
    appearances = Counter(person for people in conversations for person in people)
    return [
        1.0
        / max(
            (appearances[person] for person in people if appearances[person] < len(conversations)), default=1
        )
        for people in conversations
    ]
