"""How often one person may count: which conversations are used, so that nobody is in more than k of them.

A conversation belongs to everyone who takes part in it. The choice depends on who talked with whom and on a secret key,
never on what was said or how it was labelled: ordering by label or text would itself reveal content.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation
from ringfence.model.errors import BudgetError, ConfigError, DataError
from ringfence.privacy.digest_table import ranks
from ringfence.privacy.manifest_numbers import ManifestNumbers, sizes_of_runs
from ringfence.privacy.talk_graph import DIGEST_BYTES, TalkGraph, TalkGraphBuilder

MINIMUM_SECRET_BYTES = 16
_WEIGHT_TOLERANCE = 1e-9
_BLOCK = 1 << 16

MOST_IN_AN_EXAMPLE = 8
"""Conversations of one example. The products that its norm needs grow with the square; more brought nothing measurable."""


@dataclass(frozen=True, slots=True)
class KeptConversation:
    """One row of a manifest.

    Attributes:
        pseudonym: keyed hash of the conversation's id.
        participants: keyed hashes of everyone in it, sorted, without repetition.
        weight: factor on its clipped gradient, in (0, 1]; 1 where nothing is fractional.
        group: pseudonym of the conversation whose example this one belongs to; empty for an example of its own.
    """

    pseudonym: str
    participants: tuple[str, ...]
    weight: float = 1.0
    group: str = ""

    @property
    def example(self) -> str:
        """Name of the training example that this conversation belongs to."""
        return self.group or self.pseudonym


_Row = tuple[str, tuple[str, ...], float, str]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Which conversations of a graph are used, and how.

    Attributes:
        positions: (n,) int32, of the conversations that are used; those of one example lie together.
        weights: (n,) float64, or None where each is 1.
        groups: (n,) int32, the place among the positions of the one that names each conversation's example, -1 for an example
            of its own; or None where each is one.
    """

    positions: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64] | None = None
    groups: npt.NDArray[np.int32] | None = None

    def examples(self) -> npt.NDArray[np.int32]:
        """Return for each conversation the place of the one that names its example, (n,) int32."""
        own = np.arange(len(self.positions), dtype=np.int32)
        return own if self.groups is None else np.where(self.groups < 0, own, self.groups)


class KeptConversations(Sequence[KeptConversation]):
    """Rows of a manifest, made when they are asked for: half a million in place take hundreds of megabytes.

    Args:
        graph: of which they are rows.
        choice: which.
    """

    def __init__(self, graph: TalkGraph, choice: Choice) -> None:
        self._graph = graph
        self._choice = choice

    def __len__(self) -> int:
        return len(self._choice.positions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            mine == theirs for mine, theirs in zip(self, other, strict=True)
        )

    __hash__ = None  # type: ignore[assignment] # as of every sequence that compares by what is in it

    def __repr__(self) -> str:
        return f"<{len(self)} kept conversations>"

    def __iter__(self) -> Iterator[KeptConversation]:
        return itertools.starmap(KeptConversation, self.rows(range(len(self))))

    @overload
    def __getitem__(self, place: int) -> KeptConversation: ...

    @overload
    def __getitem__(self, place: slice) -> list[KeptConversation]: ...

    def __getitem__(self, place: int | slice) -> KeptConversation | list[KeptConversation]:
        chosen = range(len(self))[place]
        if isinstance(chosen, range):
            return list(itertools.starmap(KeptConversation, self.rows(chosen)))
        return KeptConversation(*next(self.rows(range(chosen, chosen + 1))))

    def rows(self, places: range) -> Iterator[_Row]:
        """Yield the attributes of the rows at some places."""
        names, pseudonyms = _Hexadecimal(self._graph.names), _Hexadecimal(self._graph.conversations)
        positions, weights, groups = self._choice.positions, self._choice.weights, self._choice.groups
        people_of = self._graph.people_of(positions[np.arange(places.start, places.stop, places.step)])
        for place, (position, people) in zip(places, people_of, strict=True):
            group = -1 if groups is None else int(groups[place])
            yield (
                pseudonyms[position],
                tuple([names[person] for person in people]),
                1.0 if weights is None else float(weights[place]),
                "" if group < 0 else pseudonyms[int(positions[group])],
            )

    def weights(self) -> npt.NDArray[np.float64]:
        """Return the weights, (n,) float64."""
        return np.ones(len(self)) if self._choice.weights is None else self._choice.weights

    def examples(self) -> npt.NDArray[np.int64]:
        """Return `ManifestNumbers.examples`."""
        return ranks(self._graph.conversations[self._choice.positions])[self._choice.examples()]

    def numbers(self) -> ManifestNumbers:
        """Return the rows in numbers: of the pseudonyms themselves, whatever numbers people have in the graph."""
        kept = self._graph.only(self._choice.positions)
        conversations = ranks(kept.conversations)
        return ManifestNumbers(
            conversations=conversations,
            starts=kept.starts,
            people=ranks(kept.names)[kept.people],
            weights=self.weights(),
            examples=conversations[self._choice.examples()],
        )


class _Hexadecimal:
    """Texts of digests, as `bytes.hex` gives them."""

    def __init__(self, digests: npt.NDArray[np.uint8]) -> None:
        self._bytes = digests.reshape(-1).data

    def __getitem__(self, place: int) -> str:
        return self._bytes[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)].hex()


@dataclass(frozen=True, slots=True)
class ContributionManifest:
    """What the trainer re-checks: which conversations are used, under pseudonyms. It stays at the member.

    Attributes:
        contribution_bound: k, the most that one person counts for.
        kept: one row for each conversation, in the order of their rows of features; those of one example lie together.
    """

    contribution_bound: int
    kept: Sequence[KeptConversation]

    def examples(self) -> Iterator[tuple[KeptConversation, ...]]:
        """Yield the conversations of each example: one, unless they are grouped."""
        for _, rows in itertools.groupby(self.kept, key=lambda row: row.example):
            yield tuple(rows)

    @property
    def largest_contribution(self) -> float:
        """Return the most that any one person counts for; 0 for an empty manifest.

        In an example a person counts for what leaving out their conversations can change it by, in units of the clip norm:
        the weights of those conversations together, and no more than 1 where they are all of the example, which is clipped
        as a whole, or 2 where others remain in it (`ringfence.privacy.grouping`).
        """
        return self.numbers().largest_contribution()

    @property
    def most_examples(self) -> int:
        """Return the largest number of examples that any one person is in; 0 for an empty manifest."""
        return self.numbers().most_examples()

    @property
    def weights(self) -> tuple[float, ...]:
        """Return each conversation's weight, in the order of the rows."""
        if isinstance(self.kept, KeptConversations):
            return tuple(self.kept.weights().tolist())
        return tuple(row.weight for row in self.kept)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Return how many conversations each example has, in the order of the rows."""
        if isinstance(self.kept, KeptConversations):
            return tuple(sizes_of_runs(self.kept.examples()).tolist())
        return tuple(len(rows) for rows in self.examples())

    def numbers(self) -> ManifestNumbers:
        """Return the rows in numbers."""
        return self.kept.numbers() if isinstance(self.kept, KeptConversations) else _numbers_of(self.kept)

    def digest(self) -> str:
        """Return a SHA-256 over every row, in hexadecimal: names this choice in the member's own ledger."""
        state = hashlib.sha256(f"{self.contribution_bound}".encode())
        for pseudonym, participants, weight, group in _rows_of(self.kept):
            grouped = f"|{group}" if group else ""
            state.update(f"|{pseudonym}|{','.join(participants)}|{weight!r}{grouped}".encode())
        return state.hexdigest()


@dataclass(frozen=True, slots=True)
class BoundedContributions:
    """The result of bounding, with the way back to the conversations that came in.

    Attributes:
        positions: index into the given conversations for each kept one, in the manifest's order.
        manifest: what the trainer re-checks.
    """

    positions: tuple[int, ...]
    manifest: ContributionManifest

    @classmethod
    def of(cls, graph: TalkGraph, choice: Choice, contribution_bound: int) -> BoundedContributions:
        """Return what was chosen of a graph."""
        manifest = ContributionManifest(contribution_bound, KeptConversations(graph, choice))
        return cls(positions=tuple(choice.positions.tolist()), manifest=manifest)


@dataclass(frozen=True, slots=True)
class CapReport:
    """What the cap kept and dropped. Shown to the member, never sent.

    Attributes:
        kept: kept conversations by label (1, 0, None).
        dropped: dropped conversations by label.
    """

    kept: Mapping[int | None, int]
    dropped: Mapping[int | None, int]


def bound_contributions(
    conversations: Sequence[Conversation], *, contribution_bound: int, secret: bytes
) -> BoundedContributions:
    """Keep conversations, in an order that a keyed hash of their ids decides, while every participant has room.

    Mechanism: greedy selection on the graph of who talked with whom.
    Unit: one participant, in at most k kept conversations.
    Assumes: the graph and the ids are not what is protected; ids are independent of content and label.
    Sensitivity: at most k kept examples hold any one participant.
    Source: Ganesh, McKenna, McMahan, Smith and Wu 2025, arXiv 2503.03622, section 3.

    Keeps at least 1/r of the best possible choice, r being the most participants of one conversation. A conversation
    without participants has nobody to attribute it to and is never kept.

    Args:
        conversations: the labelled conversations of one member.
        contribution_bound: k, at least 1.
        secret: the member's own key, at least 16 bytes.

    Raises:
        ConfigError: the bound or the secret is out of range. The operator's fault.
        DataError: two conversations have one id. The data owner's fault.
    """
    check_terms(contribution_bound, secret)
    graph = talk_graph(conversations, secret)
    return BoundedContributions.of(graph, choose_whole(graph, contribution_bound), contribution_bound)


def choose_whole(graph: TalkGraph, contribution_bound: int) -> Choice:
    """Return what `bound_contributions` keeps of a graph, in the order of the pseudonyms.

    Raises:
        DataError: two conversations have one id. The data owner's fault.
    """
    used = array("i", bytes(4 * len(graph.names)))
    positions = array("i")
    for position, people in graph.people_of(order_of(graph)):
        if people and _have_room(used, people, contribution_bound):
            for person in people:
                used[person] += 1
            positions.append(position)
    return Choice(np.array(positions, dtype=np.int32))


def fractional_weights(
    conversations: Sequence[Conversation], *, contribution_bound: int, secret: bytes
) -> BoundedContributions:
    """Keep every conversation and weigh down those of busy people, for plans that use the full batch.

    Mechanism: weight min(1, min over participants of k / number of their conversations), applied after clipping.
    Unit: one participant, whose weights sum to at most k.
    Assumes: as `bound_contributions`; every conversation is in every step (no sampling).
    Sensitivity: k times the clip norm for a participant, the clip norm for a conversation.
    Source: Ganesh et al. 2025, section 4 (fractional relaxation); the weights come from the graph alone.

    Args and errors are those of `bound_contributions`.
    """
    check_terms(contribution_bound, secret)
    graph = talk_graph(conversations, secret)
    return BoundedContributions.of(graph, choose_fractions(graph, contribution_bound), contribution_bound)


def choose_fractions(graph: TalkGraph, contribution_bound: int) -> Choice:
    """Return what `fractional_weights` keeps of a graph, in the order of the pseudonyms.

    Raises:
        DataError: two conversations have one id. The data owner's fault.
    """
    order = order_of(graph)
    positions = order[graph.sizes()[order] > 0].astype(np.int32)
    if not len(positions):
        return Choice(positions)
    kept = graph.only(positions)
    shares = contribution_bound / graph.degrees()[kept.people]
    weights = np.minimum(1.0, np.minimum.reduceat(shares, kept.starts[:-1]))
    return Choice(positions, weights)


def verify_manifest(manifest: ContributionManifest, *, contribution_bound: int) -> None:
    """Check again, from the manifest alone, that nobody counts more than the plan promises.

    Raises:
        BudgetError: somebody is over the bound, the manifest was made for a larger bound, a conversation is listed
            twice or belongs to nobody, a weight is out of range, or an example is in pieces. Training must not start.
    """
    hint = "Bound the contributions again with the plan's contribution_bound."
    if manifest.contribution_bound > contribution_bound:
        raise BudgetError("The data was bounded for a larger contribution bound than the plan's.", hint=hint)
    numbers = manifest.numbers()
    if numbers.a_conversation_repeats():
        raise BudgetError("A conversation stands twice in the manifest.", hint=hint)
    if numbers.a_row_lacks_people():
        raise BudgetError("A conversation of the manifest is not attributed to its participants.", hint=hint)
    if not ((numbers.weights > 0.0) & (numbers.weights <= 1.0)).all():
        raise BudgetError("A weight of the manifest is outside (0, 1].", hint=hint)
    if numbers.an_example_is_in_pieces():
        raise BudgetError("The conversations of an example do not lie together in the manifest.", hint=hint)
    if sizes_of_runs(numbers.examples).max(initial=1) > MOST_IN_AN_EXAMPLE:
        raise BudgetError("An example of the manifest has too many conversations.", hint=hint)
    if numbers.largest_contribution() > contribution_bound + _WEIGHT_TOLERANCE:
        raise BudgetError("A person takes part in more conversations than the plan allows.", hint=hint)


def report_cap(conversations: Sequence[Conversation], bounded: BoundedContributions) -> CapReport:
    """Count what the cap keeps and drops by label, for the member's own eyes."""
    kept_positions = set(bounded.positions)
    kept: Counter[int | None] = Counter()
    dropped: Counter[int | None] = Counter()
    for position, conversation in enumerate(conversations):
        (kept if position in kept_positions else dropped)[conversation.label] += 1
    return CapReport(kept=dict(kept), dropped=dict(dropped))


def normalise_participant(author: str) -> str:
    """Return one form for every spelling of an identifier: a person who changes case stays one person."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", author).casefold()).strip()


def participant_pseudonym(author: str, *, secret: bytes) -> str:
    """Return what a participant is called in manifests that were made with this secret."""
    return _person_digest(secret, author).hex()


def check_terms(contribution_bound: int, secret: bytes) -> None:
    """Refuse a bound or a secret that is out of range.

    Raises:
        ConfigError: it is. The operator's fault.
    """
    if contribution_bound < 1:
        raise ConfigError("The contribution bound must be at least 1.", hint="Correct it in the plan.")
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise ConfigError(
            f"The member's secret must have at least {MINIMUM_SECRET_BYTES} bytes.",
            hint="Let the agent make a new one.",
        )


def talk_graph_builder(secret: bytes) -> TalkGraphBuilder:
    """Return what makes the graph that is bounded, of conversations that are seen once."""
    return TalkGraphBuilder(
        conversation=partial(_digest, secret, "conversation"), person=partial(_person_digest, secret)
    )


def talk_graph(conversations: Iterable[Conversation], secret: bytes) -> TalkGraph:
    """Return the graph of conversations under pseudonyms."""
    builder = talk_graph_builder(secret)
    for conversation in conversations:
        builder.add(conversation)
    return builder.build()


def order_of(graph: TalkGraph) -> npt.NDArray[np.int64]:
    """Return the positions of the conversations in the order of their pseudonyms.

    Raises:
        DataError: two conversations have one id. The data owner's fault.
    """
    order = graph.order()
    for first in range(0, len(order) - 1, _BLOCK):
        pseudonyms = graph.conversations[order[first : first + _BLOCK + 1]]
        if (pseudonyms[1:] == pseudonyms[:-1]).all(axis=1).any():
            raise DataError(
                "Two conversations have the same id.",
                hint="Give each conversation an id of its own within the data set.",
            )
    return order


def _have_room(used: Sequence[int], people: Sequence[int], contribution_bound: int) -> bool:
    return all(used[person] < contribution_bound for person in people)


def _rows_of(kept: Sequence[KeptConversation]) -> Iterator[_Row]:
    if isinstance(kept, KeptConversations):
        return kept.rows(range(len(kept)))
    return ((row.pseudonym, row.participants, row.weight, row.group) for row in kept)


def _numbers_of(kept: Sequence[KeptConversation]) -> ManifestNumbers:
    conversations: dict[str, int] = {}
    people: dict[str, int] = {}
    sizes = [len(row.participants) for row in kept]
    return ManifestNumbers(
        conversations=_numbered([row.pseudonym for row in kept], conversations),
        starts=np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))),
        people=_numbered([person for row in kept for person in row.participants], people),
        weights=np.array([row.weight for row in kept], dtype=np.float64),
        examples=_numbered([row.example for row in kept], conversations),
    )


def _numbered(names: Sequence[str], known: dict[str, int]) -> npt.NDArray[np.int64]:
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)


def _person_digest(secret: bytes, author: str) -> bytes:
    return _digest(secret, "participant", normalise_participant(author))


def _digest(secret: bytes, kind: str, value: str) -> bytes:
    return hmac.digest(secret, f"{kind}|{value}".encode(), "sha256")
