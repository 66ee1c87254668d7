"""Gradients of the shipped heads, written out, so that no graph and no hooks are needed.

The loss of a conversation is the weighted logistic loss averaged over its prefixes (the conversation after a third of its
messages, after two thirds, ...). They are averaged inside its one gradient before that is clipped, so they cost no privacy.

Clipping needs each conversation's norm, not its gradient. The gradient is a sum over prefixes of a number times a row, so its
squared norm is a sum over pairs of prefixes of two numbers times the product of two rows; those products never change. With the
norms, every conversation's factor is known, and the sum of clipped gradients is one product of matrices.

The rows of a conversation lie together, as that product takes them. What is computed from them lies prefix by prefix, with the
conversations last: each operation then is a few long stretches of memory instead of many short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.model.head import HiddenLayerHead, LinearHead
from ringfence.privacy.arrays import FloatArray, IntegerArray

_NORM_SLACK = 2.0**-32
"""Norms from products are made this much longer, relatively to their largest term: more than rounding can take off."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Conversations as a formula takes them.

    Attributes:
        rows: ``(m, prefixes, dimension + 1)`` float64, features and a last column of ones, contiguous and finite.
        products: ``(prefixes, prefixes, m)``, of `products_of`; NaN for a conversation that counts as nothing.
        shares: ``(m,)``, loss weight of the conversation over the number of its prefixes.
        positive_shares: ``(m,)``, the same for a positive conversation, 0 for a negative one.
    """

    rows: FloatArray
    products: FloatArray
    shares: FloatArray
    positive_shares: FloatArray


@dataclass(frozen=True, slots=True)
class Examined:
    """What a formula found out about a batch.

    Attributes:
        squared_norms: returns ``(m,)``, of each conversation's gradient; not finite where the gradient is not.
        weighted_sum: returns the sum of the gradients, ``(parameters,)``, each times its factor of ``(m,)``; a conversation
            of factor 0 counts as nothing, whatever it holds.
        inner_products: returns ``(pairs,)``, of the gradients of the first and of the second conversation of each pair, given
            their places in the batch and the products of their rows, ``(prefixes, prefixes, pairs)``.
    """

    squared_norms: Callable[[], FloatArray]
    weighted_sum: Callable[[FloatArray], FloatArray]
    inner_products: Callable[[IntegerArray, IntegerArray, FloatArray], FloatArray]


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
            result: FloatArray = _scaled(residuals, factors).T.reshape(-1) @ _flat(batch.rows)
            return result

        def inner_products(first: IntegerArray, second: IntegerArray, products: FloatArray) -> FloatArray:
            return _bilinear(residuals.take(first, axis=1), products, residuals.take(second, axis=1))

        return Examined(lambda: _squares(residuals, batch.products), weighted_sum, inner_products)

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient; see `HeadFormula`."""
        found: FloatArray = np.matmul(self._residuals(batch, model).T[:, None, :], batch.rows)
        return found[:, 0]

    @staticmethod
    def _residuals(batch: Batch, model: FloatArray) -> FloatArray:
        # One long product of a matrix and a vector: many short ones take twice the time.
        logits = (_flat(batch.rows) @ model).reshape(batch.rows.shape[:2])
        return _residuals_of(logits.T, batch)


class HiddenLayerFormula:
    """``z = v relu(U (x, 1)) + c``: g of U is sum of dh (x, 1)', of (v, c) sum of r (h, 1), with dh = r v where h > 0."""

    def __init__(self, dimension: int) -> None:
        self._width = dimension + 1
        self.parameters = HiddenLayerHead.UNITS * self._width + HiddenLayerHead.UNITS + 1

    def examine(self, batch: Batch, model: FloatArray) -> Examined:
        """Return norms, and the sum once factors are known; see `HeadFormula`."""
        hidden, residuals, slopes = self._forward(batch, model)
        of_output = np.einsum("pm,pum->um", residuals, hidden)

        def squared_norms() -> FloatArray:
            products = np.einsum("aum,bum->abm", slopes, slopes)
            products *= batch.products
            result = _squares(residuals, products)
            result += np.einsum("um,um->m", of_output, of_output)
            return result

        def weighted_sum(factors: FloatArray) -> FloatArray:
            # Written as the rows lie: a conversation's terms meet in the sum before those of the next.
            backward = np.empty((slopes.shape[1], *batch.rows.shape[:2]))
            np.multiply(slopes, _scaled(residuals, factors)[:, None], out=backward.transpose(2, 0, 1))
            of_hidden = backward.reshape(len(backward), -1) @ _flat(batch.rows)
            return np.concatenate([of_hidden.reshape(-1), finite_or_zero(of_output) @ factors])

        def inner_products(first: IntegerArray, second: IntegerArray, products: FloatArray) -> FloatArray:
            between = np.einsum("aum,bum->abm", slopes.take(first, axis=2), slopes.take(second, axis=2))
            between *= products
            result = _bilinear(residuals.take(first, axis=1), between, residuals.take(second, axis=1))
            result += np.einsum("um,um->m", of_output.take(first, axis=1), of_output.take(second, axis=1))
            return result

        return Examined(squared_norms, weighted_sum, inner_products)

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient; see `HeadFormula`."""
        hidden, residuals, slopes = self._forward(batch, model)
        backward = slopes * residuals[:, None]
        of_hidden = np.matmul(backward.transpose(2, 1, 0), batch.rows).reshape(len(batch.rows), -1)
        return np.concatenate([of_hidden, np.einsum("pm,pum->mu", residuals, hidden)], axis=1)

    def _forward(self, batch: Batch, model: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return ``(prefixes, units + 1, m)`` units and a one, the residuals, and v where a unit is on, else 0."""
        count, prefixes, width = batch.rows.shape
        units = HiddenLayerHead.UNITS
        hidden_weights, output = model[: units * width].reshape(units, width), model[units * width :]
        hidden = np.empty((prefixes, units + 1, count))
        activations = hidden[:, :units]
        np.matmul(hidden_weights, batch.rows.transpose(1, 2, 0), out=activations)
        np.maximum(activations, 0.0, out=activations)
        hidden[:, units] = 1.0
        slopes = output[:units, None] * (activations > 0.0)
        return hidden, _residuals_of(np.matmul(output, hidden), batch), slopes


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
    """Return the products of every two prefixes of each conversation, a little longer: ``(prefixes, prefixes, m)`` float64.

    Those of one conversation are multiplied by numbers that are not negative: the residuals of its prefixes all have the
    sign that its label gives them. Making each product larger by a share of its size therefore makes the norm longer, by
    more than rounding can have made it shorter, also where terms cancel.

    Args:
        rows: ``(m, prefixes, dimension + 1)`` float64.
    """
    products = np.ascontiguousarray(np.matmul(rows, rows.transpose(0, 2, 1)).transpose(1, 2, 0))
    products += _NORM_SLACK * np.abs(products)
    return products


def products_between(rows: FloatArray, others: FloatArray) -> FloatArray:
    """Return the products of every prefix of one conversation with every prefix of another: ``(prefixes, prefixes, pairs)``.

    Args:
        rows: ``(pairs, prefixes, dimension + 1)`` float64, the first of each pair.
        others: the second.
    """
    return np.ascontiguousarray(np.matmul(rows, others.transpose(0, 2, 1)).transpose(1, 2, 0))


def _flat(values: FloatArray) -> FloatArray:
    return values.reshape(-1, values.shape[-1])


def _squares(residuals: FloatArray, products: FloatArray) -> FloatArray:
    return _bilinear(residuals, products, residuals)


def _bilinear(left: FloatArray, products: FloatArray, right: FloatArray) -> FloatArray:
    found: FloatArray = np.einsum("abm,am,bm->m", products, left, right)
    return found


def _scaled(residuals: FloatArray, factors: FloatArray) -> FloatArray:
    return finite_or_zero(residuals * factors)


def finite_or_zero(values: FloatArray) -> FloatArray:
    """Return values with 0 for each that is not finite: it belongs to a conversation that counts as nothing."""
    return np.where(np.isfinite(values), values, 0.0)


def _residuals_of(logits: FloatArray, batch: Batch) -> FloatArray:
    """Return (sigmoid(z) - y) * share for logits z of ``(prefixes, m)``, in the memory order of that shape."""
    # An exponential that overflows gives a sigmoid of 0, as it should.
    residuals = np.negative(logits, order="C")
    np.exp(residuals, out=residuals)
    residuals += 1.0
    np.divide(batch.shares, residuals, out=residuals)
    residuals -= batch.positive_shares
    return residuals
