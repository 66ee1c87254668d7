"""The figures of an evaluation, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from ringfence.model.errors import DataError
from ringfence.model.member_evaluation import (
    ScoredConversations,
    calibration_bins,
    evaluate_scores,
    threshold_for,
)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@pytest.fixture
def scored() -> ScoredConversations:
    generator = np.random.default_rng(3)
    labels = (generator.uniform(size=400) < 0.2).astype(np.int64)
    lengths = generator.integers(1, 80, size=400)
    timelines = tuple(
        np.linspace(-3, -3 + 4 * label + generator.normal(), length)
        for label, length in zip(labels, lengths, strict=True)
    )
    return ScoredConversations(
        labels=labels,
        timelines=timelines,
        public_scores=generator.normal(size=400) + labels,
        lengths=lengths,
        people=generator.integers(1, 5, size=400),
        platforms=tuple("ab"[index % 2] for index in range(400)),
    )


def ranked(labels: np.ndarray, scores: np.ndarray) -> ScoredConversations:
    """Return conversations of one message with these scores."""
    ones = np.ones(len(labels), dtype=np.int64)
    return ScoredConversations(
        labels=labels,
        timelines=tuple(np.array([value]) for value in scores),
        public_scores=scores,
        lengths=ones,
        people=ones,
        platforms=(None,) * len(labels),
    )


def evaluate(scored: ScoredConversations, **changes: object):
    given = {"probabilities": sigmoid, "capacity": 0.1, "rng": np.random.default_rng(0), **changes}
    return evaluate_scores(scored, **given)


def test_the_figures_are_those_of_the_reference(scored: ScoredConversations) -> None:
    found = evaluate(scored)
    assert found.conversations == 400
    assert found.positives == scored.labels.sum()
    assert found.release.auroc.value == pytest.approx(roc_auc_score(scored.labels, scored.scores))
    assert found.release.average_precision.value == pytest.approx(
        average_precision_score(scored.labels, scored.scores)
    )
    assert found.public_head.auroc.value == pytest.approx(roc_auc_score(scored.labels, scored.public_scores))
    assert found.brier == pytest.approx(brier_score_loss(scored.labels, sigmoid(scored.scores)))
    top = np.argsort(-scored.scores)[:40]
    assert found.release.precision_at_capacity == pytest.approx(scored.labels[top].mean())
    for estimate in (found.release.auroc, found.public_head.average_precision):
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize(
    ("positives", "negatives", "has_interval"),
    [(1, 2, False), (2, 2, False), (9, 200, False), (200, 9, False), (10, 10, True), (10, 200, True)],
)
def test_a_handful_of_a_label_has_no_interval(positives: int, negatives: int, has_interval: bool) -> None:
    labels = np.array([1] * positives + [0] * negatives)
    found = evaluate(ranked(labels, np.random.default_rng(1).normal(size=len(labels)) + labels)).release
    for estimate in (found.auroc, found.average_precision):
        assert (estimate.low is not None, estimate.high is not None) == (has_interval, has_interval)


@pytest.mark.parametrize("apart", [0.0, 1.0], ids=["all scores tie", "labels stand apart"])
def test_where_every_sample_is_alike_there_is_no_interval(apart: float) -> None:
    labels = np.array([1] * 12 + [0] * 30)
    found = evaluate(ranked(labels, apart * labels)).release.auroc
    assert (found.low, found.high) == (None, None)


def test_quality_grows_with_what_was_seen_and_ends_at_the_whole(scored: ScoredConversations) -> None:
    found = evaluate(scored)
    assert found.seen[-1] == (1.0, found.release.auroc.value, found.release.average_precision.value)
    assert found.seen[0][1] < found.seen[-1][1]


def test_early_detection_warns_about_no_more_than_the_capacity(scored: ScoredConversations) -> None:
    found = evaluate(scored)
    assert 0.08 < found.early.warned <= 0.1
    assert found.early.f_latency < found.early.f1
    assert [item.warned for item in found.early_curve] == sorted(item.warned for item in found.early_curve)


def test_every_conversation_is_in_one_part_of_each_division(scored: ScoredConversations) -> None:
    parts = {part.name: part for part in evaluate(scored).slices}
    assert parts["platform a"].count + parts["platform b"].count == 400
    assert sum(parts[name].count for name in parts if name.endswith("messages")) == 400
    assert parts["up to two people"].count + parts["three people or more"].count == 400
    small = evaluate(
        ScoredConversations(
            labels=np.array([0, 1, 0]),
            timelines=tuple(np.array([value]) for value in (0.0, 1.0, 2.0)),
            public_scores=np.zeros(3),
            lengths=np.array([1, 1, 1]),
            people=np.array([1, 1, 1]),
            platforms=(None, None, None),
        )
    )
    assert [(part.name, part.auroc) for part in small.slices] == [
        ("up to 10 messages", None),
        ("up to two people", None),
    ]


def test_what_is_said_and_what_is_so_stand_side_by_side() -> None:
    bins = calibration_bins(np.array([0, 1, 1, 0]), np.array([0.05, 0.95, 1.0, 0.15]))
    assert [item.count for item in bins] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[0].mean_probability, bins[0].positives) == (0.05, 0.0)
    assert bins[9].positives == 1.0
    assert bins[5].positives is None


@pytest.mark.parametrize(("share", "reached"), [(1.0, 6), (0.5, 3), (0.34, 2), (0.2, 1), (0.1, 0)])
def test_a_threshold_is_reached_by_no_more_than_its_share(share: float, reached: int) -> None:
    scores = np.array([5.0, 1.0, 4.0, 0.0, 3.0, 2.0])
    assert (scores >= threshold_for(scores, share=share)).sum() == reached


def test_scores_that_tie_at_the_edge_are_left_out_together() -> None:
    scores = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    assert (scores >= threshold_for(scores, share=0.5)).sum() == 1
    assert (np.ones(4) >= threshold_for(np.ones(4), share=0.5)).sum() == 0


def test_one_label_alone_is_refused(scored: ScoredConversations) -> None:
    alone = ScoredConversations(
        labels=np.ones(400, dtype=np.int64),
        timelines=scored.timelines,
        public_scores=scored.public_scores,
        lengths=scored.lengths,
        people=scored.people,
        platforms=scored.platforms,
    )
    with pytest.raises(DataError):
        evaluate(alone)
