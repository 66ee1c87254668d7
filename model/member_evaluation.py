"""A detector on a company's own labelled conversations: every figure of its evaluation, computed in one place.

Nothing here is meant to leave the company: these figures have no noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ringfence.model.conversation import Conversation
from ringfence.model.detector import Detector
from ringfence.model.early_detection import EarlyDetection, early_detection, first_warnings
from ringfence.model.errors import DataError
from ringfence.model.metrics import (
    area_under_roc,
    average_precision,
    has_enough,
    precision_at_capacity,
    recall_at_capacity,
)
from ringfence.model.running_score import running_logits

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

SHARES_SEEN = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
"""Of a conversation's messages, for the quality before its end."""

CALIBRATION_BINS = 10
WARNED_SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
_RESAMPLES = 200
_SMALLEST_SLICE = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that holds it in 95 of 100 samples like this one.

    Attributes:
        value: of the figure.
        low: 2.5th percentile over resampled conversations. None where resampling says nothing of other samples: with fewer
            than ten positives or negatives, or if every sample gives the same figure, as where both labels stand apart.
        high: 97.5th percentile; None likewise.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well scores order conversations.

    Attributes:
        auroc: area under the receiver operating characteristic.
        average_precision: area under precision over recall.
        precision_at_capacity: share of positives among what reviewers have time for.
        recall_at_capacity: share of the positives that reviewers would see.
    """

    auroc: Estimate
    average_precision: Estimate
    precision_at_capacity: float
    recall_at_capacity: float


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Conversations with probabilities from ``low`` to ``high``.

    Attributes:
        low: lower edge.
        high: upper edge.
        count: how many.
        mean_probability: what the detector says of them, on average; None if there are none.
        positives: share of positives among them; None if there are none.
    """

    low: float
    high: float
    count: int
    mean_probability: float | None
    positives: float | None


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the conversations.

    Attributes:
        name: which.
        count: conversations.
        positives: of them.
        auroc: within the part; None if it is small or of one label.
        average_precision: the same.
    """

    name: str
    count: int
    positives: int
    auroc: float | None
    average_precision: float | None


@dataclass(frozen=True, slots=True)
class MemberEvaluation:
    """Every figure of an evaluation.

    Attributes:
        conversations: how many were scored.
        positives: of them.
        capacity: share of conversations that reviewers have time for.
        release: ranking by the detector.
        public_head: ranking by the same features with the public starting point, before any private training.
        brier: mean squared error of the probability.
        calibration_error: mean distance of probability and share of positives over the bins, weighted by their counts.
        calibration: the bins.
        early: warnings at the threshold that warns about ``capacity`` of the conversations.
        early_threshold: that threshold, a probability.
        early_curve: the same over other shares of conversations warned about.
        seen: quality after a share of each conversation: share, AUROC, average precision.
        slices: by platform, length and number of people.
    """

    conversations: int
    positives: int
    capacity: float
    release: Ranking
    public_head: Ranking
    brier: float
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    early: EarlyDetection
    early_threshold: float
    early_curve: tuple[EarlyDetection, ...]
    seen: tuple[tuple[float, float, float], ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class ScoredConversations:
    """Conversations as numbers: no text, no names.

    Attributes:
        labels: (n,) 0 or 1.
        timelines: score after each message, at least one value each.
        public_scores: (n,) of the public head on whole conversations.
        lengths: (n,) messages, at least 1.
        people: (n,) participants.
        platforms: name or None.
    """

    labels: Int64Array
    timelines: tuple[Float64Array, ...]
    public_scores: Float64Array
    lengths: Int64Array
    people: Int64Array
    platforms: tuple[str | None, ...]

    @property
    def scores(self) -> Float64Array:
        """Scores of whole conversations, (n,)."""
        return np.array([timeline[-1] for timeline in self.timelines])


def score_conversations(
    detector: Detector,
    public_head: Detector,
    conversations: Sequence[Conversation],
    *,
    progress: Callable[[], object] = lambda: None,
) -> ScoredConversations:
    """Score labelled conversations message by message.

    Args:
        detector: to be evaluated.
        public_head: the same features with the public starting point.
        conversations: each with a label.
        progress: called after each.

    Raises:
        DataError: one has no label. The caller's fault.
    """
    labels: list[int] = []
    timelines: list[Float64Array] = []
    public: list[float] = []
    for item in conversations:
        if item.label is None:
            raise DataError("A conversation has no label.", hint="Evaluate on labelled conversations.")
        labels.append(item.label)
        own, start = running_logits((detector, public_head), item)
        timelines.append(own)
        public.append(float(start[-1]))
        progress()
    return ScoredConversations(
        labels=np.array(labels, dtype=np.int64),
        timelines=tuple(timelines),
        public_scores=np.array(public),
        lengths=np.array([len(timeline) for timeline in timelines], dtype=np.int64),
        people=np.array([len(item.participants) for item in conversations], dtype=np.int64),
        platforms=tuple(item.platform for item in conversations),
    )


def evaluate_scores(
    scored: ScoredConversations,
    *,
    probabilities: Callable[[Float64Array], Float64Array],
    capacity: float,
    rng: np.random.Generator,
) -> MemberEvaluation:
    """Return every figure of an evaluation.

    Args:
        scored: labelled conversations; both labels occur.
        probabilities: the calibration, from scores to probabilities.
        capacity: share of conversations that reviewers have time for, in (0, 1].
        rng: of the resampling.

    Raises:
        DataError: a label is missing, or the capacity is out of range. The caller's to mend.
    """
    labels, scores = scored.labels, scored.scores
    release = _ranking(labels, scores, capacity=capacity, rng=rng)
    chances = probabilities(scores)
    bins = calibration_bins(labels, chances)
    highest = np.array([timeline.max() for timeline in scored.timelines])
    threshold = threshold_for(highest, share=capacity)
    return MemberEvaluation(
        conversations=len(labels),
        positives=int(labels.sum()),
        capacity=capacity,
        release=release,
        public_head=_ranking(labels, scored.public_scores, capacity=capacity, rng=rng),
        brier=float(np.mean((chances - labels) ** 2)),
        calibration_error=sum(
            item.count / len(labels) * abs((item.mean_probability or 0.0) - (item.positives or 0.0))
            for item in bins
        ),
        calibration=bins,
        early=_early(scored, threshold),
        early_threshold=float(probabilities(np.array([threshold]))[0]),
        early_curve=tuple(_early(scored, threshold_for(highest, share=share)) for share in WARNED_SHARES),
        seen=tuple((share, *_quality_after(scored, share)) for share in SHARES_SEEN),
        slices=_slices(scored),
    )


def threshold_for(scores: Float64Array, *, share: float) -> float:
    """Return the lowest threshold that at most ``share`` of the scores reach; above all of them if even one is too many."""
    ordered = np.sort(scores)[::-1]
    places = int(np.floor(share * len(scores) + 1e-9))
    if places >= len(scores):
        return float(ordered[-1])
    # Ties at the edge are flagged together or not at all.
    above = ordered[:places][ordered[:places] > ordered[places]]
    return float(above[-1]) if len(above) else float(np.nextafter(ordered[0], np.inf))


def calibration_bins(labels: Int64Array, probabilities: Float64Array) -> tuple[CalibrationBin, ...]:
    """Return ten bins of equal width with what was said and what was so."""
    place = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    result = []
    for index in range(CALIBRATION_BINS):
        inside = place == index
        any_inside = bool(inside.any())
        result.append(
            CalibrationBin(
                low=index / CALIBRATION_BINS,
                high=(index + 1) / CALIBRATION_BINS,
                count=int(inside.sum()),
                mean_probability=float(probabilities[inside].mean()) if any_inside else None,
                positives=float(labels[inside].mean()) if any_inside else None,
            )
        )
    return tuple(result)


def _ranking(
    labels: Int64Array, scores: Float64Array, *, capacity: float, rng: np.random.Generator
) -> Ranking:
    return Ranking(
        auroc=_estimate(area_under_roc, labels, scores, rng),
        average_precision=_estimate(average_precision, labels, scores, rng),
        precision_at_capacity=precision_at_capacity(labels, scores, capacity=capacity),
        recall_at_capacity=recall_at_capacity(labels, scores, capacity=capacity),
    )


def _estimate(
    measure: Callable[[Int64Array, Float64Array], float],
    labels: Int64Array,
    scores: Float64Array,
    rng: np.random.Generator,
) -> Estimate:
    value = measure(labels, scores)
    if not has_enough(labels):
        return Estimate(value=value, low=None, high=None)
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    drawn = []
    for _ in range(_RESAMPLES):
        # Within each label, so that every sample has both.
        chosen = np.concatenate(
            [rng.choice(positives, len(positives)), rng.choice(negatives, len(negatives))]
        )
        drawn.append(measure(labels[chosen], scores[chosen]))
    if min(drawn) == max(drawn):
        return Estimate(value=value, low=None, high=None)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value=value, low=float(low), high=float(high))


def _early(scored: ScoredConversations, threshold: float) -> EarlyDetection:
    warned_at = first_warnings(scored.timelines, threshold=threshold)
    return early_detection(scored.labels, warned_at, lengths=scored.lengths)


def _quality_after(scored: ScoredConversations, share: float) -> tuple[float, float]:
    scores = np.array(
        [timeline[max(0, int(np.ceil(share * len(timeline) - 1e-9)) - 1)] for timeline in scored.timelines]
    )
    return area_under_roc(scored.labels, scores), average_precision(scored.labels, scores)


def _slices(scored: ScoredConversations) -> tuple[Slice, ...]:
    parts: dict[str, npt.NDArray[np.bool_]] = {}
    named = np.array([platform or "" for platform in scored.platforms])
    if len(set(scored.platforms)) > 1:
        for platform in sorted(set(named)):
            parts[f"platform {platform}" if platform else "no platform"] = named == platform
    parts |= {
        "up to 10 messages": scored.lengths <= 10,
        "11 to 50 messages": (scored.lengths > 10) & (scored.lengths <= 50),
        "over 50 messages": scored.lengths > 50,
        "up to two people": scored.people <= 2,
        "three people or more": scored.people > 2,
    }
    return tuple(_slice(name, inside, scored) for name, inside in parts.items() if inside.any())


def _slice(name: str, inside: npt.NDArray[np.bool_], scored: ScoredConversations) -> Slice:
    labels, scores = scored.labels[inside], scored.scores[inside]
    positives = int(labels.sum())
    measured = len(labels) >= _SMALLEST_SLICE and 0 < positives < len(labels)
    return Slice(
        name=name,
        count=len(labels),
        positives=positives,
        auroc=area_under_roc(labels, scores) if measured else None,
        average_precision=average_precision(labels, scores) if measured else None,
    )


def figures(evaluation: MemberEvaluation) -> Mapping[str, object]:
    """Return an evaluation as plain values, for JSON."""
    from dataclasses import asdict

    return asdict(evaluation)
