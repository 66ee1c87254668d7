"""Fit what stands between the tagger and the private head: projection, standardisation, warm start."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from ringfence.model.conversation import Conversation
from ringfence.model.feature_set import FeatureSet
from ringfence.model.stage_features import DIMENSION, PROJECTION_DIMENSION

PREFIXES = (0.35, 0.6, 0.8, 1.0)
POSITIVE_WEIGHT = 2.0
REGULARISATION = 0.0025
"""C of scikit-learn; small, so that the warm start is a moderate opinion that training can change."""

Arrays = dict[str, npt.NDArray[np.generic]]


def fit_projection(embedded: npt.NDArray[np.float32]) -> Arrays:
    """Return mean and principal axes of public messages' vectors, signs fixed."""
    centre = embedded.mean(axis=0, dtype=np.float64)
    centred = embedded - centre
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    axes = vectors[:, ::-1][:, :PROJECTION_DIMENSION]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(PROJECTION_DIMENSION)])
    return {
        "projection_mean": centre.astype(np.float32),
        "projection": np.ascontiguousarray((axes * signs).T, np.float32),
    }


def neutral_statistics() -> Arrays:
    """Return placeholders with which a feature set gives raw rows, apart from the bound on their norm."""
    return {
        "mean": np.zeros(DIMENSION, np.float32),
        "deviation": np.ones(DIMENSION, np.float32),
        "warm_start": np.zeros(DIMENSION + 1),
    }


def fit_statistics(raw: npt.NDArray[np.float64]) -> Arrays:
    """Return mean and deviation of raw public rows (n, 108); a feature that hardly moves is not blown up."""
    deviation = raw.std(axis=0)
    return {
        "mean": raw.mean(axis=0).astype(np.float32),
        "deviation": np.maximum(deviation, 0.05 * np.median(deviation)).astype(np.float32),
    }


def fit_warm_start(feature_set: FeatureSet, conversations: Sequence[Conversation]) -> npt.NDArray[np.float64]:
    """Return the parameters of a linear head on the public simulation, (109,) float64."""
    rows = feature_set.rows_of(conversations, PREFIXES)
    labels = np.repeat([item.label or 0 for item in conversations], len(PREFIXES))
    weights = np.where(labels == 1, POSITIVE_WEIGHT, 1.0) / len(PREFIXES)
    head = LogisticRegression(C=REGULARISATION, max_iter=2000).fit(
        rows.reshape(-1, DIMENSION), labels, sample_weight=weights
    )
    return np.concatenate([head.coef_[0], head.intercept_]).astype(np.float64)
