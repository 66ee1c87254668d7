"""What a member's conversations look like from outside: counts and spans, never text and never who.

For the member's own eyes. Nothing here is sent to anyone: counts of private data leave a company in no message.
Conversations are gone through one by one, so that memory grows with people and conversations, never with words.
"""

from __future__ import annotations

import gc
import itertools
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from ringfence.client.data_leaks import LeakSearch
from ringfence.model.bounds import RECOMMENDED_BOUNDS, Bounds
from ringfence.model.conversation import Conversation
from ringfence.model.language import OTHER_LANGUAGE_SHARE, count_languages, other_language_share
from ringfence.privacy.bounding import check_terms, talk_graph_builder
from ringfence.privacy.grouping import CHOICES
from ringfence.privacy.manifest_numbers import sizes_of_runs

# Below this many of a kind, quality can neither be trained for nor measured.
_FEW = 30
# One account in a tenth of all conversations is rarely a person.
_EVERYWHERE = 0.1
_LATEST_PLAUSIBLE = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
_LANGUAGE_SAMPLE = 1_000
_UNDECIDED = -1
_OLDEST_CHAT = datetime(1990, 1, 1, tzinfo=UTC).timestamp()
_NEWEST_CHAT = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_FINER_UNITS = (("milliseconds", 1_000), ("microseconds", 1_000_000), ("nanoseconds", 1_000_000_000))


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
        median_group: people in a middling conversation.
        largest_group: people in the conversation that has most.
        busiest: conversations of the person who is in most.
        contribution_bound: k, for the next three.
        bounds: how it is kept; see `ringfence.model.plan.PrivacyTerms`.
        kept: labelled conversations that training may use under the bound.
        dropped: labelled conversations that it leaves out.
        examples: training examples that those kept are.
        languages: share of each language in a sample of at most 1,000 conversations, largest first.
        warnings: what the member should look at, in sentences.
    """

    conversations: LabelCounts
    messages: int
    median_length: float
    longest: int
    first_at: str | None
    last_at: str | None
    participants: int
    median_group: float
    largest_group: int
    busiest: int
    contribution_bound: int
    bounds: Bounds
    kept: LabelCounts
    dropped: LabelCounts
    examples: int
    languages: Mapping[str, float]
    warnings: tuple[str, ...]


def summarise(
    conversations: Sequence[Conversation],
    *,
    contribution_bound: int,
    bounds: Bounds = RECOMMENDED_BOUNDS,
    secret: bytes,
    part: Callable[[int], int] | None = None,
) -> DataSummary:
    """Count what is there and what the contribution bound keeps of it.

    Args:
        conversations: at least one.
        contribution_bound: k, the most that one person's conversations count for.
        bounds: how it is kept.
        secret: orders the conversations, as in training, at least 16 bytes.
        part: of several files, which one the conversation at a position came from; None where there is one.
    """
    check_terms(contribution_bound, secret)
    # What the reading remembered to be fast refers to itself, and would lie beside what is counted here.
    gc.collect()
    counted = _Counted()
    leaks = LeakSearch()
    builder = talk_graph_builder(secret)
    for position, conversation in enumerate(conversations):
        counted.add(conversation)
        people = builder.add(conversation)
        leaks.add(conversation, people=people, part=0 if part is None else part(position))
    graph = builder.build()
    labels = np.frombuffer(counted.labels, dtype=np.int8)
    decided = labels != _UNDECIDED
    chosen = CHOICES[bounds](
        graph if decided.all() else graph.only(np.flatnonzero(decided)), contribution_bound
    )
    kept = _counts(labels[decided][chosen.positions])
    dropped = _counts(np.delete(labels[decided], chosen.positions))
    step = max(1, len(labels) // _LANGUAGE_SAMPLE)
    languages = count_languages(conversations[position] for position in range(0, len(labels), step))
    counts = _counts(labels)
    busiest = int(graph.degrees().max(initial=0))
    warnings = [
        *_warnings(counted, counts, busiest=busiest),
        *leaks.warnings(conversations),
        *_language_warnings(languages),
    ]
    return DataSummary(
        conversations=counts,
        messages=sum(counted.lengths),
        median_length=statistics.median(counted.lengths),
        longest=max(counted.lengths),
        first_at=_iso(counted.first) if counted.first is not None else None,
        last_at=_iso(counted.last) if counted.last is not None else None,
        participants=len(graph.names),
        median_group=statistics.median(graph.sizes().tolist()),
        largest_group=int(graph.sizes().max()),
        busiest=busiest,
        contribution_bound=contribution_bound,
        bounds=bounds,
        kept=kept,
        examples=len(sizes_of_runs(chosen.examples())),
        dropped=dropped,
        languages={name: count / languages.total() for name, count in languages.most_common()},
        warnings=tuple(warnings),
    )


class _Counted:
    """What one pass over the conversations counts."""

    def __init__(self) -> None:
        self.labels = array("b")
        self.lengths = array("q")
        self.first: float | None = None
        self.last: float | None = None
        self.empty = 0
        self.unordered = 0

    def add(self, conversation: Conversation) -> None:
        times = [message.time for message in conversation.messages if message.time is not None]
        self.labels.append(_UNDECIDED if conversation.label is None else conversation.label)
        self.lengths.append(len(conversation.messages))
        self.empty += not conversation.messages
        self.unordered += any(later < earlier for earlier, later in itertools.pairwise(times))
        if times:
            self.first = min(times) if self.first is None else min(self.first, *times)
            self.last = max(times) if self.last is None else max(self.last, *times)


def _counts(labels: npt.NDArray[np.int8]) -> LabelCounts:
    return LabelCounts(
        positive=int((labels == 1).sum()),
        negative=int((labels == 0).sum()),
        undecided=int((labels == _UNDECIDED).sum()),
    )


def _warnings(counted: _Counted, counts: LabelCounts, *, busiest: int) -> list[str]:
    found = []
    for count, kind in ((counts.positive, "positive"), (counts.negative, "negative")):
        if count < _FEW:
            found.append(
                f"Only {count} conversations are labelled {kind}: too few to learn or to measure from."
            )
    if counted.empty:
        found.append(f"{counted.empty} conversations have no messages; training never uses them.")
    if counts.total >= _FEW and busiest > _EVERYWHERE * counts.total:
        found.append(
            f"One account takes part in {busiest} conversations. If it is a bot or a moderator, leave its messages "
            "out, or most of them are dropped or count for little."
        )
    if counted.unordered:
        found.append(
            f"In {counted.unordered} conversations the times go back: check that messages are in order."
        )
    if counted.first is None:
        found.append("No message has a time.")
    return found + _time_warnings(counted)


def _time_warnings(counted: _Counted) -> list[str]:
    """Return what to do about times that are no dates; milliseconds where seconds belong are the usual reason."""
    strange = [time for time in (counted.first, counted.last) if time is not None and not _is_a_date(time)]
    if not strange:
        if counted.last is None or not 0 < counted.last < _OLDEST_CHAT:
            return []
        warning = (
            "All times lie before 1990, as bare dates (20240131), years and a spreadsheet's days do when they are taken for seconds: "
            "give seconds since 1970, or null where none is known."
        )
        return [warning]
    for unit, a_second in _FINER_UNITS:
        if any(_OLDEST_CHAT * a_second <= time < _NEWEST_CHAT * a_second for time in strange):
            warning = (
                f"Times look like {unit}: give seconds. In a query write sent_at / {a_second}.0 AS sent_at; in files of "
                f"whole conversations divide time by {a_second}."
            )
            return [warning]
    return ["Some times lie outside the calendar: give seconds since 1970, or null where none is known."]


def _language_warnings(languages: Counter[str]) -> list[str]:
    share = other_language_share(languages)
    if share < OTHER_LANGUAGE_SHARE:
        return []
    warning = (
        f"About {share:.0%} of the conversations are not in English, which is what the detector was made for: expect it to "
        "miss much of what is in them."
    )
    return [warning]


def _is_a_date(seconds: float) -> bool:
    # Milliseconds where seconds belong, and years before 1, have no date.
    return -_LATEST_PLAUSIBLE / 5 < seconds < _LATEST_PLAUSIBLE


def _iso(seconds: float) -> str:
    if not _is_a_date(seconds):
        return "out of range: times must be in seconds"
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="seconds")
