"""A threshold from what reviewers have time for: how many conversations scored how high on which day, and what that asks for.

The threshold is chosen once and stays, so that a day with more flagged conversations than expected is seen for what it is: the
company's conversations changed, or the release no longer fits them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ringfence.model.errors import ConfigError
from ringfence.model.plan import Sha256

BIN_WIDTH = 0.05
"""Of a score: what is stored of a day is how many conversations lie in each bin, never which."""

KEPT_DAYS = 60
RECENT_DAYS = 7
FALSE_ALARM = 1e-3
"""Chance that a look warns of drift although nothing changed, if what is flagged comes as a Poisson process."""

_KEPT_RUNS = 1000
_HIGHEST_BIN = 20_000
_CAPACITY = re.compile(r"(\d+(?:\.\d+)?)(?:/(day|week))?")


class DayScores(BaseModel):
    """The scores of one day.

    Attributes:
        conversations: how many.
        bins: bin -> how many lie in it; bin i holds scores from ``i * BIN_WIDTH``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversations: Annotated[int, Field(ge=0)]
    bins: dict[int, Annotated[int, Field(ge=1)]]


class QueueThreshold(BaseModel):
    """The score from which conversations are flagged.

    Attributes:
        per_day: conversations that reviewers have time for on one day.
        score: from which it is flagged.
        days: on which it was chosen.
        flagged: conversations of those days at or above it.
        last_day: the last of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    per_day: Annotated[float, Field(gt=0)]
    score: float
    days: Annotated[int, Field(ge=1)]
    flagged: Annotated[int, Field(ge=0)]
    last_day: date


class ReviewQueue(BaseModel):
    """``review-queue.json`` of a member.

    Attributes:
        schema_version: of this form.
        detector_sha256: whose scores these are.
        days: day -> its scores, the newest `KEPT_DAYS`.
        runs: digests of what was recorded, so that the same file scored twice counts once.
        threshold: in use; None before one is chosen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    detector_sha256: Sha256
    days: dict[date, DayScores] = {}
    runs: tuple[Sha256, ...] = ()
    threshold: QueueThreshold | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Another number of flagged conversations than the threshold was chosen for.

    Attributes:
        expected_per_day: when it was chosen.
        found_per_day: on the newest days.
        days: how many those are.
        chance: of so large a difference if nothing changed.
    """

    expected_per_day: float
    found_per_day: float
    days: int
    chance: float


def parse_capacity(text: str) -> float:
    """Return how many conversations a day can be reviewed, from ``50/day``, ``350/week`` or ``50``.

    Raises:
        ConfigError: the text is none of them, or the number is 0. The operator's.
    """
    match = _CAPACITY.fullmatch(text.strip())
    number = float(match[1]) if match else 0.0
    if match is None or not 0 < number < math.inf:
        raise ConfigError(f"{text!r} is no review capacity.", hint="Write 50/day or 350/week.")
    return number / 7 if match[2] == "week" else number


def recorded(queue: ReviewQueue, scores: Iterable[tuple[date, float]], *, run: str) -> ReviewQueue:
    """Return the queue with the scores of a run, or as it is if that run is in it.

    Args:
        queue: so far.
        scores: day and score of each conversation.
        run: SHA-256 of what was scored, in hexadecimal.
    """
    if run in queue.runs:
        return queue
    counted: dict[date, Counter[int]] = {day: Counter(held.bins) for day, held in queue.days.items()}
    for day, score in scores:
        counted.setdefault(day, Counter())[_bin(score)] += 1
    newest = sorted(counted)[-KEPT_DAYS:]
    days = {
        day: DayScores(conversations=counted[day].total(), bins=dict(sorted(counted[day].items())))
        for day in newest
    }
    return queue.model_copy(update={"days": days, "runs": (*queue.runs, run)[-_KEPT_RUNS:]})


def choose_threshold(queue: ReviewQueue, *, per_day: float) -> QueueThreshold:
    """Return the lowest threshold that flags no more than ``per_day`` conversations a day on average over the days held.

    Raises:
        ConfigError: no scores are held. The operator's.
    """
    if not queue.days:
        raise ConfigError(
            "No scores are held to choose a threshold from.",
            hint="Score conversations with --capacity first.",
        )
    together: Counter[int] = Counter()
    for held in queue.days.values():
        together.update(held.bins)
    room = per_day * len(queue.days)
    flagged, lowest = 0, max(together) + 1
    for place in sorted(together, reverse=True):
        if flagged + together[place] > room:
            break
        flagged, lowest = flagged + together[place], place
    return QueueThreshold(
        per_day=per_day,
        score=lowest * BIN_WIDTH,
        days=len(queue.days),
        flagged=flagged,
        last_day=max(queue.days),
    )


def is_flagged(score: float, threshold: QueueThreshold) -> bool:
    """Return whether a conversation is for review; decided by bins, as the threshold was chosen."""
    return _bin(score) >= round(threshold.score / BIN_WIDTH)


def drift_of(queue: ReviewQueue, threshold: QueueThreshold) -> Drift | None:
    """Return how the newest days differ from those that the threshold was chosen on; None within Poisson's bounds.

    Mechanism: of two Poisson processes of one rate, given the sum of their counts, the one is binomial by its share of the
    days; two-sided at `FALSE_ALARM`.
    Source: Przyborowski and Wilenski 1940 (the conditional test).
    """
    recent = [day for day in sorted(queue.days) if day > threshold.last_day][-RECENT_DAYS:]
    if not recent:
        return None
    lowest = round(threshold.score / BIN_WIDTH)
    found = sum(count for day in recent for place, count in queue.days[day].bins.items() if place >= lowest)
    together = found + threshold.flagged
    share = len(recent) / (len(recent) + threshold.days)
    chance = min(
        1.0,
        2 * min(_binomial(together, share, 0, found), _binomial(together, share, found, together)),
    )
    if chance >= FALSE_ALARM:
        return None
    return Drift(
        expected_per_day=threshold.flagged / threshold.days,
        found_per_day=found / len(recent),
        days=len(recent),
        chance=chance,
    )


def _bin(score: float) -> int:
    place = math.floor(score / BIN_WIDTH + 1e-9)
    return max(-_HIGHEST_BIN, min(_HIGHEST_BIN, place))


def _binomial(trials: int, share: float, low: int, high: int) -> float:
    """Return the probability of ``low`` to ``high`` successes."""
    logarithms = [
        math.lgamma(trials + 1)
        - math.lgamma(count + 1)
        - math.lgamma(trials - count + 1)
        + count * math.log(share)
        + (trials - count) * math.log1p(-share)
        for count in range(low, high + 1)
    ]
    return math.fsum(math.exp(value) for value in logarithms)
