"""``ringfence score --capacity 50/day``: the conversations that reviewers have time for, highest first."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ringfence.client.contribution_key import contribution_secret
from ringfence.client.member_home import MemberHome
from ringfence.model.atomic_file import exclusive, write_atomically
from ringfence.model.errors import ConfigError
from ringfence.model.plan import describe
from ringfence.model.review_capacity import (
    Drift,
    QueueThreshold,
    RecentRate,
    ReviewQueue,
    ScoredOnce,
    choose_recent_threshold,
    choose_threshold,
    drift_of,
    is_flagged,
    recent_rate,
    recorded,
)

if TYPE_CHECKING:
    from ringfence.model.conversation import Conversation
    from ringfence.model.detector import Detector, Score


@dataclass(frozen=True, slots=True)
class Flagged:
    """A conversation for review.

    Attributes:
        score: of it.
        day: of its last message (UTC), today at the latest; None without times.
    """

    score: Score
    day: date | None


@dataclass(frozen=True, slots=True)
class Review:
    """What is for review.

    Attributes:
        flagged: conversations at or above the threshold, highest first; all of them without a threshold.
        scored: conversations in all.
        threshold: that was used; None while there is time for every conversation, so that none can be chosen.
        is_new: whether it was chosen just now.
        drift: of the newest days; None within bounds.
        recent: what the threshold flagged on the newest days, those that it was chosen on included; None without one.
    """

    flagged: tuple[Flagged, ...]
    scored: int
    threshold: QueueThreshold | None
    is_new: bool
    drift: Drift | None
    recent: RecentRate | None


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
        today: day of conversations without times, when they are first scored; the others count on the day of their last
            message (UTC), today at the latest.
        choose_anew: choose a threshold even if one holds, on the newest days.

    Raises:
        ConfigError: the history is damaged or cannot be written, or nothing was ever scored. The member's to mend.
        DataError: a conversation cannot be read. The data owner's to mend.
    """
    lines: list[tuple[str, date | None, Score]] = [
        (conversation.id, _day_of(conversation, today), score) for conversation, score in scored
    ]
    with _held(home):
        before = _load(home, detector)
        key = hmac.new(contribution_secret(home), b"ringfence review queue", hashlib.sha256).digest()
        queue = recorded(
            before,
            (
                ScoredOnce(day=day or today, key=_key(key, identifier, day), score=score.logit)
                for identifier, day, score in lines
            ),
        )
        threshold = queue.threshold
        is_new = choose_anew or threshold is None or threshold.per_day != per_day
        if is_new:
            choose = choose_recent_threshold if choose_anew else choose_threshold
            threshold = choose(queue, per_day=per_day)
            queue = queue.model_copy(update={"threshold": threshold})
        if queue != before:
            write_atomically(home.review_queue_file, queue.model_dump_json().encode() + b"\n")
    flagged = [
        Flagged(score, day)
        for _, day, score in lines
        if threshold is None or is_flagged(score.logit, threshold)
    ]
    return Review(
        flagged=tuple(sorted(flagged, key=lambda item: -item.score.logit)),
        scored=len(lines),
        threshold=threshold,
        is_new=is_new,
        drift=None if threshold is None else drift_of(queue, threshold),
        recent=None if threshold is None else recent_rate(queue, threshold),
    )


def _key(secret: bytes, identifier: str, day: date | None) -> str:
    """Return what tells a conversation on a day apart from all others, and names neither."""
    message = f"{day or ''}|{identifier}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:16]


def _day_of(conversation: Conversation, today: date) -> date | None:
    """Return the day of the last message; None without times."""
    times = [message.time for message in conversation.messages if message.time is not None]
    if not times:
        return None
    try:
        # A clock that is ahead must not make all other days old.
        return min(today, datetime.fromtimestamp(max(times), tz=UTC).date())
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
        content = home.review_queue_file.read_bytes()
        if _schema_version(content) == 1:
            return empty
        found = ReviewQueue.model_validate_json(content)
    except FileNotFoundError:
        return empty
    except ValidationError as error:
        raise ConfigError(
            f"{home.review_queue_file} is not in the agreed form: {describe(error)}",
            hint="Remove it; the threshold is chosen again from what is scored next.",
        ) from error
    # Scores of two releases do not compare: the new one begins a history of its own.
    return found if found.detector_sha256 == empty.detector_sha256 else empty


def _schema_version(content: bytes) -> object:
    try:
        held = json.loads(content)
    except ValueError:
        return None
    return held.get("schema_version") if isinstance(held, dict) else None
