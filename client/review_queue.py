"""``ringfence score --capacity 50/day``: the conversations that reviewers have time for, highest first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.plan import describe
from ringfence.model.review_capacity import (
    Drift,
    QueueThreshold,
    ReviewQueue,
    choose_threshold,
    drift_of,
    is_flagged,
    recorded,
)

if TYPE_CHECKING:
    from ringfence.model.conversation import Conversation
    from ringfence.model.detector import Detector, Score


@dataclass(frozen=True, slots=True)
class Review:
    """What is for review.

    Attributes:
        flagged: scores at or above the threshold, highest first.
        scored: conversations in all.
        threshold: that was used.
        is_new: whether it was chosen just now.
        drift: of the newest days; None within bounds.
    """

    flagged: tuple[Score, ...]
    scored: int
    threshold: QueueThreshold
    is_new: bool
    drift: Drift | None


def review(
    detector: Detector,
    scored: Iterable[tuple[Conversation, Score]],
    *,
    home: MemberHome,
    per_day: float,
    today: date,
    choose_anew: bool = False,
) -> Review:
    """Record scores, choose a threshold if none holds for this capacity, and return what is for review.

    Args:
        detector: whose scores they are; those of another one are let go of.
        scored: conversations and their scores; all are read.
        home: the member's folder, where the history of scores lies.
        per_day: conversations that reviewers have time for.
        today: day of conversations without times; the others count on the day of their last message (UTC).
        choose_anew: choose a threshold even if one holds.

    Raises:
        ConfigError: the history is damaged or cannot be written, or nothing was ever scored. The member's to mend.
        DataError: a conversation cannot be read. The data owner's to mend.
    """
    lines: list[tuple[date, Score]] = []
    run = hashlib.sha256(detector.digest().encode())
    for conversation, score in scored:
        lines.append((_day_of(conversation, today), score))
        run.update(repr((conversation.id, score.logit)).encode("utf-8", "surrogatepass"))
    with _held(home):
        before = _load(home, detector)
        queue = recorded(before, ((day, score.logit) for day, score in lines), run=run.hexdigest())
        threshold = queue.threshold
        is_new = choose_anew or threshold is None or threshold.per_day != per_day
        if threshold is None or is_new:
            threshold = choose_threshold(queue, per_day=per_day)
            queue = queue.model_copy(update={"threshold": threshold})
        if queue != before:
            write_atomically(home.review_queue_file, queue.model_dump_json().encode() + b"\n")
    flagged = [score for _, score in lines if is_flagged(score.logit, threshold)]
    return Review(
        flagged=tuple(sorted(flagged, key=lambda score: -score.logit)),
        scored=len(lines),
        threshold=threshold,
        is_new=is_new,
        drift=drift_of(queue, threshold),
    )


def _day_of(conversation: Conversation, today: date) -> date:
    times = [message.time for message in conversation.messages if message.time is not None]
    try:
        return datetime.fromtimestamp(max(times), tz=UTC).date() if times else today
    except (OverflowError, ValueError, OSError):  # beyond the years that have dates
        return today


@contextmanager
def _held(home: MemberHome) -> Iterator[None]:
    """Keep every other process from recording meanwhile."""
    try:
        home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home.root / ".review-queue.lock"):
            yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or home.root} cannot be used: {error.strerror}.", hint="Check --home."
        ) from error


def _load(home: MemberHome, detector: Detector) -> ReviewQueue:
    empty = ReviewQueue(detector_sha256=detector.digest())
    try:
        found = ReviewQueue.model_validate_json(home.review_queue_file.read_bytes())
    except FileNotFoundError:
        return empty
    except ValidationError as error:
        raise ConfigError(
            f"{home.review_queue_file} is not in the agreed form: {describe(error)}",
            hint="Remove it; the threshold is chosen again from what is scored next.",
        ) from error
    # Scores of two releases do not compare: the new one begins a history of its own.
    return found if found.detector_sha256 == empty.detector_sha256 else empty
