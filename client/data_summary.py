"""What a member's conversations look like from outside: counts and spans, never text and never who.

For the member's own eyes. Nothing here is sent to anyone: counts of private data leave a company in no message.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ringfence.model.conversation import Conversation
from ringfence.privacy.bounding import bound_contributions, normalise_participant, report_cap

# Below this many of a kind, quality can neither be trained for nor measured.
_FEW = 30
# One account in a tenth of all conversations is rarely a person.
_EVERYWHERE = 0.1
_LATEST_PLAUSIBLE = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """Conversations by label.

    Attributes:
        positive: labelled 1.
        negative: labelled 0.
        undecided: without a label; not used in training.
    """

    positive: int
    negative: int
    undecided: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.positive + self.negative + self.undecided


@dataclass(frozen=True, slots=True)
class DataSummary:
    """A data set in numbers.

    Attributes:
        conversations: by label.
        messages: in all conversations together.
        median_length: messages of a middling conversation.
        longest: messages of the longest conversation.
        first_at: time of the earliest message, ISO 8601 in UTC, or None where no message has a time.
        last_at: of the latest.
        participants: people in all conversations together; spellings that differ in case are one person.
        largest_group: people in the conversation that has most.
        busiest: conversations of the person who is in most.
        contribution_bound: k, for the next two.
        kept: labelled conversations that training may use under the bound.
        dropped: labelled conversations that it leaves out.
        warnings: what the member should look at, in sentences.
    """

    conversations: LabelCounts
    messages: int
    median_length: float
    longest: int
    first_at: str | None
    last_at: str | None
    participants: int
    largest_group: int
    busiest: int
    contribution_bound: int
    kept: LabelCounts
    dropped: LabelCounts
    warnings: tuple[str, ...]


def summarise(
    conversations: Sequence[Conversation], *, contribution_bound: int, secret: bytes
) -> DataSummary:
    """Count what is there and what the contribution bound keeps of it.

    Args:
        conversations: at least one.
        contribution_bound: k, conversations of one person that training may use.
        secret: orders the conversations, as in training, at least 16 bytes.
    """
    labelled = [conversation for conversation in conversations if conversation.label is not None]
    cap = report_cap(
        labelled, bound_contributions(labelled, contribution_bound=contribution_bound, secret=secret)
    )
    people = [{normalise_participant(author) for author in item.participants} for item in conversations]
    degree = Counter(person for group in people for person in group)
    lengths = [len(item.messages) for item in conversations]
    times = [message.time for item in conversations for message in item.messages if message.time is not None]
    counts = _counts(Counter(item.label for item in conversations))
    busiest = max(degree.values(), default=0)
    return DataSummary(
        conversations=counts,
        messages=sum(lengths),
        median_length=statistics.median(lengths),
        longest=max(lengths),
        first_at=_iso(min(times)) if times else None,
        last_at=_iso(max(times)) if times else None,
        participants=len(degree),
        largest_group=max(len(group) for group in people),
        busiest=busiest,
        contribution_bound=contribution_bound,
        kept=_counts(cap.kept),
        dropped=_counts(cap.dropped),
        warnings=tuple(_warnings(conversations, counts, busiest=busiest, times=len(times))),
    )


def _counts(by_label: Mapping[int | None, int]) -> LabelCounts:
    return LabelCounts(
        positive=by_label.get(1, 0), negative=by_label.get(0, 0), undecided=by_label.get(None, 0)
    )


def _warnings(
    conversations: Sequence[Conversation], counts: LabelCounts, *, busiest: int, times: int
) -> list[str]:
    found = []
    for count, kind in ((counts.positive, "positive"), (counts.negative, "negative")):
        if count < _FEW:
            found.append(
                f"Only {count} conversations are labelled {kind}: too few to learn or to measure from."
            )
    empty = sum(1 for item in conversations if not item.messages)
    if empty:
        found.append(f"{empty} conversations have no messages; training never uses them.")
    if len(conversations) >= _FEW and busiest > _EVERYWHERE * len(conversations):
        found.append(
            f"One account takes part in {busiest} conversations. If it is a bot or a moderator, leave its messages "
            "out, or the bound drops most of them."
        )
    copies = (
        len(conversations) - len({_content_digest(item) for item in conversations if item.messages}) - empty
    )
    if copies:
        found.append(
            f"{copies} conversations repeat the words of another. Copies in training and in test make quality look "
            "better than it is."
        )
    unordered = sum(1 for item in conversations if _goes_back(item))
    if unordered:
        found.append(f"In {unordered} conversations the times go back: check that messages are in order.")
    if not times:
        found.append("No message has a time.")
    return found


def _content_digest(conversation: Conversation) -> bytes:
    digest = hashlib.sha256()
    for message in conversation.messages:
        digest.update(message.text.encode() + b"\x00")
    return digest.digest()


def _goes_back(conversation: Conversation) -> bool:
    times = [message.time for message in conversation.messages if message.time is not None]
    return any(later < earlier for earlier, later in itertools.pairwise(times))


def _iso(seconds: float) -> str:
    # Milliseconds where seconds belong, and years before 1, have no date.
    if not -_LATEST_PLAUSIBLE / 5 < seconds < _LATEST_PLAUSIBLE:
        return "out of range: times must be in seconds"
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")
