"""The sum of clipped per-conversation gradients of a shipped head, in closed form.

One conversation is one example, or several of the same people are (`ringfence.privacy.grouping`); a conversation's prefixes
are averaged inside its one gradient (`ringfence.privacy.head_gradients`). What follows is the same for every head: the norm,
one factor a conversation, a sum, whole steps of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.model.head import LinearHead
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray, MaskArray
from ringfence.privacy.examples import Examples, GroupedRows
from ringfence.privacy.grid import MOST_SUMMANDS, Grid
from ringfence.privacy.head_gradients import (
    Batch,
    by_column,
    formula_of,
    products_between,
    products_of,
)

MICRO_BATCH_ROWS = 4096
"""Rows, of a conversation's prefixes each, that are summed at once in float64."""

HELD_ROWS_BYTES = 64 * 1024 * 1024
"""Rows are kept in float64 up to this size; beyond it each micro-batch is converted in each step, for about twice the time."""


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


@dataclass(frozen=True, slots=True)
class _MicroBatch:
    """Conversations that are summed together, and what of them is the same in every step.

    Attributes:
        rows: where they lie among all.
        is_finite: ``(m,)``, which of them count.
        batch: as the formula takes them; its rows are left out where each step converts them.
        weights: of each, None for 1.
        group: the examples that they form, None where each is one.
        between: products of the prefixes of each pair in an example.
    """

    rows: slice
    is_finite: MaskArray
    batch: Batch
    weights: FloatArray | None
    group: GroupedRows | None
    between: FloatArray


class HeadGradients:
    """Per-conversation gradients of a shipped head on averaged prefixes.

    Mechanism: per-conversation clipping to C, weighting, the sum of each example clipped to C where it has several
        conversations, the sum of all, one rounding of it to the grid.
    Unit: one participant, whose conversations weigh at most k together.
    Assumes: features of one conversation are computed from that conversation and public data alone, and no longer than 4.
    Sensitivity: k * C in L2 norm and one step of the grid a coordinate, within k * `Grid.sensitivity`.
    Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; closed form as in Goodfellow 2015, arXiv 1510.01799; examples of
        several conversations as in `ringfence.privacy.grouping`.

    Every operation is one over all conversations of a micro-batch, whatever they hold: no branch depends on the data. Nor
    does the place of a conversation depend on who else is selected, because rounding depends on places: with weights of 1e20
    that cancel, a logit is nothing but rounding. Sampling is accounted for by what a step does with an example and
    without it, so the others may not change at all. Whoever is not selected is therefore computed, and counts as nothing.
    For the same reason two neighbouring data sets have the same rows, of which those of one person count as nothing in one
    of them: with a row taken out, every other row could be rounded anew.

    Args:
        architecture: name in the registry of `ringfence.model.head`.
        features: ``(n, prefixes, dimension)`` float32; may not change afterwards, because what follows from them is kept.
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
        with np.errstate(over="ignore"):
            self._features = np.asarray(features, dtype=np.float32)
        targets = np.asarray(labels, dtype=np.float64)
        self._shares = (1.0 + (positive_weight - 1.0) * targets) / features.shape[1]
        self._positive_shares = self._shares * targets
        self._weights = None if weights is None else np.array(weights, dtype=np.float64)
        self._examples = None if group_sizes is None else Examples(group_sizes)
        wide = features.shape[0] * features.shape[1] * (features.shape[2] + 1) * 8
        self._hold = wide <= HELD_ROWS_BYTES
        most = max(1, MICRO_BATCH_ROWS // features.shape[1])
        if self._examples is None:
            parts = [self._part(slice(at, at + most), None) for at in range(0, len(features), most)]
        else:
            parts = [self._part(group.rows, group) for group in self._examples.stretches(most=most)]
        self._parts = tuple(parts)

    @property
    def examples(self) -> int:
        """Number of examples: of conversations, unless they are grouped."""
        return len(self._shares) if self._examples is None else len(self._examples)

    @property
    def grid(self) -> Grid:
        """The grid that the sum lies on."""
        return self._grid

    def clipped_sum(self, parameters: FloatArray, *, selected: MaskArray | None) -> IntegerArray:
        """Return the sum of the selected examples' clipped gradients (all of them for None), ``(d,)`` int64.

        Raises:
            ConfigError: there is not one choice for each example. The caller's fault.
        """
        check_selection(selected, examples=self.examples)
        model = np.asarray(parameters, dtype=np.float64)
        total = np.zeros(self._grid.dimension, dtype=np.int64)
        chosen = selected
        if self._examples is not None and selected is not None:
            chosen = self._examples.selected_conversations(selected)
        # What overflows or is not a number counts as nothing.
        with np.errstate(all="ignore"):
            for part in self._parts:
                examined = self._formula.examine(self._batch(part), model)
                squares = examined.squared_norms()
                factors = clip_factors(squares, clip_norm=self._grid.clip_norm)
                if part.weights is not None:
                    factors *= part.weights
                if chosen is not None:
                    factors *= chosen[part.rows]
                weighted = examined.weighted(factors)
                of_examples = None
                if part.group is not None:
                    squares *= factors
                    squares *= factors
                    of_examples = part.group.factors(
                        # What counts as nothing has a factor of 0, and adds nothing to the norm of its example.
                        np.fmax(squares, 0.0, out=squares),
                        weighted.inner_products(part.group.first, part.group.second, part.between),
                        clip_norm=self._grid.clip_norm,
                    )
                total += on_fine_grid(weighted.sum(of_examples), self._grid)
        return self._grid.rounded(total)

    def mean_gradient(self, parameters: FloatArray) -> FloatArray:
        """Return the mean of all gradients as they are, ``(d,)`` float64: without privacy, for reference."""
        model = np.asarray(parameters, dtype=np.float64)
        total = np.zeros(self._grid.dimension)
        with np.errstate(over="ignore"):
            for part in self._parts:
                examined = self._formula.examine(self._batch(part), model)
                total += examined.weighted(np.ones(len(part.batch.shares))).sum(None)
        return total / len(self._shares)

    def gradients(self, parameters: FloatArray) -> FloatArray:
        """Return every conversation's gradient before clipping, ``(n, d)`` float64: for reference."""
        model = np.asarray(parameters, dtype=np.float64)
        with np.errstate(over="ignore"):
            found = [self._formula.gradients(self._batch(part), model) for part in self._parts]
        return np.concatenate([np.empty((0, self._grid.dimension)), *found])

    def norms(self, parameters: FloatArray) -> FloatArray:
        """Return the L2 norm of every conversation's gradient as clipping uses it, ``(n,)``; not finite for what is not."""
        model = np.asarray(parameters, dtype=np.float64)
        with np.errstate(all="ignore"):
            found = [
                np.sqrt(np.maximum(self._formula.examine(self._batch(part), model).squared_norms(), 0.0))
                for part in self._parts
            ]
        return np.concatenate([np.empty(0), *found])

    def _batch(self, part: _MicroBatch) -> Batch:
        if self._hold:
            return part.batch
        rows = with_ones(self._features[part.rows], is_finite=part.is_finite, by_columns=False)
        return replace(part.batch, rows=rows)

    def _part(self, rows: slice, group: GroupedRows | None) -> _MicroBatch:
        features = self._features[rows]
        is_finite: MaskArray = np.asarray(np.isfinite(features).all(axis=(1, 2)))
        # Writing rows by column takes longer, and is worth it where many steps follow.
        wide = with_ones(features, is_finite=is_finite, by_columns=self._hold)
        columns = by_column(wide, len(features))
        batch = Batch(
            rows=wide if self._hold else _LEFT_OUT,
            products=np.where(is_finite, products_of(columns), np.nan),
            shares=self._shares[rows],
            positive_shares=self._positive_shares[rows],
        )
        between = _LEFT_OUT
        if group is not None:
            between = products_between(columns.take(group.first, axis=2), columns.take(group.second, axis=2))
        weights = None if self._weights is None else self._weights[rows]
        return _MicroBatch(rows, is_finite, batch, weights=weights, group=group, between=between)


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


def check_selection(selected: MaskArray | None, *, examples: int) -> None:
    """Refuse a choice of examples that is not of these.

    Raises:
        ConfigError: there is not one choice for each example. The caller's fault.
    """
    if selected is not None and selected.shape != (examples,):
        raise ConfigError(
            f"The sample is not of these {examples} examples.", hint="Draw one choice for each example."
        )


def with_ones(features: FeatureArray, *, is_finite: MaskArray, by_columns: bool) -> FloatArray:
    """Return features prefix by prefix, with a last column of ones: the bias is a weight like any.

    Conversations that are not finite come as zeros: they count as nothing, and may not reach a product with others.

    Args:
        features: ``(m, prefixes, dimension)``.
        is_finite: ``(m,)``.
        by_columns: columns, not rows, lie in one piece.

    Returns:
        ``(prefixes * m, dimension + 1)`` float64.
    """
    conversations, prefixes, dimension = features.shape
    if by_columns:
        columns = np.empty((dimension + 1, prefixes, conversations))
        wide = columns.transpose(1, 2, 0)
        rows = columns.reshape(dimension + 1, -1).T
    else:
        wide = np.empty((prefixes, conversations, dimension + 1))
        rows = wide.reshape(-1, dimension + 1)
    wide[:, :, :-1] = features.transpose(1, 0, 2)
    wide[:, :, -1] = 1.0
    wide[:, ~is_finite] = 0.0
    return rows


def clip_factors(squared_norms: FloatArray, *, clip_norm: float) -> FloatArray:
    """Return what each gradient is multiplied by, ``(m,)``: its norm is then at most ``clip_norm``; 0 if it is not finite."""
    # C over the larger of the norm and C: exactly 1 for a norm of up to C, because the root of a rounded square is the number
    # itself; 0 for an infinite one, NaN for NaN.
    factors = np.maximum(squared_norms, clip_norm * clip_norm)
    np.sqrt(factors, out=factors)
    np.divide(clip_norm, factors, out=factors)
    # Of NaN and 0, fmax takes 0.
    return np.fmax(factors, 0.0, out=factors)


def on_fine_grid(clipped_sum: FloatArray, grid: Grid) -> IntegerArray:
    """Return the sum of a micro-batch in whole numbers of the fine grid, ``(d,)`` int64.

    What float64 loses is small in whatever order the terms meet. The residuals of a conversation have one sign, and their
    sum is its gradient's part for the bias: clipped, they are together at most C. Its terms, rows of length 4 (and the one)
    times a residual each, are therefore together at most 4.2 C long, also where they cancel. Summing 2^12 of them in float64
    errs by at most 2^12 * 2^-53 of all their lengths, which for some 2^21 conversations is 2^-17.9 C. Two data sets that
    differ in one person's content may differ by twice that: about half of what `Grid.sensitivity` allows for. Rounding
    each micro-batch to the fine grid adds little: sqrt(d) * 2^-40 C for each of at most 2^13. Their sum is exact, because
    it is of integers.
    """
    return np.asarray(np.rint(clipped_sum / grid.fine_step).astype(np.int64))


_LEFT_OUT: FloatArray = np.empty((0, 0))
_DOES_NOT_FIT = "The features do not fit the model."
_FEATURES_OF_THE_PLAN = "Compute them with the plan's feature set."
