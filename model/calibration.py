"""From a detector's score to a probability, and the thresholds that a company may start from.

Whatever is fitted for a release is fitted on public data; a member that fits its own keeps it at home.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ringfence.model.errors import DataError

Float64Array = npt.NDArray[np.float64]
Probability = Annotated[float, Field(ge=0, le=1)]

_NEWTON_STEPS = 100
_RIDGE = 1e-10


class Calibration(BaseModel):
    """Platt's sigmoid and two thresholds on its probability.

    Attributes:
        slope: a > 0 of ``probability = 1 / (1 + exp(-(a * score + b)))``; a higher score is never a lower probability.
        intercept: b of the same.
        high_recall: probability from which most of what is sought is found; None where nobody measured it.
        high_precision: probability from which most of what is flagged is sought, at least `high_recall`; or None.
        fitted_on: what the values come from, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    slope: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    intercept: Annotated[float, Field(ge=-1e6, le=1e6)] = 0.0
    high_recall: Probability | None = None
    high_precision: Probability | None = None
    fitted_on: str = "not fitted: the probability is the sigmoid of the score"

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if (
            self.high_recall is not None
            and self.high_precision is not None
            and self.high_recall > self.high_precision
        ):
            raise ValueError("high_recall must not be above high_precision")
        return self

    @property
    def origin(self) -> str:
        """Return `fitted_on` so that it can be printed: one line, no control characters."""
        return "".join(character if character.isprintable() else " " for character in self.fitted_on)

    def probabilities(self, logits: Float64Array) -> Float64Array:
        """Return the probability of each score, (n,) float64 in [0, 1]."""
        return _sigmoid(self.slope * logits + self.intercept)


def fit_calibration(
    logits: Float64Array,
    *,
    labels: npt.NDArray[np.int64],
    fitted_on: str,
    recall: float = 0.9,
    precision: float = 0.9,
) -> Calibration:
    """Fit Platt's sigmoid by Newton's method and read both thresholds off the same examples.

    Args:
        logits: scores, (n,) float64, finite.
        labels: 0 or 1, (n,) int64.
        fitted_on: names the data, for the release's calibration file.
        recall: share of the positives that lie at or above ``high_recall``.
        precision: share of positives among what lies at or above ``high_precision``; None if no threshold has it.

    Raises:
        DataError: the examples are not of both classes, not finite, or do not belong together. The caller's data.

    Source: Platt 1999; Lin, Lin, Weng 2007, "A note on Platt's probabilistic outputs for support vector machines", sec. 2
    (smoothed targets).
    """
    if logits.ndim != 1 or logits.shape != labels.shape or not np.isfinite(logits).all():
        raise DataError(
            "Calibration needs one finite score for each label.", hint="Score the same examples again."
        )
    positives = int((labels == 1).sum())
    negatives = int((labels == 0).sum())
    if positives == 0 or negatives == 0 or positives + negatives != labels.size:
        raise DataError("Calibration needs labels 0 and 1, both of them.", hint="Use a larger labelled set.")
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    slope, intercept = _newton(logits, targets)
    if slope <= 0:
        raise DataError(
            "Higher scores do not mean more positives in the calibration data.",
            hint="Check that the labels are the right way round.",
        )
    fitted = Calibration(slope=slope, intercept=intercept, fitted_on=fitted_on)
    probabilities = fitted.probabilities(logits)
    low, high = _thresholds(probabilities, labels, recall=recall, precision=precision)
    return fitted.model_copy(update={"high_recall": low, "high_precision": high})


def _sigmoid(values: Float64Array) -> Float64Array:
    # Of e^z and e^-z the one that does not overflow.
    decay = np.exp(-np.abs(values))
    result: Float64Array = np.where(values >= 0, 1.0, decay) / (1.0 + decay)
    return result


def _newton(logits: Float64Array, targets: Float64Array) -> tuple[float, float]:
    # Centred and scaled, the Hessian is well conditioned whatever the scores' unit is.
    centre, scale = float(logits.mean()), float(logits.std()) or 1.0
    columns = np.stack([(logits - centre) / scale, np.ones_like(logits)], axis=1)
    weights = np.zeros(2)
    loss = _loss(columns @ weights, targets)
    for _ in range(_NEWTON_STEPS):
        predicted = _sigmoid(columns @ weights)
        gradient = columns.T @ (predicted - targets)
        curvature = (columns * (predicted * (1 - predicted))[:, None]).T @ columns + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-10:
            candidate = weights - size * step
            candidate_loss = _loss(columns @ candidate, targets)
            if candidate_loss <= loss:
                break
            size /= 2
        else:
            break
        moved = float(np.abs(candidate - weights).max())
        weights, loss = candidate, candidate_loss
        if moved < 1e-12:
            break
    slope = float(weights[0]) / scale
    return slope, float(weights[1]) - slope * centre


def _loss(values: Float64Array, targets: Float64Array) -> float:
    return float((np.logaddexp(0, values) - targets * values).sum())


def _thresholds(
    probabilities: Float64Array, labels: npt.NDArray[np.int64], *, recall: float, precision: float
) -> tuple[float, float | None]:
    order = np.argsort(-probabilities, kind="stable")
    found = np.cumsum(labels[order])
    flagged = np.arange(1, labels.size + 1)
    # A threshold stands only where the next probability differs: ties are flagged together.
    last_of_tie = np.append(np.diff(probabilities[order]) != 0, True)
    wanted = math.ceil(recall * int(found[-1]))
    low = probabilities[order][int(np.argmax((found >= wanted) & last_of_tie))]
    precise = np.flatnonzero((found / flagged >= precision) & last_of_tie)
    high = probabilities[order][precise[-1]] if precise.size else None
    # The more precise of two thresholds is never the lower one.
    return float(low), None if high is None else max(float(high), float(low))
