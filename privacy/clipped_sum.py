"""The sum of clipped per-conversation gradients of a shipped head, in closed form.

One conversation is one example; its prefixes are averaged inside its one gradient (`ringfence.privacy.head_gradients`).
What follows is the same for every head: the norm, one factor a conversation, whole steps of the grid, an exact sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.model.head import LinearHead
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray, MaskArray
from ringfence.privacy.grid import Grid
from ringfence.privacy.head_gradients import formula_of

MICRO_BATCH = 1024
"""Most conversations whose gradients are held in memory at once."""

HELD_GRADIENTS = 2**17
"""Most numbers of gradients that are held at once, unless a single conversation has more: 1 MiB, what a cache can hold."""

HELD_ROWS_BYTES = 64 * 1024 * 1024
"""Rows are kept in float64 up to this size; beyond it each micro-batch is converted, which costs next to no time then."""


class ClippedSumSource(Protocol):
    """Examples and a model, from which one step asks for a clipped sum."""

    @property
    def examples(self) -> int:
        """Number of conversations."""
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

    Mechanism: per-example clipping to C, weighting, rounding to the grid, exact integer sum.
    Unit: one conversation.
    Assumes: features of one conversation are computed from that conversation and public data alone.
    Sensitivity: weight * C in L2 norm for one conversation, plus float rounding within the grid's allowance.
    Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; closed form as in Goodfellow 2015, arXiv 1510.01799.

    Every operation is one over all conversations of a micro-batch, whatever they hold: no branch depends on the data. Not
    for several threads at once: the gradients of a micro-batch stand in one buffer, used again and again.

    Args:
        architecture: name in the registry of `ringfence.model.head`.
        features: ``(n, prefixes, dimension)`` float32.
        labels: ``(n,)``, each 0 or 1.
        grid: of as many parameters as the head has.
        positive_weight: factor on the loss of positive conversations, above 0.
        weights: ``(n,)`` factors in (0, 1] on clipped gradients, None for 1.

    Raises:
        ConfigError: shapes do not fit together, labels are not 0 or 1, or the architecture is not known. The caller's fault.
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
    ) -> None:
        check_examples(features, labels, weights)
        if features.ndim != 3 or features.shape[1] < 1:
            raise ConfigError(_DOES_NOT_FIT, hint=_FEATURES_OF_THE_PLAN)
        self._formula = formula_of(architecture, features.shape[2])
        if self._formula.parameters != grid.dimension:
            raise ConfigError(_DOES_NOT_FIT, hint=_FEATURES_OF_THE_PLAN)
        self._grid = grid
        wide = features.shape[0] * features.shape[1] * (features.shape[2] + 1) * 8
        self._features = features
        self._rows = with_ones(features) if wide <= HELD_ROWS_BYTES else None
        self._targets = np.asarray(labels, dtype=np.float64)[:, None]
        self._shares = (1.0 + (positive_weight - 1.0) * self._targets) / features.shape[1]
        self._weights = None if weights is None else np.asarray(weights, dtype=np.float64)
        self._gradients = np.empty((0, grid.dimension))

    @property
    def examples(self) -> int:
        """Number of conversations."""
        return len(self._targets)

    @property
    def grid(self) -> Grid:
        """The grid that the sum lies on."""
        return self._grid

    def clipped_sum(self, parameters: FloatArray, *, selected: MaskArray | None) -> IntegerArray:
        """Return the sum of the selected conversations' clipped gradients (all of them for None), ``(d,)`` int64."""
        total = np.zeros(self._grid.dimension, dtype=np.int64)
        for rows in self._micro_batches(selected):
            gradients, norms = self._fill(parameters, rows)
            weights = None if self._weights is None else self._weights[rows]
            total += sum_on_grid(gradients, norms, weights, self._grid)
        return total

    def gradients(self, parameters: FloatArray) -> FloatArray:
        """Return every conversation's gradient before clipping, ``(n, d)`` float64: for reference runs without privacy."""
        result = np.empty((self.examples, self._grid.dimension))
        for rows in self._micro_batches(None):
            result[rows] = self._fill(parameters, rows)[0]
        return result

    def norms(self, parameters: FloatArray) -> FloatArray:
        """Return the L2 norm of every conversation's gradient as clipping uses it, ``(n,)`` float64."""
        return np.concatenate([self._fill(parameters, rows)[1] for rows in self._micro_batches(None)])

    def _fill(self, parameters: FloatArray, rows: slice | IntegerArray) -> tuple[FloatArray, FloatArray]:
        wide = with_ones(self._features[rows]) if self._rows is None else self._rows[rows]
        if len(self._gradients) < len(wide):
            self._gradients = np.empty((len(wide), self._grid.dimension))
        gradients = self._gradients[: len(wide)]
        # What overflows or is not a number counts as nothing further down.
        with np.errstate(all="ignore"):
            norms = self._formula.fill(
                gradients,
                rows=wide,
                targets=self._targets[rows],
                shares=self._shares[rows],
                model=np.asarray(parameters, dtype=np.float64),
            )
        return gradients, norms

    def _micro_batches(self, selected: MaskArray | None) -> Iterator[slice | IntegerArray]:
        size = max(1, min(MICRO_BATCH, HELD_GRADIENTS // self._grid.dimension))
        if selected is None:
            # Stretches, not lists of places: they are looked at where they lie, without a copy.
            yield from (slice(start, start + size) for start in range(0, self.examples, size))
        else:
            places = np.flatnonzero(selected)
            yield from (places[start : start + size] for start in range(0, len(places), size))


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
    ) -> None:
        super().__init__(
            LinearHead.name, features, labels, grid=grid, positive_weight=positive_weight, weights=weights
        )


def check_examples(
    features: FeatureArray | FloatArray, labels: FloatArray | IntegerArray, weights: FloatArray | None
) -> None:
    """Refuse examples whose parts do not belong together.

    Raises:
        ConfigError: lengths differ, labels are not 0 or 1, or weights leave (0, 1]. The caller's fault.
    """
    hint = "Pass one feature row, one label and one weight for each kept conversation."
    if labels.ndim != 1 or len(features) != len(labels):
        raise ConfigError("Features and labels differ in number.", hint=hint)
    if not np.isin(labels, (0, 1)).all():
        raise ConfigError("Labels must be 0 or 1.", hint=hint)
    if weights is not None and (
        weights.shape != labels.shape or not ((weights > 0.0) & (weights <= 1.0)).all()
    ):
        raise ConfigError("There must be one weight in (0, 1] for each conversation.", hint=hint)


def with_ones(features: FeatureArray) -> FloatArray:
    """Return features with a last column of ones, ``(n, prefixes, dimension + 1)`` float64: the bias is a weight like any."""
    wide = np.ones((*features.shape[:2], features.shape[2] + 1))
    wide[:, :, :-1] = features
    return wide


def clip_factors(norms: FloatArray, *, clip_norm: float) -> FloatArray:
    """Return what each gradient is multiplied by, ``(m,)``: its norm is then at most ``clip_norm``; 0 if it is not finite."""
    factors = np.minimum(clip_norm / np.maximum(norms, np.finfo(np.float64).tiny), 1.0)
    return np.where(np.isfinite(norms), factors, 0.0)


def sum_on_grid(
    gradients: FloatArray, norms: FloatArray, weights: FloatArray | None, grid: Grid
) -> IntegerArray:
    """Clip rows, weigh them, round each towards zero onto the grid and sum them exactly: ``(d,)`` int64.

    A row whose norm is not finite counts as zero: one bad example cannot stop a run, and cannot leave a trace. Rounding
    towards zero never lengthens a vector. Rounding to nearest may, by half a step in every coordinate, and the allowance
    in `Grid.sensitivity` would not hold for somebody whose weight is spread over very many conversations.

    The sum is taken in float64 and is nevertheless exact: a rounded row is a vector of integers of at most 2^20 (one clip
    norm), so every partial sum of fewer than 2^33 rows, in whatever order, is an integer below 2^53.

    Args:
        gradients: ``(m, d)`` float64; overwritten.
        norms: ``(m,)``, their L2 norms.
        weights: ``(m,)`` in (0, 1], or None for 1.
        grid: gives the clip norm and the step.
    """
    factors = clip_factors(norms, clip_norm=grid.clip_norm) / grid.step
    if weights is not None:
        factors *= weights
    gradients[~np.isfinite(norms)] = 0.0
    gradients *= factors[:, None]
    np.trunc(gradients, out=gradients)
    total: FloatArray = np.ones(len(gradients)) @ gradients
    return total.astype(np.int64)


_DOES_NOT_FIT = "The features do not fit the model."
_FEATURES_OF_THE_PLAN = "Compute them with the plan's feature set."
