"""The sum of clipped per-conversation gradients of the linear head, in closed form, on the CPU or a GPU.

One conversation is one example. Its prefixes (the conversation after a third of its messages, after two thirds, ...) are
averaged inside its one gradient before that is clipped, so they cost no privacy.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from ringfence.model.errors import ConfigError
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray, MaskArray
from ringfence.privacy.grid import Grid

MICRO_BATCH = 256
"""Conversations whose gradients are held in memory at once."""


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


class LinearHeadGradients:
    """Per-conversation gradients of logistic regression on averaged prefixes.

    Mechanism: per-example clipping to C, weighting, rounding to the grid, exact integer sum.
    Unit: one conversation.
    Assumes: features of one conversation are computed from that conversation and public data alone.
    Sensitivity: weight * C in L2 norm for one conversation, plus float rounding within the grid's allowance.
    Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; closed form as in Goodfellow 2015, arXiv 1510.01799.

    Args:
        features: ``(n, prefixes, dimension)`` float32.
        labels: ``(n,)``, each 0 or 1.
        grid: of ``dimension + 1`` parameters: the weights, then the bias.
        positive_weight: factor on the loss of positive conversations, above 0.
        weights: ``(n,)`` factors in (0, 1] on clipped gradients, None for 1.
        device: "cpu" or a GPU that torch knows.

    Raises:
        ConfigError: shapes do not fit together or labels are not 0 or 1. The caller's fault.
    """

    def __init__(
        self,
        features: FeatureArray,
        labels: FloatArray | IntegerArray,
        *,
        grid: Grid,
        positive_weight: float,
        weights: FloatArray | None = None,
        device: str = "cpu",
    ) -> None:
        check_examples(features, labels, weights)
        if features.ndim != 3 or features.shape[1] < 1 or features.shape[2] + 1 != grid.dimension:
            raise ConfigError(
                "The features do not fit the model.", hint="Compute them with the plan's feature set."
            )
        self._grid = grid
        self._device = torch.device(device)
        self._features = torch.as_tensor(features, dtype=torch.float32, device=self._device)
        self._labels = torch.as_tensor(labels, dtype=torch.float64, device=self._device)
        self._loss_weights = 1.0 + (positive_weight - 1.0) * self._labels
        self._weights = (
            None if weights is None else torch.as_tensor(weights, dtype=torch.float64, device=self._device)
        )

    @property
    def examples(self) -> int:
        """Number of conversations."""
        return int(self._labels.shape[0])

    @property
    def grid(self) -> Grid:
        """The grid that the sum lies on."""
        return self._grid

    def clipped_sum(self, parameters: FloatArray, *, selected: MaskArray | None) -> IntegerArray:
        """Return the sum of the selected conversations' clipped gradients (all of them for None), ``(d,)`` int64."""
        total = torch.zeros(self._grid.dimension, dtype=torch.int64, device=self._device)
        model = torch.as_tensor(parameters, dtype=torch.float64, device=self._device)
        for rows in micro_batches(self.examples, selected, self._device):
            clipped = clip_gradients(self._gradients(model, rows), clip_norm=self._grid.clip_norm)
            total += round_to_grid(
                clipped, None if self._weights is None else self._weights[rows], self._grid
            )
        return np.asarray(total.cpu().numpy())

    def gradients(self, parameters: FloatArray) -> FloatArray:
        """Return every conversation's gradient before clipping, ``(n, d)`` float64: for reference runs without privacy."""
        model = torch.as_tensor(parameters, dtype=torch.float64, device=self._device)
        everyone = torch.arange(self.examples, device=self._device)
        return np.asarray(self._gradients(model, everyone).cpu().numpy())

    def _gradients(self, model: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        features = self._features[rows].double()
        logits = features @ model[:-1] + model[-1]
        residuals = (torch.sigmoid(logits) - self._labels[rows, None]) * self._loss_weights[rows, None]
        slopes = torch.einsum("np,npd->nd", residuals, features) / features.shape[1]
        return torch.cat([slopes, residuals.mean(dim=1, keepdim=True)], dim=1)


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


def micro_batches(
    examples: int, selected: MaskArray | None, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Return the selected rows in pieces of `MICRO_BATCH`; none selected gives no piece, and the sum stays zero."""
    rows = np.arange(examples) if selected is None else np.flatnonzero(selected)
    return tuple(
        torch.as_tensor(rows[start : start + MICRO_BATCH], device=device)
        for start in range(0, len(rows), MICRO_BATCH)
    )


def clip_gradients(gradients: torch.Tensor, *, clip_norm: float) -> torch.Tensor:
    """Scale each row of ``(n, d)`` float64 gradients to L2 norm at most ``clip_norm``.

    A row whose norm is not finite counts as zero: one bad example cannot stop a run, and cannot leave a trace.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    factors = torch.clamp(clip_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny), max=1.0)
    return torch.where(torch.isfinite(norms), gradients * factors, torch.zeros_like(gradients))


def round_to_grid(clipped: torch.Tensor, weights: torch.Tensor | None, grid: Grid) -> torch.Tensor:
    """Weigh clipped rows, round each towards zero onto the grid and sum them exactly: ``(d,)`` int64.

    Rounding towards zero never lengthens a vector. Rounding to nearest may, by half a step in every coordinate, and the
    allowance in `Grid.sensitivity` would not hold for somebody whose weight is spread over very many conversations.
    """
    weighted = clipped if weights is None else clipped * weights[:, None]
    return torch.trunc(weighted / grid.step).to(torch.int64).sum(dim=0)
