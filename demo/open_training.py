"""What nobody may build, and what a company can build alone: the best that the same features give without privacy.

A comparison with a badly trained reference flatters whatever is compared. So the reference sees every labelled conversation,
not only those that the contribution bound keeps, and is fitted to the end: logistic regression with a ridge.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ringfence.model.errors import ConfigError

PENALTY = 20.0
"""Weight of half the squared norm beside the sum of the losses. Chosen on simulated companies of seeds that no table reports."""

_MOST_ITERATIONS = 1000


class Rows(Protocol):
    """A matrix of rows, dense or sparse: what scipy and numpy both can multiply."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        ...

    @property
    def T(self) -> Rows:  # noqa: N802 - as numpy calls it
        """The transposed matrix."""
        ...

    def __matmul__(self, other: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Return the product with a vector."""
        ...


def fit_openly(
    rows: Rows,
    labels: NDArray[np.integer],
    *,
    positive_weight: float,
    weight: float = 1.0,
    penalty: float = PENALTY,
) -> NDArray[np.float64]:
    """Return a linear head fitted without privacy, (d + 1,) float64, the bias last. Nothing of it may leave a company.

    Args:
        rows: (n, d), dense or sparse.
        labels: (n,), each 0 or 1.
        positive_weight: factor on the loss of positive rows.
        weight: factor on every loss; below 1 where several rows are beginnings of one conversation.
        penalty: of half the squared norm of the weights; the bias is free.

    Raises:
        ConfigError: rows and labels differ in number. The caller's fault.
    """
    if len(labels) != rows.shape[0]:
        raise ConfigError("Rows and labels differ in number.", hint="Give one label for each row.")
    targets = np.asarray(labels, np.float64)
    weights = weight * (1.0 + (positive_weight - 1.0) * targets)

    def objective(head: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = rows @ head[:-1] + head[-1]
        loss = float(np.sum(weights * (np.logaddexp(0.0, logits) - targets * logits)))
        residuals = weights * (0.5 * (1.0 + np.tanh(0.5 * logits)) - targets)
        slope = np.append(rows.T @ residuals + penalty * head[:-1], residuals.sum())
        return loss + 0.5 * penalty * float(head[:-1] @ head[:-1]), slope

    found = minimize(
        objective,
        np.zeros(rows.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _MOST_ITERATIONS},
    )
    result: NDArray[np.float64] = np.asarray(found.x, np.float64)
    return result


def fit_on_beginnings(
    features: NDArray[np.float32],
    labels: NDArray[np.integer],
    *,
    positive_weight: float,
    penalty: float = PENALTY,
) -> NDArray[np.float64]:
    """Return a linear head fitted without privacy on several beginnings of each conversation.

    Args:
        features: (n, prefixes, d) float32.
        labels: (n,), each 0 or 1.
        positive_weight: factor on the loss of positive conversations.
        penalty: as `fit_openly`.
    """
    count, prefixes, dimension = features.shape
    return fit_openly(
        features.reshape(count * prefixes, dimension).astype(np.float64),
        np.repeat(labels, prefixes),
        positive_weight=positive_weight,
        weight=1.0 / prefixes,
        penalty=penalty,
    )
