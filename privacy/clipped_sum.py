"""The sum of clipped per-conversation gradients of a shipped head, in closed form.

One conversation is one example, or several of the same people are (`ringfence.privacy.grouping`); a conversation's prefixes
are averaged inside its one gradient (`ringfence.privacy.head_gradients`). What follows is the same for every head: the norm,
one factor a conversation, a sum, whole steps of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.model.head import LinearHead
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray, MaskArray
from ringfence.privacy.examples import Examples, GroupedRows
from ringfence.privacy.grid import MOST_SUMMANDS, Grid
from ringfence.privacy.head_gradients import (
    Batch,
    Examined,
    finite_or_zero,
    formula_of,
    products_between,
    products_of,
)

MICRO_BATCH = 1024
"""Conversations that are summed at once in float64."""

HELD_ROWS_BYTES = 64 * 1024 * 1024
"""Rows are kept in float64 up to this size; beyond it each micro-batch is converted, which costs next to no time then."""


class ClippedSumSource(Protocol):
    """Examples and a model, from which one step asks for a clipped sum."""

    @property
    def examples(self) -> int:
        """Number of examples: of conversations, unless they are grouped."""
        ...

    @property
    def grid(self) -> Grid:
        """The grid that the sum lies on."""
        ...

    def clipped_sum(self, parameters: FloatArray, *, selected: MaskArray | None) -> IntegerArray:
        """Return the sum of the selected conversations' clipped gradients (all of them for None), ``(d,)`` int64."""
        ...


class HeadGradients:
    """Per-conversation gradients of a shipped head on averaged prefixes.

    Mechanism: per-conversation clipping to C, weighting, the sum of each example clipped to C where it has several
        conversations, the sum of all, one rounding of it to the grid.
    Unit: one participant, whose conversations weigh at most k together.
    Assumes: features of one conversation are computed from that conversation and public data alone.
    Sensitivity: k * C in L2 norm and one step of the grid a coordinate, within k * `Grid.sensitivity`.
    Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; closed form as in Goodfellow 2015, arXiv 1510.01799; examples of
        several conversations as in `ringfence.privacy.grouping`.

    Every operation is one over all conversations of a micro-batch, whatever they hold: no branch depends on the data.

    Args:
        architecture: name in the registry of `ringfence.model.head`.
        features: ``(n, prefixes, dimension)`` float32.
        labels: ``(n,)``, each 0 or 1.
        grid: of as many parameters as the head has.
        positive_weight: factor on the loss of positive conversations, above 0.
        weights: ``(n,)`` factors in (0, 1] on clipped gradients, None for 1.
        group_sizes: ``(e,)``, conversations of each example, which lie together; None where each is one.

    Raises:
        ConfigError: shapes do not fit together, labels are not 0 or 1, the architecture is not known, or there are more than
            `MOST_SUMMANDS` conversations. The caller's fault.
    """

    def __init__(
        self,
        architecture: str,
        features: FeatureArray,
        labels: FloatArray | IntegerArray,
        *,
        grid: Grid,
        positive_weight: float,
        weights: FloatArray | None = None,
        group_sizes: IntegerArray | None = None,
    ) -> None:
        check_examples(features, labels, weights, group_sizes)
        if features.ndim != 3 or features.shape[1] < 1:
            raise ConfigError(_DOES_NOT_FIT, hint=_FEATURES_OF_THE_PLAN)
        self._formula = formula_of(architecture, features.shape[2])
        if self._formula.parameters != grid.dimension:
            raise ConfigError(_DOES_NOT_FIT, hint=_FEATURES_OF_THE_PLAN)
        self._grid = grid
        wide = features.shape[0] * features.shape[1] * (features.shape[2] + 1) * 8
        self._features = features
        self._is_finite = np.empty(len(features), dtype=np.bool_)
        self._products = np.empty((features.shape[1], features.shape[1], len(features)))
        self._rows = (
            np.empty((*features.shape[:2], features.shape[2] + 1)) if wide <= HELD_ROWS_BYTES else None
        )
        for rows in _stretches(len(features)):
            self._is_finite[rows] = np.isfinite(features[rows]).all(axis=(1, 2))
            converted = with_ones(features[rows], is_finite=self._is_finite[rows])
            self._products[:, :, rows] = np.where(self._is_finite[rows], products_of(converted), np.nan)
            if self._rows is not None:
                self._rows[rows] = converted
        targets = np.asarray(labels, dtype=np.float64)
        self._shares = (1.0 + (positive_weight - 1.0) * targets) / features.shape[1]
        self._positive_shares = self._shares * targets
        self._weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self._examples = None if group_sizes is None else Examples(group_sizes)
        if self._examples is not None:
            self._everything = tuple(self._examples.stretches(None, most=MICRO_BATCH))
            self._between = self._products_between(self._examples)

    @property
    def examples(self) -> int:
        """Number of examples: of conversations, unless they are grouped."""
        return len(self._shares) if self._examples is None else len(self._examples)

    @property
    def grid(self) -> Grid:
        """The grid that the sum lies on."""
        return self._grid

    def clipped_sum(self, parameters: FloatArray, *, selected: MaskArray | None) -> IntegerArray:
        """Return the sum of the selected examples' clipped gradients (all of them for None), ``(d,)`` int64."""
        model = np.asarray(parameters, dtype=np.float64)
        total = np.zeros(self._grid.dimension, dtype=np.int64)
        # What overflows or is not a number counts as nothing.
        with np.errstate(all="ignore"):
            for rows, group in self._micro_batches(selected):
                examined = self._formula.examine(self._batch(rows), model)
                norms = _norms(examined.squared_norms())
                factors = clip_factors(norms, clip_norm=self._grid.clip_norm)
                if self._weights is not None:
                    factors *= self._weights[rows]
                if group is not None:
                    factors *= self._group_factors(group, examined, norms, factors)
                total += on_fine_grid(examined.weighted_sum(factors), self._grid)
        return self._grid.rounded(total)

    def mean_gradient(self, parameters: FloatArray) -> FloatArray:
        """Return the mean of all gradients as they are, ``(d,)`` float64: without privacy, for reference."""
        model = np.asarray(parameters, dtype=np.float64)
        total = np.zeros(self._grid.dimension)
        with np.errstate(over="ignore"):
            for rows in _stretches(len(self._shares)):
                examined = self._formula.examine(self._batch(rows), model)
                total += examined.weighted_sum(np.ones(len(self._shares[rows])))
        return total / len(self._shares)

    def gradients(self, parameters: FloatArray) -> FloatArray:
        """Return every conversation's gradient before clipping, ``(n, d)`` float64: for reference."""
        model = np.asarray(parameters, dtype=np.float64)
        result = np.empty((len(self._shares), self._grid.dimension))
        with np.errstate(over="ignore"):
            for rows in _stretches(len(self._shares)):
                result[rows] = self._formula.gradients(self._batch(rows), model)
        return result

    def norms(self, parameters: FloatArray) -> FloatArray:
        """Return the L2 norm of every conversation's gradient as clipping uses it, ``(n,)``; not finite for what is not."""
        model = np.asarray(parameters, dtype=np.float64)
        with np.errstate(all="ignore"):
            found = [
                _norms(self._formula.examine(self._batch(rows), model).squared_norms())
                for rows in _stretches(len(self._shares))
            ]
        return np.concatenate(found)

    def _batch(self, rows: slice | IntegerArray) -> Batch:
        return Batch(
            rows=self._wide(rows),
            products=_along_last(self._products, rows),
            shares=self._shares[rows],
            positive_shares=self._positive_shares[rows],
        )

    def _wide(self, rows: slice | IntegerArray) -> FloatArray:
        if self._rows is not None:
            return self._rows[rows]
        return with_ones(self._features[rows], is_finite=self._is_finite[rows])

    def _group_factors(
        self, group: GroupedRows, examined: Examined, norms: FloatArray, factors: FloatArray
    ) -> FloatArray:
        between = _along_last(self._between, group.pairs)
        products = examined.inner_products(group.first, group.second, between)
        products *= factors[group.first]
        products *= factors[group.second]
        # What counts as nothing has a factor of 0, and adds nothing to the norm of its example.
        return group.factors(
            finite_or_zero(norms * factors), finite_or_zero(products), clip_norm=self._grid.clip_norm
        )

    def _products_between(self, examples: Examples) -> FloatArray:
        prefixes = self._features.shape[1]
        result = np.empty((prefixes, prefixes, len(examples.first)))
        for pairs in _stretches(len(examples.first)):
            first, second = self._wide(examples.first[pairs]), self._wide(examples.second[pairs])
            result[:, :, pairs] = products_between(first, second)
        return result

    def _micro_batches(
        self, selected: MaskArray | None
    ) -> Iterator[tuple[slice | IntegerArray, GroupedRows | None]]:
        if self._examples is not None:
            whole = selected is None
            groups = self._everything if whole else self._examples.stretches(selected, most=MICRO_BATCH)
            yield from ((group.rows, group) for group in groups)
        elif selected is None:
            # Stretches, not lists of places: they are looked at where they lie, without a copy.
            yield from ((rows, None) for rows in _stretches(len(self._shares)))
        else:
            places = np.flatnonzero(selected)
            yield from ((places[rows], None) for rows in _stretches(len(places)))


class LinearHeadGradients(HeadGradients):
    """Per-conversation gradients of logistic regression, the default head: `HeadGradients` with its name filled in."""

    def __init__(
        self,
        features: FeatureArray,
        labels: FloatArray | IntegerArray,
        *,
        grid: Grid,
        positive_weight: float,
        weights: FloatArray | None = None,
        group_sizes: IntegerArray | None = None,
    ) -> None:
        super().__init__(
            LinearHead.name,
            features,
            labels,
            grid=grid,
            positive_weight=positive_weight,
            weights=weights,
            group_sizes=group_sizes,
        )


def check_examples(
    features: FeatureArray | FloatArray,
    labels: FloatArray | IntegerArray,
    weights: FloatArray | None,
    group_sizes: IntegerArray | None,
) -> None:
    """Refuse examples whose parts do not belong together.

    Raises:
        ConfigError: lengths differ, labels are not 0 or 1, weights leave (0, 1], groups leave conversations out, or there are
            more than `MOST_SUMMANDS`. The caller's fault.
    """
    if len(labels) > MOST_SUMMANDS:
        raise ConfigError(
            f"More than {MOST_SUMMANDS:,} conversations cannot be summed on the grid.",
            hint="Take a part of the conversations into the query.",
        )
    hint = "Pass one feature row, one label and one weight for each kept conversation."
    if labels.ndim != 1 or len(features) != len(labels):
        raise ConfigError("Features and labels differ in number.", hint=hint)
    if not np.isin(labels, (0, 1)).all():
        raise ConfigError("Labels must be 0 or 1.", hint=hint)
    if weights is not None and (
        weights.shape != labels.shape or not ((weights > 0.0) & (weights <= 1.0)).all()
    ):
        raise ConfigError("There must be one weight in (0, 1] for each conversation.", hint=hint)
    if group_sizes is not None and int(np.sum(group_sizes)) != len(labels):
        raise ConfigError("The groups do not hold each conversation once.", hint=hint)


def with_ones(features: FeatureArray, *, is_finite: MaskArray) -> FloatArray:
    """Return features with a last column of ones, ``(n, prefixes, dimension + 1)`` float64: the bias is a weight like any.

    Conversations that are not finite come as zeros: they count as nothing, and may not reach a product with others.
    """
    wide = np.ones((*features.shape[:2], features.shape[2] + 1))
    wide[:, :, :-1] = features
    wide[~is_finite] = 0.0
    return wide


def clip_factors(norms: FloatArray, *, clip_norm: float) -> FloatArray:
    """Return what each gradient is multiplied by, ``(m,)``: its norm is then at most ``clip_norm``; 0 if it is not finite."""
    # C over the larger of the norm and C: exactly 1 for a norm of up to C, 0 for an infinite one, NaN for NaN.
    factors = np.maximum(norms, clip_norm)
    np.divide(clip_norm, factors, out=factors)
    # Of NaN and 0, fmax takes 0.
    return np.fmax(factors, 0.0, out=factors)


def on_fine_grid(clipped_sum: FloatArray, grid: Grid) -> IntegerArray:
    """Return the sum of a micro-batch in whole numbers of the fine grid, ``(d,)`` int64.

    In float64 the sum of 1,024 vectors of at most a clip norm is right to 2^-29 of it. Two data sets that differ in one
    person's content may differ by twice that in each of some 2^11 micro-batches, 2^-17 in all: half of what
    `Grid.sensitivity` allows for. Sums of micro-batches are exact, because they are of integers.
    """
    return np.asarray(np.rint(clipped_sum / grid.fine_step).astype(np.int64))


def _stretches(count: int) -> Iterator[slice]:
    yield from (slice(start, start + MICRO_BATCH) for start in range(0, count, MICRO_BATCH))


def _along_last(values: FloatArray, places: slice | IntegerArray) -> FloatArray:
    # Indexing would not leave the conversations last in memory.
    return values[:, :, places] if isinstance(places, slice) else values.take(places, axis=2)


def _norms(squares: FloatArray) -> FloatArray:
    np.maximum(squares, 0.0, out=squares)
    return np.sqrt(squares, out=squares)


_DOES_NOT_FIT = "The features do not fit the model."
_FEATURES_OF_THE_PLAN = "Compute them with the plan's feature set."
