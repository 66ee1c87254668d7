"""How well scores order conversations: ranking metrics, computed with ties handled and without further libraries."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import DataError

Labels = npt.NDArray[np.integer] | npt.NDArray[np.floating]
Scores = npt.NDArray[np.floating]

FEWEST_OF_A_LABEL = 10
"""Fewer positives, or fewer negatives, have no interval and fit no probability."""


def has_enough(labels: Labels) -> bool:
    """Return whether there are `FEWEST_OF_A_LABEL` of either label, 1 and 0."""
    positives = int((labels == 1).sum())
    return min(positives, len(labels) - positives) >= FEWEST_OF_A_LABEL


def area_under_roc(labels: Labels, scores: Scores) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; in [0, 1].

    Args:
        labels: (n,), 1 for positives and 0 for negatives.
        scores: (n,), higher means more likely positive.

    Raises:
        DataError: only one class is present, or the shapes differ. The caller's fault.

    Source: Hanley and McNeil 1982 (the Mann-Whitney form).
    """
    positive = _check(labels, scores)
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[place]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: Labels, scores: Scores) -> float:
    """Return the mean of precision over recall steps, without interpolation; in [0, 1].

    Equal scores form one step, so the order of the input does not matter.

    Args:
        labels: (n,), 1 for positives and 0 for negatives.
        scores: (n,), higher means more likely positive.

    Raises:
        DataError: only one class is present, or the shapes differ. The caller's fault.

    Source: Davis and Goadrich 2006; the form of scikit-learn's average_precision_score.
    """
    positive = _check(labels, scores)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    ranked = scores[order]
    step_ends = np.append(np.nonzero(np.diff(ranked))[0], len(ranked) - 1)
    precision = found[step_ends] / (step_ends + 1)
    recall = found[step_ends] / found[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_at_capacity(labels: Labels, scores: Scores, *, capacity: float) -> float:
    """Return the share of positives among the conversations that reviewers have time for; in [0, 1].

    Conversations that tie at the edge of the capacity share its last places.

    Args:
        labels: (n,), 1 for positives and 0 for negatives.
        scores: (n,), higher means more likely positive.
        capacity: share of all conversations that can be reviewed, in (0, 1]; at least one conversation is.

    Raises:
        DataError: capacity outside (0, 1], only one class, or the shapes differ. The caller's fault.
    """
    found, places = _found_at(labels, scores, capacity)
    return found / places


def recall_at_capacity(labels: Labels, scores: Scores, *, capacity: float) -> float:
    """Return the share of all positives that reviewers would see; arguments as in `precision_at_capacity`."""
    found, _ = _found_at(labels, scores, capacity)
    return found / int((np.asarray(labels) == 1).sum())


def _found_at(labels: Labels, scores: Scores, capacity: float) -> tuple[float, int]:
    if not 0 < capacity <= 1:
        raise DataError("A review capacity is a share of the conversations.", hint="Give a number in (0, 1].")
    positive = _check(labels, scores)
    places = max(1, math.floor(capacity * len(scores) + 1e-9))
    edge = np.sort(scores)[-places]
    above = scores > edge
    tied = scores == edge
    left = places - int(above.sum())
    return float(positive[above].sum() + positive[tied].sum() * left / tied.sum()), places


def _check(labels: Labels, scores: Scores) -> npt.NDArray[np.bool_]:
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise DataError("Labels and scores must be two lists of one length.", hint="Check the caller.")
    if not np.isfinite(scores).all():
        raise DataError("A score is not finite.", hint="Check the detector's parameters.")
    positive = np.asarray(labels == 1)
    if not (positive | (labels == 0)).all():
        raise DataError("A label is neither 0 nor 1.", hint="Map the labels first.")
    if not positive.any() or positive.all():
        raise DataError(
            "Quality needs positive and negative conversations.",
            hint="Evaluate on labelled data of both kinds.",
        )
    return positive
