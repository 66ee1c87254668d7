"""Ranking metrics, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ringfence.model.errors import DataError
from ringfence.model.metrics import (
    area_under_roc,
    average_precision,
    precision_at_capacity,
    recall_at_capacity,
)


@pytest.mark.parametrize("distinct", [2, 5, 40, 10_000])
@pytest.mark.parametrize("size", [7, 200])
def test_ranking_metrics_agree_with_scikit_learn_however_many_scores_tie(size: int, distinct: int) -> None:
    rng = np.random.default_rng(size * distinct)
    for _ in range(20):
        labels = (rng.random(size) < 0.3).astype(int)
        labels[:2] = 0, 1
        scores = rng.integers(0, distinct, size) / 7.0
        assert area_under_roc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert average_precision(labels, scores) == pytest.approx(
            average_precision_score(labels, scores), abs=1e-12
        )


@pytest.mark.parametrize(
    ("labels", "scores", "capacity", "precision", "recall"),
    [
        ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], 0.25, 1.0, 0.5),
        ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], 0.5, 0.5, 0.5),
        ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], 1.0, 0.5, 1.0),
        ([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], 0.01, 1.0, 0.5),  # at least one conversation is reviewed
        ([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], 0.5, 0.25, 0.5),  # ties share the last places
    ],
)
def test_precision_and_recall_at_a_review_capacity_are_counted_by_hand(
    labels: list[int], scores: list[float], capacity: float, precision: float, recall: float
) -> None:
    given = np.array(labels), np.array(scores)
    assert precision_at_capacity(*given, capacity=capacity) == pytest.approx(precision)
    assert recall_at_capacity(*given, capacity=capacity) == pytest.approx(recall)


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([1, 1], [0.1, 0.2]),
        ([0, 0], [0.1, 0.2]),
        ([], []),
        ([0, 1], [0.1]),
        ([0, 2], [0.1, 0.2]),
        ([0, 1], [0.1, float("nan")]),
    ],
)
@pytest.mark.parametrize("metric", [area_under_roc, average_precision])
def test_quality_that_cannot_be_measured_is_an_error_and_not_a_number(metric, labels, scores) -> None:
    with pytest.raises(DataError):
        metric(np.array(labels, dtype=float), np.array(scores, dtype=float))


@pytest.mark.parametrize("capacity", [0.0, -0.1, 1.1])
def test_a_capacity_outside_its_range_is_refused(capacity: float) -> None:
    with pytest.raises(DataError):
        precision_at_capacity(np.array([0, 1]), np.array([0.1, 0.2]), capacity=capacity)
