"""How often one person may count: which conversations are used, so that nobody is in more than k of them.

A conversation belongs to everyone who takes part in it. The choice depends on who talked with whom and on a secret key,
never on what was said or how it was labelled: ordering by label or text would itself reveal content.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ringfence.model.conversation import Conversation
from ringfence.model.errors import BudgetError, ConfigError, DataError

MINIMUM_SECRET_BYTES = 16
_WEIGHT_TOLERANCE = 1e-9

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


@dataclass(frozen=True, slots=True)
class ContributionManifest:
    """What the trainer re-checks: which conversations are used, under pseudonyms. It stays at the member.

    Attributes:
        contribution_bound: k, the most that one person counts for.
        kept: one row for each conversation, in the order of their rows of features; those of one example lie together.
    """

    contribution_bound: int
    kept: tuple[KeptConversation, ...]

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
        totals: dict[str, float] = {}
        for rows in self.examples():
            weights: dict[str, list[float]] = {}
            for row in rows:
                for participant in row.participants:
                    weights.setdefault(participant, []).append(row.weight)
            for participant, own in weights.items():
                most = 1.0 if len(own) == len(rows) else 2.0
                totals[participant] = totals.get(participant, 0.0) + min(sum(own), most)
        return max(totals.values(), default=0.0)

    @property
    def most_examples(self) -> int:
        """Return the largest number of examples that any one person is in; 0 for an empty manifest."""
        counts: Counter[str] = Counter()
        for rows in self.examples():
            counts.update({participant for row in rows for participant in row.participants})
        return max(counts.values(), default=0)

    @property
    def weights(self) -> tuple[float, ...]:
        """Return each conversation's weight, in the order of the rows."""
        return tuple(row.weight for row in self.kept)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Return how many conversations each example has, in the order of the rows."""
        return tuple(len(rows) for rows in self.examples())

    def digest(self) -> str:
        """Return a SHA-256 over every row, in hexadecimal: names this choice in the member's own ledger."""
        state = hashlib.sha256(f"{self.contribution_bound}".encode())
        for row in self.kept:
            grouped = f"|{row.group}" if row.group else ""
            state.update(f"|{row.pseudonym}|{','.join(row.participants)}|{row.weight!r}{grouped}".encode())
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
    def of(
        cls, rows: Sequence[KeptConversation], positions: Sequence[int], contribution_bound: int
    ) -> BoundedContributions:
        """Return the rows at some positions, in that order."""
        manifest = ContributionManifest(contribution_bound, tuple(rows[position] for position in positions))
        return cls(positions=tuple(positions), manifest=manifest)


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
    rows = pseudonymous_rows(conversations, secret)
    positions = greedy_positions(rows, contribution_bound=contribution_bound)
    return BoundedContributions.of(rows, positions, contribution_bound)


def greedy_positions(rows: Sequence[KeptConversation], *, contribution_bound: int) -> list[int]:
    """Return which rows `bound_contributions` keeps, in the order of their pseudonyms."""
    used: Counter[str] = Counter()
    positions: list[int] = []
    for position in sorted(range(len(rows)), key=lambda index: rows[index].pseudonym):
        participants = rows[position].participants
        if participants and all(used[participant] < contribution_bound for participant in participants):
            used.update(participants)
            positions.append(position)
    return positions


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
    rows = pseudonymous_rows(conversations, secret)
    degree = Counter(participant for row in rows for participant in row.participants)
    weighted = [
        KeptConversation(
            pseudonym=row.pseudonym,
            participants=row.participants,
            weight=min(1.0, *(contribution_bound / degree[participant] for participant in row.participants)),
        )
        if row.participants
        else row
        for row in rows
    ]
    positions = [index for index, row in enumerate(weighted) if row.participants]
    positions.sort(key=lambda index: weighted[index].pseudonym)
    return BoundedContributions.of(weighted, positions, contribution_bound)


def verify_manifest(manifest: ContributionManifest, *, contribution_bound: int) -> None:
    """Check again, from the manifest alone, that nobody counts more than the plan promises.

    Raises:
        BudgetError: somebody is over the bound, the manifest was made for a larger bound, a conversation is listed
            twice or belongs to nobody, a weight is out of range, or an example is in pieces. Training must not start.
    """
    hint = "Bound the contributions again with the plan's contribution_bound."
    if manifest.contribution_bound > contribution_bound:
        raise BudgetError("The data was bounded for a larger contribution bound than the plan's.", hint=hint)
    if len({row.pseudonym for row in manifest.kept}) != len(manifest.kept):
        raise BudgetError("A conversation stands twice in the manifest.", hint=hint)
    for row in manifest.kept:
        if not row.participants or len(set(row.participants)) != len(row.participants):
            raise BudgetError(
                "A conversation of the manifest is not attributed to its participants.", hint=hint
            )
        if not (math.isfinite(row.weight) and 0.0 < row.weight <= 1.0):
            raise BudgetError("A weight of the manifest is outside (0, 1].", hint=hint)
    names = [rows[0].example for rows in manifest.examples()]
    if len(set(names)) != len(names):
        raise BudgetError("The conversations of an example do not lie together in the manifest.", hint=hint)
    if max(manifest.group_sizes, default=1) > MOST_IN_AN_EXAMPLE:
        raise BudgetError("An example of the manifest has too many conversations.", hint=hint)
    if manifest.largest_contribution > contribution_bound + _WEIGHT_TOLERANCE:
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
    return _pseudonym(secret, "participant", normalise_participant(author))


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


def pseudonymous_rows(conversations: Sequence[Conversation], secret: bytes) -> list[KeptConversation]:
    """Return a row for each conversation, in their order, as if all were kept.

    Raises:
        DataError: two conversations have one id. The data owner's fault.
    """
    rows = [
        KeptConversation(
            pseudonym=_pseudonym(secret, "conversation", conversation.id),
            participants=tuple(
                sorted({participant_pseudonym(author, secret=secret) for author in conversation.participants})
            ),
        )
        for conversation in conversations
    ]
    if len({row.pseudonym for row in rows}) != len(rows):
        raise DataError(
            "Two conversations have the same id.",
            hint="Give each conversation an id of its own within the data set.",
        )
    return rows


def _pseudonym(secret: bytes, kind: str, value: str) -> str:
    return hmac.new(secret, f"{kind}|{value}".encode(), hashlib.sha256).hexdigest()
