"""Figures from a histogram agree with those from the scores themselves, and their intervals hold what noise and bins do."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.model.errors import DataError
from ringfence.model.histogram_quality import BIN_EDGES, BINS, Estimate, mend_counts, quality_of_histogram
from ringfence.model.metrics import area_under_roc, average_precision, precision_at_capacity


def made_up(seed: int, *, positives: int = 600, negatives: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and labels of a middling detector."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(-1.8, 1.2, negatives), rng.normal(0.6, 1.4, positives)])
    return scores, np.repeat([0, 1], [negatives, positives])


def counted(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    bins = np.searchsorted(BIN_EDGES, scores, side="right")
    return np.bincount(labels * BINS + bins, minlength=2 * BINS)


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def test_without_noise_the_figures_are_those_of_the_scores_but_for_the_bins() -> None:
    scores, labels = made_up(1)
    quality = quality_of_histogram(counted(scores, labels), noise_deviation=0.0)
    for estimate, truth in (
        (quality.auroc, area_under_roc(labels, scores)),
        (quality.average_precision, average_precision(labels, scores)),
        (quality.precision_at_capacity, precision_at_capacity(labels, scores, capacity=0.05)),
    ):
        assert estimate.value == pytest.approx(truth, abs=0.01)
        assert holds(estimate, truth)
    assert quality.positives == Estimate(600, 600, 600)
    assert quality.negatives == Estimate(5000, 5000, 5000)


@pytest.mark.parametrize("deviation", [5.0, 15.0, 30.0])
def test_the_intervals_hold_the_figures_of_the_scores(deviation: float) -> None:
    """60 evaluations each; an interval that held only 80 of 100 would be found with probability above 0.99."""
    missed = {"auroc": 0, "average_precision": 0, "precision_at_capacity": 0, "positives": 0}
    for seed in range(60):
        scores, labels = made_up(seed)
        noise = np.rint(np.random.default_rng(1000 + seed).normal(0, deviation, 2 * BINS))
        quality = quality_of_histogram(counted(scores, labels) + noise, noise_deviation=deviation)
        missed["auroc"] += not holds(quality.auroc, area_under_roc(labels, scores))
        missed["average_precision"] += not holds(quality.average_precision, average_precision(labels, scores))
        missed["precision_at_capacity"] += not holds(
            quality.precision_at_capacity, precision_at_capacity(labels, scores, capacity=0.05)
        )
        missed["positives"] += not holds(quality.positives, 600)
    assert max(missed.values()) <= 7, missed


def test_more_noise_means_wider_intervals() -> None:
    scores, labels = made_up(2)
    widths = [
        quality.auroc.high - quality.auroc.low
        for quality in (
            quality_of_histogram(counted(scores, labels), noise_deviation=noise) for noise in (0, 5, 20)
        )
    ]
    assert widths == sorted(widths)
    assert widths[2] > 1.2 * widths[0]


def test_the_same_histogram_gives_the_same_figures() -> None:
    histogram = counted(*made_up(3))
    assert quality_of_histogram(histogram, noise_deviation=9.0) == quality_of_histogram(
        histogram, noise_deviation=9.0
    )


def test_calibration_says_nothing_about_bins_that_noise_fills() -> None:
    scores, labels = made_up(4)
    quality = quality_of_histogram(counted(scores, labels), noise_deviation=10.0)
    for row in quality.calibration:
        inside = (scores >= row.low) & (scores < row.high)
        assert row.expected_low < row.expected_high
        if row.positive_share is None:
            assert inside.sum() < 60
        else:
            assert holds(row.positive_share, labels[inside].mean())
    assert sum(row.positive_share is not None for row in quality.calibration) > BINS / 2


@pytest.mark.parametrize(
    ("given", "mended"),
    [
        ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0]),
        ([5.0, -1.0, 2.0], [4.5, 0.0, 1.5]),
        ([4.0, -9.0, 6.0], [0.0, 0.0, 1.0]),
        ([-1.0, -2.0, 1.0], [0.0, 0.0, 0.0]),
    ],
)
def test_negative_counts_are_mended_without_changing_the_sum(given: list[float], mended: list[float]) -> None:
    assert mend_counts(np.array([given]))[0] == pytest.approx(mended)


@pytest.mark.parametrize(
    ("histogram", "noise"),
    [
        (np.zeros(2 * BINS), 1.0),
        (np.zeros(2 * BINS), 0.0),
        (np.concatenate([np.full(BINS, 50.0), np.zeros(BINS)]), 1.0),
        (np.concatenate([np.full(BINS, 50.0), np.full(BINS, 2.0)]), 10.0),
        (np.ones(2 * BINS - 1), 0.0),
        (np.ones((2, BINS)), 0.0),
    ],
)
def test_a_histogram_that_says_nothing_gives_no_figures(histogram: np.ndarray, noise: float) -> None:
    with pytest.raises(DataError):
        quality_of_histogram(histogram, noise_deviation=noise)
