"""A threshold from what reviewers have time for: how many conversations scored how high on which day, and what that asks for.

The threshold is chosen once and stays, so that a day with more flagged conversations than expected is seen for what it is: the
company's conversations changed, or the release no longer fits them.

Exports overlap: the last seven days every night, a file that grows every hour. So a conversation counts once for each of its
days, with the highest score that it had; and the newest day counts for nothing yet, because more of it may come.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from ringfence.model.errors import ConfigError
from ringfence.model.plan import Sha256

BIN_WIDTH = 0.05
"""Of a score: what is stored of a day is how many conversations lie in each bin."""

KEPT_DAYS = 60
RECENT_DAYS = 7
FALSE_ALARM = 1e-3
"""Chance that a look warns of drift although nothing changed, if what is flagged comes as a Poisson process."""

OVER_CAPACITY = 1e-2
"""Chance that a look warns of too many flagged conversations although just as many as there is time for are to be expected."""

OPEN_CONVERSATIONS = 200_000
"""Most conversations that are told apart, some 5 MB of the file: older days are closed, their counts stay."""

_HIGHEST_BIN = 20_000
_SHARE = re.compile(r"(\d*\.?\d+)(%?)")
_CAPACITY = re.compile(r"(\d+(?:\.\d+)?)(?:/(day|week))?")

ConversationKey = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


@dataclass(frozen=True, slots=True)
class ScoredOnce:
    """One conversation's score as a run gives it.

    Attributes:
        day: on which it counts, unless it has counted on another.
        key: keyed hash of the conversation and, where its messages have times, of the day; 16 hexadecimal digits.
        score: of the conversation.
    """

    day: date
    key: str
    score: float


class DayScores(BaseModel):
    """The scores of one day.

    Attributes:
        conversations: how many.
        bins: bin -> how many lie in it; bin i holds scores from ``i * BIN_WIDTH``.
        seen: conversation's key -> bin of its highest score; None once the day is closed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    conversations: Annotated[int, Field(ge=0)]
    bins: dict[int, Annotated[int, Field(ge=1)]]
    seen: dict[ConversationKey, int] | None = None


class QueueThreshold(BaseModel):
    """The score from which conversations are flagged.

    Attributes:
        per_day: conversations that reviewers have time for on one day.
        score: from which it is flagged.
        days: on which it was chosen.
        flagged: conversations of those days at or above it.
        last_day: the last of them.
        idle_days_count: whether days without a conversation are among them; so they are counted later on, too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    per_day: Annotated[float, Field(gt=0)]
    score: float
    days: Annotated[int, Field(ge=1)]
    flagged: Annotated[int, Field(ge=0)]
    last_day: date
    idle_days_count: bool = True


class ReviewQueue(BaseModel):
    """``review-queue.json`` of a member.

    Attributes:
        schema_version: of this form. The first one counted a conversation again in every run that held it.
        detector_sha256: whose scores these are.
        days: day -> its scores, of the newest `KEPT_DAYS` days of the calendar; days without a conversation are left out.
        threshold: in use; None before one is chosen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    detector_sha256: Sha256
    days: dict[date, DayScores] = {}
    threshold: QueueThreshold | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Another number of flagged conversations than the threshold was chosen for.

    Attributes:
        expected_per_day: when it was chosen.
        found_per_day: on the newest days that are over.
        days: how many those are.
        chance: of so large a difference if nothing changed.
    """

    expected_per_day: float
    found_per_day: float
    days: int
    chance: float


@dataclass(frozen=True, slots=True)
class RecentRate:
    """What a threshold flagged lately.

    Attributes:
        per_day: conversations, on average over the days.
        days: the newest that are complete, seven at most.
        is_over: whether that is more than reviewers have time for, by more than chance would bring.
    """

    per_day: float
    days: int
    is_over: bool


def parse_capacity(text: str) -> float:
    """Return how many conversations a day can be reviewed, from ``50/day``, ``350/week`` or ``50``.

    Raises:
        ConfigError: the text is none of them, or the number is 0. The operator's.
    """
    match = _CAPACITY.fullmatch(text.strip())
    number = float(match[1]) if match else 0.0
    # 0.05 alone is somebody's share of all conversations, not one every twenty days.
    if match is None or not 0 < number < math.inf or (number < 1 and match[2] is None):
        raise ConfigError(f"{text!r} is no review capacity.", hint="Write 50/day or 350/week.")
    return number / 7 if match[2] == "week" else number


@dataclass(frozen=True, slots=True)
class ReviewRate:
    """What reviewers have time for on one day.

    Attributes:
        per_day: conversations.
    """

    per_day: float


def parse_share_or_rate(text: str) -> float | ReviewRate:
    """Return a share of the conversations from ``0.05`` or ``5%``, or a rate from ``50/day`` or ``350/week``.

    Raises:
        ConfigError: the text is none of them. The operator's.
    """
    if "/" in text:
        return ReviewRate(parse_capacity(text))
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / (100.0 if match[2] else 1.0) if match else 0.0
    if not 0.0 < share <= 1.0:
        raise ConfigError(
            f"{text!r} is no review capacity.",
            hint="Write a share of the conversations, as 0.05 or 5%, or a number of them, as 50/day.",
        )
    return share


def share_of_rate(rate: ReviewRate, days: Sequence[date]) -> float:
    """Return which share of conversations a rate is, in (0, 1].

    Args:
        rate: of the reviewers.
        days: of the conversations, those between the first and the last included that have none.

    Raises:
        ConfigError: there is no day. The operator's.
    """
    if not days:
        raise ConfigError(
            "No conversation has a time, so a capacity of so many a day says nothing about them.",
            hint="Write a share of the conversations, as 0.05.",
        )
    return min(1.0, rate.per_day * ((max(days) - min(days)).days + 1) / len(days))


def recorded(queue: ReviewQueue, scores: Iterable[ScoredOnce]) -> ReviewQueue:
    """Return the queue with these scores: of each conversation and day the highest counts, however often it is scored.

    Scores of days that are closed, or older than the newest `KEPT_DAYS`, change nothing.
    """
    counted_on = {key: day for day, held in queue.days.items() for key in held.seen or {}}
    open_days = {day: dict(held.seen) for day, held in queue.days.items() if held.seen is not None}
    closed = {day: held for day, held in queue.days.items() if held.seen is None}
    oldest_open = max(closed, default=date.min)
    for item in scores:
        day = counted_on.setdefault(item.key, item.day)
        if day > oldest_open:
            seen = open_days.setdefault(day, {})
            seen[item.key] = max(_bin(item.score), seen.get(item.key, -_HIGHEST_BIN))
    newest = max((*open_days, *closed), default=date.min)
    days: dict[date, DayScores] = {}
    told_apart = 0
    for day in sorted((*open_days, *closed), reverse=True):
        if (newest - day).days >= KEPT_DAYS:
            break
        if day in closed:
            days[day] = closed[day]
            continue
        told_apart += len(open_days[day])
        # The newest day is never closed: it is still going on.
        days[day] = _day_of(open_days[day], closed=day != newest and told_apart > OPEN_CONVERSATIONS)
    return queue.model_copy(update={"days": dict(sorted(days.items()))})


def choose_threshold(queue: ReviewQueue, *, per_day: float) -> QueueThreshold | None:
    """Return the lowest threshold that flags no more than ``per_day`` conversations a day on average over the days held.

    The newest day is left out, unless it is the only one. None if there was time for every conversation: a threshold that
    flags everything says nothing about the days to come.

    Raises:
        ConfigError: no scores are held. The operator's.
    """
    if not queue.days:
        raise ConfigError(
            "No scores are held to choose a threshold from.",
            hint="Score conversations with --capacity first.",
        )
    first, last = min(queue.days), _last_complete(queue)
    return _lowest_with_room(
        _bins_between(queue.days, first, last),
        per_day=per_day,
        days=(last - first).days + 1,
        last_day=last,
        idle_days_count=True,
    )


def choose_recent_threshold(queue: ReviewQueue, *, per_day: float) -> QueueThreshold | None:
    """Return the threshold for how things are now: that of the newest `RECENT_DAYS` complete days with conversations.

    Days without any make no room here: after an idle week no more can be reviewed on a day than before it.
    If there was time for every conversation of these days, it is `choose_threshold`'s.

    Raises:
        ConfigError: no scores are held. The operator's.
    """
    over_all_days = choose_threshold(queue, per_day=per_day)
    last = _last_complete(queue)
    recent = sorted(day for day in queue.days if day <= last)[-RECENT_DAYS:]
    found = _lowest_with_room(
        _bins_between(queue.days, recent[0], last),
        per_day=per_day,
        days=len(recent),
        last_day=recent[-1],
        idle_days_count=False,
    )
    return found if found is not None else over_all_days


def _last_complete(queue: ReviewQueue) -> date:
    """Return the day before the newest, which may still go on; or the only one."""
    newest = max(queue.days)
    return newest if len(queue.days) == 1 else newest - timedelta(days=1)


def _lowest_with_room(
    together: Counter[int], *, per_day: float, days: int, last_day: date, idle_days_count: bool
) -> QueueThreshold | None:
    room = per_day * days
    if room >= together.total():
        return None
    flagged, lowest = 0, max(together) + 1
    for place in sorted(together, reverse=True):
        if flagged + together[place] > room:
            break
        flagged, lowest = flagged + together[place], place
    return QueueThreshold(
        per_day=per_day,
        score=lowest * BIN_WIDTH,
        days=days,
        flagged=flagged,
        last_day=last_day,
        idle_days_count=idle_days_count,
    )


def is_flagged(score: float, threshold: QueueThreshold) -> bool:
    """Return whether a conversation is for review; decided by bins, as the threshold was chosen."""
    return _bin(score) >= round(threshold.score / BIN_WIDTH)


def drift_of(queue: ReviewQueue, threshold: QueueThreshold) -> Drift | None:
    """Return how the newest days differ from those that the threshold was chosen on; None within Poisson's bounds.

    The newest day of all is left out: it may not be over. Days without a conversation count as days if they did when the
    threshold was chosen.

    Mechanism: of two Poisson processes of one rate, given the sum of their counts, the one is binomial by its share of the
    days; two-sided at `FALSE_ALARM`.
    Source: Przyborowski and Wilenski 1940 (the conditional test).
    """
    if not queue.days:
        return None
    last = max(queue.days) - timedelta(days=1)
    first = max(threshold.last_day, last - timedelta(days=RECENT_DAYS)) + timedelta(days=1)
    days = _days_between(queue, first, last, threshold)
    if days < 1:
        return None
    found = _flagged_between(queue, first, last, threshold)
    together = found + threshold.flagged
    share = days / (days + threshold.days)
    chance = min(
        1.0,
        2 * min(_binomial(together, share, 0, found), _binomial(together, share, found, together)),
    )
    if chance >= FALSE_ALARM:
        return None
    return Drift(
        expected_per_day=threshold.flagged / threshold.days,
        found_per_day=found / days,
        days=days,
        chance=chance,
    )


def recent_rate(queue: ReviewQueue, threshold: QueueThreshold) -> RecentRate | None:
    """Return how many conversations a day were flagged lately, whatever the threshold was chosen on; None without a day.

    It is over what there is time for if a Poisson process of just that rate brings so many less often than `OVER_CAPACITY`.
    """
    if not queue.days:
        return None
    last = _last_complete(queue)
    first = max(min(queue.days), last - timedelta(days=RECENT_DAYS - 1))
    if not threshold.idle_days_count:
        first = sorted(day for day in queue.days if day <= last)[-RECENT_DAYS:][0]
    days = _days_between(queue, first, last, threshold)
    found = _flagged_between(queue, first, last, threshold)
    return RecentRate(
        per_day=found / days,
        days=days,
        is_over=_poisson_at_least(found, mean=threshold.per_day * days) < OVER_CAPACITY,
    )


def _days_between(queue: ReviewQueue, first: date, last: date, threshold: QueueThreshold) -> int:
    if threshold.idle_days_count:
        return (last - first).days + 1
    return sum(first <= day <= last for day in queue.days)


def _flagged_between(queue: ReviewQueue, first: date, last: date, threshold: QueueThreshold) -> int:
    lowest = round(threshold.score / BIN_WIDTH)
    return sum(count for place, count in _bins_between(queue.days, first, last).items() if place >= lowest)


def _day_of(seen: dict[str, int], *, closed: bool) -> DayScores:
    bins = Counter(seen.values())
    return DayScores(conversations=len(seen), bins=dict(sorted(bins.items())), seen=None if closed else seen)


def _bins_between(days: Mapping[date, DayScores], first: date, last: date) -> Counter[int]:
    together: Counter[int] = Counter()
    for day, held in days.items():
        if first <= day <= last:
            together.update(held.bins)
    return together


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


def _poisson_at_least(count: int, *, mean: float) -> float:
    """Return the probability of ``count`` or more."""
    if count <= mean:
        return 1.0  # about a half or more: nothing that a bound in the tail asks for
    fewer = math.fsum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(count))
    return max(0.0, 1.0 - fewer)
