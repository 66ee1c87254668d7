"""Per-conversation gradients of the shipped heads, written out, so that no graph and no hooks are needed.

The loss of a conversation is the weighted logistic loss averaged over its prefixes (the conversation after a third of its
messages, after two thirds, ...). They are averaged inside its one gradient before that is clipped, so they cost no privacy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.model.head import HiddenLayerHead, LinearHead
from ringfence.privacy.arrays import FloatArray


class HeadFormula(Protocol):
    """The gradients of one architecture on features of one dimension.

    Attributes:
        parameters: how many numbers a model has.
    """

    parameters: int

    def fill(
        self,
        gradients: FloatArray,
        *,
        rows: FloatArray,
        targets: FloatArray,
        shares: FloatArray,
        model: FloatArray,
    ) -> FloatArray:
        """Write each conversation's gradient into ``gradients`` and return their L2 norms.

        One conversation's gradient and norm depend on its own row, target and share and on the model alone.

        Args:
            gradients: ``(m, parameters)``, contiguous; overwritten.
            rows: ``(m, prefixes, dimension + 1)``, features and a last column of ones, contiguous.
            targets: ``(m, 1)``, the labels.
            shares: ``(m, 1)``, loss weight of the conversation over the number of its prefixes.
            model: ``(parameters,)``.

        Returns:
            ``(m,)``; not finite where a gradient is not.
        """


class LinearFormula:
    """``z = w x + b``: g = sum over prefixes of r (x, 1), r the residual of a prefix.

    Source: Goodfellow 2015, arXiv 1510.01799, for norms without a graph.
    """

    def __init__(self, dimension: int) -> None:
        self.parameters = dimension + 1

    def fill(
        self,
        gradients: FloatArray,
        *,
        rows: FloatArray,
        targets: FloatArray,
        shares: FloatArray,
        model: FloatArray,
    ) -> FloatArray:
        """Write the gradients and return their norms; see `HeadFormula`."""
        count, prefixes, width = rows.shape
        # One long product of a matrix and a vector: many short ones take twice the time.
        logits = (rows.reshape(count * prefixes, width) @ model).reshape(count, prefixes)
        residuals = _residuals(logits, targets, shares)
        if prefixes > 1:
            np.matmul(residuals[:, None, :], rows, out=gradients[:, None, :])
        else:
            np.multiply(residuals, rows[:, 0], out=gradients)
        return _norms(gradients)


class HiddenLayerFormula:
    """``z = v relu(U (x, 1)) + c``: g of U is sum of dh (x, 1)', of (v, c) sum of r (h, 1), with dh = r v where h > 0.

    With one prefix, |g|^2 = |dh|^2 (|x|^2 + 1) + r^2 (|h|^2 + 1); with several, the norm is taken of the average itself.
    """

    def __init__(self, dimension: int) -> None:
        self._width = dimension + 1
        self.parameters = HiddenLayerHead.UNITS * self._width + HiddenLayerHead.UNITS + 1

    def fill(
        self,
        gradients: FloatArray,
        *,
        rows: FloatArray,
        targets: FloatArray,
        shares: FloatArray,
        model: FloatArray,
    ) -> FloatArray:
        """Write the gradients and return their norms; see `HeadFormula`."""
        count, prefixes, width = rows.shape
        units = HiddenLayerHead.UNITS
        hidden_weights, output = model[: units * width].reshape(units, width), model[units * width :]
        hidden = np.ones((count, prefixes, units + 1))
        flat = rows.reshape(count * prefixes, width) @ hidden_weights.T
        np.maximum(flat.reshape(count, prefixes, units), 0.0, out=hidden[:, :, :units])
        logits = (hidden.reshape(count * prefixes, units + 1) @ output).reshape(count, prefixes)
        residuals = _residuals(logits, targets, shares)
        backward = (residuals[:, :, None] * output[:units]) * (hidden[:, :, :units] > 0.0)
        of_hidden = gradients[:, : units * width].reshape(count, units, width)
        if prefixes > 1:
            np.matmul(backward.transpose(0, 2, 1), rows, out=of_hidden)
        else:
            np.multiply(backward[:, 0, :, None], rows, out=of_hidden)
        np.matmul(residuals[:, None, :], hidden, out=gradients[:, None, units * width :])
        if prefixes > 1:
            return _norms(gradients)
        one_row, one_hidden, one_backward = rows[:, 0], hidden[:, 0], backward[:, 0]
        squares: FloatArray = np.vecdot(one_backward, one_backward) * np.vecdot(one_row, one_row)
        squares += residuals[:, 0] ** 2 * np.vecdot(one_hidden, one_hidden)
        return np.sqrt(squares)


FORMULAS: Mapping[str, Callable[[int], HeadFormula]] = MappingProxyType(
    {LinearHead.name: LinearFormula, HiddenLayerHead.name: HiddenLayerFormula}
)
"""Name in the registry of `ringfence.model.head` -> the gradients of that head on features of a dimension."""


def formula_of(architecture: str, dimension: int) -> HeadFormula:
    """Return the gradients of an architecture.

    Raises:
        ConfigError: it has none here. The plan's fault.
    """
    if architecture not in FORMULAS:
        raise ConfigError(
            f"The architecture {architecture} cannot be trained here.",
            hint=f"Choose one of {', '.join(sorted(FORMULAS))}.",
        )
    return FORMULAS[architecture](dimension)


def _norms(gradients: FloatArray) -> FloatArray:
    squares: FloatArray = np.vecdot(gradients, gradients)
    return np.sqrt(squares)


def _residuals(logits: FloatArray, targets: FloatArray, shares: FloatArray) -> FloatArray:
    # (sigmoid(z) - y) * share in place of z. An exponential that overflows gives a sigmoid of 0, as it should.
    np.negative(logits, out=logits)
    np.exp(logits, out=logits)
    logits += 1.0
    np.reciprocal(logits, out=logits)
    logits -= targets
    logits *= shares
    return logits
