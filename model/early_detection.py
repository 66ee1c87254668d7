"""How early a pattern is noticed: warnings that stay, and measures that count the messages before them.

A conversation is warned about once its running score reaches a threshold, and stays warned about whatever follows: a
moderator who was called cannot be called back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import DataError

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

NEVER = 0
"""In place of a message's number: there was no warning."""


@dataclass(frozen=True, slots=True)
class EarlyDetection:
    """What warnings at one threshold were worth.

    Attributes:
        warned: share of all conversations that were warned about, in [0, 1].
        precision: share of positives among them; None if there were none.
        recall: share of the positives that were warned about.
        f1: of both, 0 if nothing was found.
        speed: 1 less the median penalty of the positives that were found, in [0, 1]; None if none was.
        f_latency: f1 times speed.
        erde_5: early risk detection error with half of a late warning's cost after 5 messages; lower is better.
        erde_50: the same with 50.
        median_delay: messages up to the warning, the median of the positives that were found; None if none was.
    """

    warned: float
    precision: float | None
    recall: float
    f1: float
    speed: float | None
    f_latency: float
    erde_5: float
    erde_50: float
    median_delay: float | None


def first_warnings(timelines: Sequence[Float64Array], *, threshold: float) -> Int64Array:
    """Return the number of the message at which each conversation is warned about, from 1; `NEVER` if it is not.

    Args:
        timelines: score after each message, (messages,) each, at least one.
        threshold: a score at or above it warns.
    """
    reached = [np.flatnonzero(scores >= threshold) for scores in timelines]
    return np.array([int(where[0]) + 1 if where.size else NEVER for where in reached], dtype=np.int64)


def latency_penalty(messages: Int64Array, *, median_length: float) -> Float64Array:
    """Return the penalty of warnings after so many messages: 0 after the first, 1/2 after ``median_length``, then towards 1.

    Source: Sadeque, Xu, Bethard 2018; Vogt, Leser, Akbik 2021 (ACL), section 4: penalty(k) = -1 + 2 / (1 + exp(-p (k - 1))),
    p = ln 3 / (L - 1), with L the median length of the positive conversations.
    """
    rate = math.log(3.0) / max(median_length - 1.0, 1.0)
    result: Float64Array = -1.0 + 2.0 / (1.0 + np.exp(-rate * (messages - 1.0)))
    return result


def early_detection(
    labels: npt.NDArray[np.integer], warned_at: Int64Array, *, lengths: Int64Array
) -> EarlyDetection:
    """Return what warnings were worth.

    Args:
        labels: (n,), 1 for positives and 0 for negatives; both occur.
        warned_at: (n,), from `first_warnings`.
        lengths: (n,), messages of each whole conversation.

    Raises:
        DataError: a class is missing, or the shapes differ. The caller's data.
    """
    if labels.shape != warned_at.shape or labels.shape != lengths.shape:
        raise DataError("Labels, warnings and lengths differ in number.", hint="Score the same examples.")
    positive = labels == 1
    if not positive.any() or positive.all():
        raise DataError("Early detection needs both labels.", hint="Use a larger labelled set.")
    warned = warned_at != NEVER
    found = int((positive & warned).sum())
    precision = found / int(warned.sum()) if warned.any() else None
    recall = found / int(positive.sum())
    f1 = 2 * found / (int(warned.sum()) + int(positive.sum()))
    delays = warned_at[positive & warned]
    speed = None
    if found:
        median_length = float(np.median(lengths[positive]))
        speed = 1.0 - float(np.median(latency_penalty(delays, median_length=median_length)))
    return EarlyDetection(
        warned=float(warned.mean()),
        precision=precision,
        recall=recall,
        f1=f1,
        speed=speed,
        f_latency=f1 * (speed or 0.0),
        erde_5=_erde(positive, warned_at, half_cost_after=5),
        erde_50=_erde(positive, warned_at, half_cost_after=50),
        median_delay=float(np.median(delays)) if found else None,
    )


def _erde(positive: npt.NDArray[np.bool_], warned_at: Int64Array, *, half_cost_after: int) -> float:
    """Return the mean cost of a conversation: 1 if it is missed, the share of positives if it is flagged for nothing.

    Source: Losada and Crestani 2016 (CLEF): a right warning after k messages costs 1 - 1 / (1 + exp(k - o)).
    """
    warned = warned_at != NEVER
    # Far beyond o the cost is 1 to every digit; the bound keeps the exponential finite.
    lateness = 1.0 - 1.0 / (1.0 + np.exp(np.minimum(warned_at - half_cost_after, 700.0)))
    costs = np.where(positive, np.where(warned, lateness, 1.0), np.where(warned, float(positive.mean()), 0.0))
    return float(costs.mean())
