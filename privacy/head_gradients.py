"""Gradients of the shipped heads, written out, so that no graph and no hooks are needed.

The loss of a conversation is the weighted logistic loss averaged over its prefixes (the conversation after a third of its
messages, after two thirds, ...). They are averaged inside its one gradient before that is clipped, so they cost no privacy.

Clipping needs each conversation's norm, not its gradient. The gradient is a sum over prefixes of a number times a row, so its
squared norm is a sum over pairs of prefixes of two numbers times the product of two rows; those products never change. With the
norms, every conversation's factor is known, and the sum of clipped gradients is one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ringfence.model.errors import ConfigError
from ringfence.model.head import HiddenLayerHead, LinearHead
from ringfence.privacy.arrays import FloatArray

_NORM_SLACK = 2.0**-32
"""Norms from products are made this much longer, relatively to their largest term: more than rounding can take off."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Conversations as a formula takes them.

    Attributes:
        rows: ``(m, prefixes, dimension + 1)`` float64, features and a last column of ones, contiguous and finite.
        products: ``(pairs, m)``, of `products_of`.
        targets: ``(m, 1)``, the labels.
        shares: ``(m, 1)``, loss weight of the conversation over the number of its prefixes.
    """

    rows: FloatArray
    products: FloatArray
    targets: FloatArray
    shares: FloatArray


@dataclass(frozen=True, slots=True)
class Examined:
    """What a formula found out about a batch.

    Attributes:
        squared_norms: returns ``(m,)``, of each conversation's gradient; not finite where the gradient is not.
        weighted_sum: returns the sum of the gradients, ``(parameters,)``, each times its factor of ``(m,)``; a conversation
            of factor 0 counts as nothing, whatever it holds.
    """

    squared_norms: Callable[[], FloatArray]
    weighted_sum: Callable[[FloatArray], FloatArray]


class HeadFormula(Protocol):
    """The gradients of one architecture on features of one dimension.

    One conversation's norm and gradient depend on its own row, target and share and on the model alone.

    Attributes:
        parameters: how many numbers a model has.
    """

    parameters: int

    def examine(self, batch: Batch, model: FloatArray) -> Examined:
        """Return norms, and the sum once factors are known; ``model`` is ``(parameters,)``."""

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient, ``(m, parameters)``: for reference, the private step has no need of it."""


class LinearFormula:
    """``z = w x + b``: g = sum over prefixes of r (x, 1), r the residual of a prefix.

    Source: Goodfellow 2015, arXiv 1510.01799, for norms without a graph.
    """

    def __init__(self, dimension: int) -> None:
        self.parameters = dimension + 1

    def examine(self, batch: Batch, model: FloatArray) -> Examined:
        """Return norms, and the sum once factors are known; see `HeadFormula`."""
        residuals = self._residuals(batch, model)

        def weighted_sum(factors: FloatArray) -> FloatArray:
            result: FloatArray = _scaled(residuals, factors).reshape(-1) @ _flat(batch.rows)
            return result

        return Examined(lambda: _squares(residuals, batch.products), weighted_sum)

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient; see `HeadFormula`."""
        found: FloatArray = np.matmul(self._residuals(batch, model)[:, None, :], batch.rows)
        return found[:, 0]

    @staticmethod
    def _residuals(batch: Batch, model: FloatArray) -> FloatArray:
        # One long product of a matrix and a vector: many short ones take twice the time.
        logits = (_flat(batch.rows) @ model).reshape(batch.rows.shape[:2])
        return _residuals_of(logits, batch)


class HiddenLayerFormula:
    """``z = v relu(U (x, 1)) + c``: g of U is sum of dh (x, 1)', of (v, c) sum of r (h, 1), with dh = r v where h > 0."""

    def __init__(self, dimension: int) -> None:
        self._width = dimension + 1
        self.parameters = HiddenLayerHead.UNITS * self._width + HiddenLayerHead.UNITS + 1

    def examine(self, batch: Batch, model: FloatArray) -> Examined:
        """Return norms, and the sum once factors are known; see `HeadFormula`."""
        hidden, residuals, slopes = self._forward(batch, model)

        def squared_norms() -> FloatArray:
            backward = residuals[:, :, None] * slopes
            of_output: FloatArray = np.matmul(residuals[:, None, :], hidden)[:, 0]
            first, second = _pairs_of(residuals.shape[1])
            steepness = np.vecdot(backward[:, first], backward[:, second]).T
            result: FloatArray = np.einsum("pm,pm->m", steepness, batch.products)
            result += np.vecdot(of_output, of_output)
            return result

        def weighted_sum(factors: FloatArray) -> FloatArray:
            scaled = _scaled(residuals, factors)
            of_hidden = _flat(scaled[:, :, None] * slopes).T @ _flat(batch.rows)
            return np.concatenate([of_hidden.reshape(-1), scaled.reshape(-1) @ _flat(_finite(hidden))])

        return Examined(squared_norms, weighted_sum)

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient; see `HeadFormula`."""
        hidden, residuals, slopes = self._forward(batch, model)
        backward = residuals[:, :, None] * slopes
        of_hidden = np.matmul(backward.transpose(0, 2, 1), batch.rows).reshape(len(backward), -1)
        return np.concatenate([of_hidden, np.matmul(residuals[:, None, :], hidden)[:, 0]], axis=1)

    def _forward(self, batch: Batch, model: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return ``(m, prefixes, units + 1)`` units and a one, the residuals, and v where a unit is on, else 0."""
        count, prefixes, width = batch.rows.shape
        units = HiddenLayerHead.UNITS
        hidden_weights, output = model[: units * width].reshape(units, width), model[units * width :]
        hidden = np.ones((count, prefixes, units + 1))
        np.maximum(
            (_flat(batch.rows) @ hidden_weights.T).reshape(count, prefixes, units),
            0.0,
            out=hidden[:, :, :units],
        )
        logits = (_flat(hidden) @ output).reshape(count, prefixes)
        slopes = output[:units] * (hidden[:, :, :units] > 0.0)
        return hidden, _residuals_of(logits, batch), slopes


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


def products_of(rows: FloatArray) -> FloatArray:
    """Return the products of every two prefixes of each conversation, made a little larger: ``(pairs, m)`` float64.

    Each pair stands once, in the order of `numpy.triu_indices`; of two different prefixes, the product counts twice.

    Those of one conversation are multiplied by numbers that are not negative: the residuals of its prefixes all have the
    sign that its label gives them. Making each product larger by a share of its size therefore makes the norm longer, by
    more than rounding can have made it shorter, also where terms cancel.

    Args:
        rows: ``(m, prefixes, dimension + 1)`` float64.
    """
    first, second = _pairs_of(rows.shape[1])
    products = np.ascontiguousarray(np.matmul(rows, rows.transpose(0, 2, 1))[:, first, second].T)
    products[first != second] *= 2.0
    products += _NORM_SLACK * np.abs(products)
    return products


def pair_count(prefixes: int) -> int:
    """Return the number of pairs of prefixes, a prefix with itself included."""
    return prefixes * (prefixes + 1) // 2


def _flat(values: FloatArray) -> FloatArray:
    return values.reshape(-1, values.shape[-1])


@lru_cache(maxsize=16)
def _pairs_of(prefixes: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    return np.triu_indices(prefixes)


def _squares(residuals: FloatArray, products: FloatArray) -> FloatArray:
    # Prefix by prefix: a few long operations instead of many short ones.
    first, second = _pairs_of(residuals.shape[1])
    by_prefix = np.ascontiguousarray(residuals.T)
    squares: FloatArray = np.einsum("pm,pm,pm->m", by_prefix[first], by_prefix[second], products)
    return squares


def _scaled(residuals: FloatArray, factors: FloatArray) -> FloatArray:
    return _finite(residuals * factors[:, None])


def _finite(values: FloatArray) -> FloatArray:
    """Return values with 0 for each that is not finite: it belongs to a conversation that counts as nothing."""
    return np.where(np.isfinite(values), values, 0.0)


def _residuals_of(logits: FloatArray, batch: Batch) -> FloatArray:
    # (sigmoid(z) - y) * share in place of z. An exponential that overflows gives a sigmoid of 0, as it should.
    np.negative(logits, out=logits)
    np.exp(logits, out=logits)
    logits += 1.0
    np.reciprocal(logits, out=logits)
    logits -= batch.targets
    logits *= batch.shares
    return logits
