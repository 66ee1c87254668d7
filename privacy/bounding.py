"""How often one person may count: which conversations are used, so that nobody is in more than k of them.

A conversation belongs to everyone who takes part in it. The choice depends on who talked with whom and on a secret key,
never on what was said or how it was labelled: ordering by label or text would itself reveal content.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ringfence.model.conversation import Conversation
from ringfence.model.errors import BudgetError, ConfigError, DataError

MINIMUM_SECRET_BYTES = 16
_WEIGHT_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class KeptConversation:
    """One row of a manifest.

    Attributes:
        pseudonym: keyed hash of the conversation's id.
        participants: keyed hashes of everyone in it, sorted, without repetition.
        weight: factor on its clipped gradient, in (0, 1]; 1 where nothing is fractional.
    """

    pseudonym: str
    participants: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ContributionManifest:
    """What the trainer re-checks: which conversations are used, under pseudonyms. It stays at the member.

    Attributes:
        contribution_bound: k, the most that all conversations of one person weigh together.
        kept: one row for each training example, in the order of the examples.
    """

    contribution_bound: int
    kept: tuple[KeptConversation, ...]

    @property
    def largest_contribution(self) -> float:
        """Return the largest weight that the conversations of any one person sum to; 0 for an empty manifest."""
        totals: dict[str, float] = {}
        for row in self.kept:
            for participant in row.participants:
                totals[participant] = totals.get(participant, 0.0) + row.weight
        return max(totals.values(), default=0.0)

    @property
    def weights(self) -> tuple[float, ...]:
        """Return each example's weight, in the order of the examples."""
        return tuple(row.weight for row in self.kept)

    def digest(self) -> str:
        """Return a SHA-256 over every row, in hexadecimal: names this choice in the member's own ledger."""
        state = hashlib.sha256(f"{self.contribution_bound}".encode())
        for row in self.kept:
            state.update(f"|{row.pseudonym}|{','.join(row.participants)}|{row.weight!r}".encode())
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
    _check_terms(contribution_bound, secret)
    rows = _pseudonymous_rows(conversations, secret)
    used: Counter[str] = Counter()
    positions: list[int] = []
    for position in sorted(range(len(rows)), key=lambda index: rows[index].pseudonym):
        participants = rows[position].participants
        if participants and all(used[participant] < contribution_bound for participant in participants):
            used.update(participants)
            positions.append(position)
    return _bounded(rows, positions, contribution_bound)


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
    _check_terms(contribution_bound, secret)
    rows = _pseudonymous_rows(conversations, secret)
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
    return _bounded(weighted, positions, contribution_bound)


def verify_manifest(manifest: ContributionManifest, *, contribution_bound: int) -> None:
    """Check again, from the manifest alone, that nobody counts more than the plan promises.

    Raises:
        BudgetError: somebody is over the bound, the manifest was made for a larger bound, a conversation is listed
            twice or belongs to nobody, or a weight is out of range. Training must not start.
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


def _check_terms(contribution_bound: int, secret: bytes) -> None:
    if contribution_bound < 1:
        raise ConfigError("The contribution bound must be at least 1.", hint="Correct it in the plan.")
    if len(secret) < MINIMUM_SECRET_BYTES:
        raise ConfigError(
            f"The member's secret must have at least {MINIMUM_SECRET_BYTES} bytes.",
            hint="Let the agent make a new one.",
        )


def _pseudonymous_rows(conversations: Sequence[Conversation], secret: bytes) -> list[KeptConversation]:
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


def _bounded(
    rows: Sequence[KeptConversation], positions: Sequence[int], contribution_bound: int
) -> BoundedContributions:
    manifest = ContributionManifest(contribution_bound, tuple(rows[position] for position in positions))
    return BoundedContributions(positions=tuple(positions), manifest=manifest)
