"""Quality from a noised histogram of scores by label: what it says, and how far off it may be.

Everything here is computed from counts that are private already. Counts that noise made negative are mended without
changing their sum, and each figure comes with an interval that holds what the noise and the bins may have done to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import DataError

Counts = npt.NDArray[np.integer] | npt.NDArray[np.floating]
FloatCounts = npt.NDArray[np.float64]

BIN_EDGES: FloatCounts = np.linspace(-3.5, 3.5, 15)
"""Edges of the bins on the score (log-odds), the same for everybody and for ever; a bin holds its lower edge."""

BINS = len(BIN_EDGES) + 1
"""Two more than gaps between edges are open: everything below the first and above the last."""

_REPEATS = 400
_PLACES: FloatCounts = ((np.arange(32) + 0.5) / 32)[:, None]
_SEED = 20_26  # of the simulated noise below, which protects nobody
_LEVEL = 0.95
_ENOUGH = 3.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and what it may be.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: its upper end; in 95 of 100 evaluations the figure without noise and bins lies between.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """How often a bin's conversations are positive.

    Attributes:
        low: lower edge on the score; minus infinity for the first.
        high: upper edge; infinity for the last.
        positive_share: of the bin's conversations, with the interval that noise alone explains; None where the noise is
            larger than the bin.
        expected_low: what the sigmoid of the score expects at the lower edge.
        expected_high: and at the upper edge.
    """

    low: float
    high: float
    positive_share: Estimate | None
    expected_low: float
    expected_high: float


@dataclass(frozen=True, slots=True)
class HistogramQuality:
    """What a histogram says of a detector.

    Attributes:
        auroc: area under the receiver operating characteristic.
        average_precision: area under precision over recall.
        precision_at_capacity: share of positives among the highest scores that fit the capacity.
        capacity: share of conversations that can be reviewed.
        positives: conversations with label 1, with the interval of the noise.
        negatives: conversations with label 0, the same.
        calibration: one row a bin.
    """

    auroc: Estimate
    average_precision: Estimate
    precision_at_capacity: Estimate
    capacity: float
    positives: Estimate
    negatives: Estimate
    calibration: tuple[CalibrationBin, ...]


def quality_of_histogram(
    histogram: Counts, *, noise_deviation: float, capacity: float = 0.05
) -> HistogramQuality:
    """Return what a noised histogram says of a detector.

    The intervals hold two errors: that of the noise, by drawing the same noise again around the mended counts; and that of
    the bins, within which the order of scores is unknown. Which conversations the companies happen to have is a third,
    and is not in them.

    Args:
        histogram: ``(2 * BINS,)``, the bins of label 0 and then those of label 1; counts may be negative.
        noise_deviation: standard deviation of the noise on each count, all members together; public.
        capacity: share of conversations that can be reviewed, in (0, 1].

    Raises:
        DataError: the histogram has another shape, or holds too little of one label to say anything beyond the noise.

    Source: Wang et al. 2020, "Locally Differentially Private Frequency Estimation with Consistency", section 4 (norm-sub).
    """
    if histogram.shape != (2 * BINS,) or not 0 < capacity <= 1 or not noise_deviation >= 0:
        raise DataError("A histogram of scores has another shape.", hint="Check the caller.")
    raw = np.asarray(histogram, dtype=np.float64).reshape(2, BINS)
    total_deviation = noise_deviation * math.sqrt(BINS)
    if (raw.sum(axis=1) <= max(_ENOUGH * total_deviation, 0.5)).any():
        raise DataError(
            "The histogram holds no more of one label than its noise may have made.",
            hint="Evaluate with more members, or with less noise.",
        )
    counts = mend_counts(raw)
    # The generator is seeded on purpose: these draws explain the noise that was added; they are not that noise.
    again = np.random.default_rng(_SEED).normal(0.0, noise_deviation, (_REPEATS, 2, BINS))
    repeated = [mend_counts(counts + draw) for draw in again]
    at_capacity = partial(precision_at_capacity_of, capacity=capacity)
    return HistogramQuality(
        auroc=_estimate(auroc_of, counts, repeated),
        average_precision=_estimate(average_precision_of, counts, repeated),
        precision_at_capacity=_estimate(at_capacity, counts, repeated),
        capacity=capacity,
        positives=_total(raw[1], total_deviation),
        negatives=_total(raw[0], total_deviation),
        calibration=tuple(_calibration(counts, noise_deviation)),
    )


def mend_counts(counts: FloatCounts) -> FloatCounts:
    """Return counts without negative ones, each row's sum kept: the nearest such counts.

    Args:
        counts: ``(rows, bins)``.

    Returns:
        ``(rows, bins)``, each at least 0; a row whose sum is not above 0 becomes zeros.
    """
    mended = np.zeros_like(counts)
    for place, row in enumerate(counts):
        total = float(row.sum())
        if total <= 0:
            continue
        # Projection onto the simplex: subtract the one number that makes the rest sum to the total.
        falling = np.sort(row)[::-1]
        excess = (np.cumsum(falling) - total) / np.arange(1, len(row) + 1)
        last = int(np.nonzero(falling > excess)[0][-1])
        mended[place] = np.maximum(row - excess[last], 0.0)
    return mended


def auroc_of(counts: FloatCounts) -> tuple[float, float, float]:
    """Return the area under ROC, ties within a bin counting half, and its least and most for any order within bins."""
    negatives, positives = counts
    below = np.cumsum(negatives) - negatives
    pairs = negatives.sum() * positives.sum()
    if pairs <= 0:
        return 0.5, 0.0, 1.0
    won, tied = float(positives @ below), float(positives @ negatives)
    return (won + tied / 2) / pairs, won / pairs, (won + tied) / pairs


def average_precision_of(counts: FloatCounts) -> tuple[float, float, float]:
    """Return average precision with the conversations of a bin in random order, and its least and most for any order."""
    negatives, positives = counts[0][::-1], counts[1][::-1]
    if positives.sum() <= 0:
        return 0.0, 0.0, 1.0
    found, passed = np.cumsum(positives) - positives, np.cumsum(negatives) - negatives
    shares = positives / positives.sum()
    # Precision as each next positive is found, averaged over a bin in which it comes at one place after the other.
    hits = found + _PLACES * positives
    value, least, most = (
        float((_share(hits, hits + passed + also) @ shares).mean())
        for also in (_PLACES * negatives, negatives, np.zeros_like(negatives))
    )
    return value, least, most


def precision_at_capacity_of(counts: FloatCounts, *, capacity: float) -> tuple[float, float, float]:
    """Return the share of positives among the reviewed, and its least and most for any order within the bin at the edge."""
    negatives, positives = counts[0][::-1], counts[1][::-1]
    places = capacity * float(counts.sum())
    if places <= 0:
        return 0.0, 0.0, 1.0
    both = positives + negatives
    before = np.cumsum(both) - both
    edge = int(np.nonzero(before < places)[0][-1])
    found, left = float(positives[:edge].sum()), places - float(before[edge])
    likely = found + left * positives[edge] / max(float(both[edge]), 1e-12)
    least = found + max(0.0, left - negatives[edge])
    most = found + min(left, positives[edge])
    return float(likely / places), float(least / places), float(most / places)


def _estimate(
    measure: Callable[[FloatCounts], tuple[float, float, float]],
    counts: FloatCounts,
    repeated: list[FloatCounts],
) -> Estimate:
    value, least, most = measure(counts)
    values = np.array([measure(again)[0] for again in repeated])
    # What the noise does to the mended counts it may have done to the true ones, in either direction.
    tail = (1 - _LEVEL) / 2
    half = float(np.abs(np.quantile(values, [tail, 1 - tail]) - value).max())
    return Estimate(value, max(0.0, least - half), min(1.0, most + half))


def _total(row: FloatCounts, deviation: float) -> Estimate:
    value = float(row.sum())
    return Estimate(value, max(0.0, value - 1.96 * deviation), value + 1.96 * deviation)


def _calibration(counts: FloatCounts, noise_deviation: float) -> list[CalibrationBin]:
    edges = [-math.inf, *map(float, BIN_EDGES), math.inf]
    rows = []
    for place, (low, high) in enumerate(pairwise(edges)):
        negative, positive = float(counts[0][place]), float(counts[1][place])
        both = negative + positive
        share = None
        if both > _ENOUGH * noise_deviation * math.sqrt(2) and both > 0:
            value = positive / both
            # Of a ratio of two noised counts, to first order.
            error = 1.96 * noise_deviation * math.hypot(value, 1 - value) / both
            share = Estimate(value, max(0.0, value - error), min(1.0, value + error))
        rows.append(CalibrationBin(low, high, share, _sigmoid(low), _sigmoid(high)))
    return rows


def _share(part: FloatCounts, whole: FloatCounts) -> FloatCounts:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _sigmoid(score: float) -> float:
    return 0.0 if score == -math.inf else 1.0 / (1.0 + math.exp(-score))
