"""Gradients of the shipped heads, written out, so that no graph and no hooks are needed.

The loss of a conversation is the weighted logistic loss averaged over its prefixes (the conversation after a third of its
messages, after two thirds, ...). They are averaged inside its one gradient before that is clipped, so they cost no privacy.

Clipping needs each conversation's norm, not its gradient. The gradient is a sum over prefixes of a number times a row, so its
squared norm is a sum over pairs of prefixes of two numbers times the product of two rows; those products never change. With the
norms, every conversation's factor is known, and the sum of clipped gradients is one product of matrices.

Everything lies prefix by prefix, with the conversations last: each operation then runs along a few long stretches of memory.
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
        rows: ``(prefixes * m, dimension + 1)`` float64, features and a last column of ones, prefix by prefix; finite, and
            contiguous by rows or, which makes products with a vector faster, by columns.
        products: ``(prefixes, prefixes, m)``, of `products_of`; NaN for a conversation that counts as nothing.
        shares: ``(m,)``, loss weight of the conversation over the number of its prefixes.
        positive_shares: ``(m,)``, the same for a positive conversation, 0 for a negative one.
    """

    rows: FloatArray
    products: FloatArray
    shares: FloatArray
    positive_shares: FloatArray


@dataclass(frozen=True, slots=True)
class Weighted:
    """Gradients, each times a factor; a conversation of factor 0 counts as nothing, whatever it holds.

    Attributes:
        sum: returns their sum, ``(parameters,)``, each times one more factor of ``(m,)`` or not.
        inner_products: returns ``(pairs,)``, finite, of the first and of the second of each pair, given their places in the batch
            and the products of their rows, ``(prefixes, prefixes, pairs)``.
    """

    sum: Callable[[FloatArray | None], FloatArray]
    inner_products: Callable[[IntegerArray, IntegerArray, FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Examined:
    """What a formula found out about a batch.

    Attributes:
        squared_norms: returns ``(m,)``, of each conversation's gradient; not finite where the gradient is not.
        weighted: returns the gradients, each times its factor of ``(m,)``.
    """

    squared_norms: Callable[[], FloatArray]
    weighted: Callable[[FloatArray], Weighted]


class HeadFormula(Protocol):
    """The gradients of one architecture on features of one dimension.

    One conversation's norm and gradient depend on its own row, target and share, on the model and, in how they are rounded, on its
    place in the batch; on no other conversation.

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

        def weighted(factors: FloatArray) -> Weighted:
            scaled = _scaled(residuals, factors)

            def weighted_sum(more: FloatArray | None) -> FloatArray:
                result: FloatArray = (scaled if more is None else scaled * more).reshape(-1) @ batch.rows
                return result

            def inner_products(first: IntegerArray, second: IntegerArray, products: FloatArray) -> FloatArray:
                return _bilinear(scaled.take(first, axis=1), products, scaled.take(second, axis=1))

            return Weighted(weighted_sum, inner_products)

        return Examined(lambda: _squares(residuals, batch.products), weighted)

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient; see `HeadFormula`."""
        found: FloatArray = np.einsum(
            "pm,dpm->md", self._residuals(batch, model), by_column(batch.rows, len(batch.shares))
        )
        return found

    @staticmethod
    def _residuals(batch: Batch, model: FloatArray) -> FloatArray:
        return _residuals_of(batch.rows @ -model, batch)


class HiddenLayerFormula:
    """``z = v relu(U (x, 1)) + c``: g of U is sum of dh (x, 1)', of (v, c) sum of r (h, 1), with dh = r v where h > 0."""

    def __init__(self, dimension: int) -> None:
        self._width = dimension + 1
        self.parameters = HiddenLayerHead.UNITS * self._width + HiddenLayerHead.UNITS + 1

    def examine(self, batch: Batch, model: FloatArray) -> Examined:
        """Return norms, and the sum once factors are known; see `HeadFormula`."""
        hidden, residuals, slopes = self._forward(batch, model)
        of_output = np.einsum("pm,upm->um", residuals, hidden)

        def squared_norms() -> FloatArray:
            products = products_within(slopes)
            products *= batch.products
            result = _squares(residuals, products)
            result += np.einsum("um,um->m", of_output, of_output)
            return result

        def weighted(factors: FloatArray) -> Weighted:
            scaled = _scaled(residuals, factors)
            of_output_scaled = finite_or_zero(of_output) * factors

            def weighted_sum(more: FloatArray | None) -> FloatArray:
                backward = slopes * (scaled if more is None else scaled * more)
                of_hidden = backward.reshape(len(backward), -1) @ batch.rows
                ones = np.ones(len(factors)) if more is None else more
                return np.concatenate([of_hidden.reshape(-1), of_output_scaled @ ones])

            def inner_products(first: IntegerArray, second: IntegerArray, products: FloatArray) -> FloatArray:
                between = products_between(slopes.take(first, axis=2), slopes.take(second, axis=2))
                between *= products
                result = _bilinear(scaled.take(first, axis=1), between, scaled.take(second, axis=1))
                result += np.einsum(
                    "um,um->m", of_output_scaled.take(first, axis=1), of_output_scaled.take(second, axis=1)
                )
                # Enormous weights times factors of 0.
                return finite_or_zero(result)

            return Weighted(weighted_sum, inner_products)

        return Examined(squared_norms, weighted)

    def gradients(self, batch: Batch, model: FloatArray) -> FloatArray:
        """Return every conversation's gradient; see `HeadFormula`."""
        hidden, residuals, slopes = self._forward(batch, model)
        of_hidden = np.matmul(
            (slopes * residuals).transpose(2, 0, 1),
            by_column(batch.rows, len(batch.shares)).transpose(2, 1, 0),
        )
        of_output = np.einsum("pm,upm->mu", residuals, hidden)
        return np.concatenate([of_hidden.reshape(len(of_output), -1), of_output], axis=1)

    def _forward(self, batch: Batch, model: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return ``(units + 1, prefixes, m)`` units and a one, the residuals, and v where a unit is on, else 0."""
        units, places = HiddenLayerHead.UNITS, len(batch.rows)
        hidden_weights = model[: units * self._width].reshape(units, self._width)
        output = model[units * self._width :]
        hidden = np.empty((units + 1, places))
        activations = hidden[:units]
        np.matmul(hidden_weights, batch.rows.T, out=activations)
        np.maximum(activations, 0.0, out=activations)
        hidden[units] = 1.0
        slopes = output[:units, None] * (activations > 0.0)
        residuals = _residuals_of(-output @ hidden, batch)
        shape = (-1, *residuals.shape)
        return hidden.reshape(shape), residuals, slopes.reshape(shape)


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


def products_of(columns: FloatArray) -> FloatArray:
    """Return the products of every two prefixes of each conversation, a little longer: ``(prefixes, prefixes, m)`` float64.

    Those of one conversation are multiplied by numbers that are not negative: the residuals of its prefixes all have the
    sign that its label gives them. Making each product larger by a share of its size therefore makes the norm longer, by
    more than rounding can have made it shorter, also where terms cancel.

    Args:
        columns: of the rows; see `products_within`.
    """
    products = products_within(columns)
    products += _NORM_SLACK * np.abs(products)
    return products


def products_within(columns: FloatArray) -> FloatArray:
    """Return the products of every two prefixes of each conversation: ``(prefixes, prefixes, m)``.

    Args:
        columns: ``(values, prefixes, m)`` float64, as many values as a prefix has.
    """
    prefixes = range(columns.shape[1])
    products = np.empty((len(prefixes), len(prefixes), columns.shape[2]))
    for a in prefixes:
        for b in range(a + 1):
            np.einsum("dm,dm->m", columns[:, a], columns[:, b], out=products[a, b])
            products[b, a] = products[a, b]
    return products


def products_between(columns: FloatArray, others: FloatArray) -> FloatArray:
    """Return the products of every prefix of one conversation with every prefix of another: ``(prefixes, prefixes, pairs)``.

    Args:
        columns: ``(values, prefixes, pairs)`` float64, of the first of each pair.
        others: of the second.
    """
    prefixes = range(columns.shape[1])
    products = np.empty((len(prefixes), len(prefixes), columns.shape[2]))
    for a in prefixes:
        for b in prefixes:
            np.einsum("dm,dm->m", columns[:, a], others[:, b], out=products[a, b])
    return products


def by_column(rows: FloatArray, conversations: int) -> FloatArray:
    """Return the rows of a batch of m conversations as ``(dimension + 1, prefixes, m)``, where they lie."""
    return rows.T.reshape(rows.shape[1], -1, conversations)


def _squares(residuals: FloatArray, products: FloatArray) -> FloatArray:
    return _bilinear(residuals, products, residuals)


def _bilinear(left: FloatArray, products: FloatArray, right: FloatArray) -> FloatArray:
    found: FloatArray = np.einsum("abm,am,bm->m", products, left, right)
    return found


def _scaled(residuals: FloatArray, factors: FloatArray) -> FloatArray:
    scaled: FloatArray = residuals * factors
    np.copyto(scaled, 0.0, where=~np.isfinite(scaled))
    return scaled


def finite_or_zero(values: FloatArray) -> FloatArray:
    """Return values with 0 for each that is not finite: it belongs to a conversation that counts as nothing."""
    return np.where(np.isfinite(values), values, 0.0)


def _residuals_of(opposite_logits: FloatArray, batch: Batch) -> FloatArray:
    """Return (sigmoid(z) - y) * share for minus the logits z, ``(prefixes * m,)``, as ``(prefixes, m)``, in their place."""
    # An exponential that overflows gives a sigmoid of 0, as it should.
    residuals = opposite_logits.reshape(-1, len(batch.shares))
    np.exp(residuals, out=residuals)
    residuals += 1.0
    np.divide(batch.shares, residuals, out=residuals)
    residuals -= batch.positive_shares
    return residuals
