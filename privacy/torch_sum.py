"""The clipped sum by PyTorch: the shipped heads on a GPU, and what the backend for other modules shares with them."""

from __future__ import annotations

import numpy as np
import torch

from ringfence.model.errors import ConfigError
from ringfence.model.head import HiddenLayerHead, LinearHead
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray, MaskArray
from ringfence.privacy.clipped_sum import check_examples, check_selection
from ringfence.privacy.examples import Examples, GroupedRows
from ringfence.privacy.grid import Grid
from ringfence.privacy.head_gradients import formula_of

MICRO_BATCH = 1024
"""Conversations whose gradients are held in memory at once."""


class DeviceHeadGradients:
    """Per-conversation gradients of a shipped head on a device that torch knows; on the CPU `HeadGradients` is faster.

    Mechanism, unit, assumptions, sensitivity, source, arguments and errors are those of
    `ringfence.privacy.clipped_sum.HeadGradients`, which is its reference in tests.

    Args:
        device: such as "cuda".
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
        device: str,
    ) -> None:
        check_examples(features, labels, weights, group_sizes)
        if (
            features.ndim != 3
            or features.shape[1] < 1
            or formula_of(architecture, features.shape[2]).parameters != grid.dimension
        ):
            raise ConfigError(
                "The features do not fit the model.", hint="Compute them with the plan's feature set."
            )
        self._gradients_of = _DEVICE_FORMULAS[architecture]
        self._grid = grid
        self._device = torch.device(device)
        self._features = torch.as_tensor(features, dtype=torch.float32, device=self._device)
        self._targets = torch.as_tensor(labels, dtype=torch.float64, device=self._device)[:, None]
        self._shares = (1.0 + (positive_weight - 1.0) * self._targets) / features.shape[1]
        self._weights = (
            None if weights is None else torch.tensor(weights, dtype=torch.float64, device=self._device)
        )
        self._examples = Examples(one_each(len(labels)) if group_sizes is None else group_sizes)

    @property
    def examples(self) -> int:
        """Number of examples: of conversations, unless they are grouped."""
        return len(self._examples)

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
        total = torch.zeros(self._grid.dimension, dtype=torch.int64, device=self._device)
        weights = weights_in_step(self._weights, self._examples, selected, self._device)
        for group in self._examples.stretches(most=MICRO_BATCH):
            total += sum_on_fine_grid(
                self._gradients(parameters, group.rows),
                group,
                weights=None if weights is None else weights[group.rows],
                grid=self._grid,
            )
        return self._grid.rounded(np.asarray(total.cpu().numpy()))

    def gradients(self, parameters: FloatArray) -> FloatArray:
        """Return every conversation's gradient before clipping, ``(n, d)`` float64, computed in one batch."""
        return np.asarray(self._gradients(parameters, slice(None)).cpu().numpy())

    def _gradients(self, parameters: FloatArray, rows: slice) -> torch.Tensor:
        model = torch.as_tensor(parameters, dtype=torch.float64, device=self._device)
        features = self._features[rows].double()
        wide = torch.cat([features, torch.ones_like(features[:, :, :1])], dim=2)
        return self._gradients_of(model, wide, self._targets[rows], self._shares[rows])


def one_each(conversations: int) -> IntegerArray:
    """Return the group sizes of conversations that are an example each."""
    return np.ones(conversations, dtype=np.int64)


def weights_in_step(
    weights: torch.Tensor | None, examples: Examples, selected: MaskArray | None, device: torch.device
) -> torch.Tensor | None:
    """Return the factors on clipped gradients in a step, ``(conversations,)`` float64: 0 for what is not selected; None for 1.

    The gradients of what is not selected are computed too, for the reason given in `ringfence.privacy.clipped_sum`.
    """
    if selected is None:
        return weights
    chosen = torch.as_tensor(examples.selected_conversations(selected), dtype=torch.float64, device=device)
    return chosen if weights is None else weights * chosen


def clip_gradients(gradients: torch.Tensor, *, clip_norm: float) -> torch.Tensor:
    """Scale each row of ``(n, d)`` float64 gradients to L2 norm at most ``clip_norm``.

    A row whose norm is not finite counts as zero: one bad example cannot stop a run, and cannot leave a trace.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    factors = torch.clamp(clip_norm / norms.clamp(min=torch.finfo(norms.dtype).tiny), max=1.0)
    return torch.where(torch.isfinite(norms), gradients * factors, torch.zeros_like(gradients))


def sum_on_fine_grid(
    gradients: torch.Tensor, group: GroupedRows, *, weights: torch.Tensor | None, grid: Grid
) -> torch.Tensor:
    """Clip, weigh and sum the gradients of a stretch, example by example, in whole numbers of the fine grid.

    Args:
        gradients: ``(m, d)`` float64, of its conversations.
        group: the stretch.
        weights: ``(m,)`` factors in [0, 1] on clipped gradients, None for 1.
        grid: of the plan; see `ringfence.privacy.clipped_sum.on_fine_grid`.

    Returns:
        ``(d,)`` int64.
    """
    clipped = clip_gradients(gradients, clip_norm=grid.clip_norm)
    if weights is not None:
        clipped = clipped * weights[:, None]
    if len(group.first):
        of_examples = torch.zeros(
            (len(group.sizes), clipped.shape[1]), dtype=clipped.dtype, device=clipped.device
        )
        of_examples.index_add_(0, torch.as_tensor(group.example, device=clipped.device), clipped)
        clipped = clip_gradients(of_examples, clip_norm=grid.clip_norm)
    return torch.round(clipped.sum(dim=0) / grid.fine_step).to(torch.int64)


def _linear(
    model: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    residuals = (torch.sigmoid(rows @ model) - targets) * shares
    return torch.bmm(residuals[:, None, :], rows)[:, 0]


def _hidden_layer(
    model: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    units, width = HiddenLayerHead.UNITS, rows.shape[2]
    hidden_weights, output = model[: units * width].reshape(units, width), model[units * width :]
    hidden = torch.clamp(rows @ hidden_weights.T, min=0.0)
    with_one = torch.cat([hidden, torch.ones_like(hidden[:, :, :1])], dim=2)
    residuals = (torch.sigmoid(with_one @ output) - targets) * shares
    backward = residuals[:, :, None] * output[:units] * (hidden > 0.0)
    of_hidden = torch.bmm(backward.transpose(1, 2), rows).reshape(len(rows), -1)
    return torch.cat([of_hidden, torch.bmm(residuals[:, None, :], with_one)[:, 0]], dim=1)


_DEVICE_FORMULAS = {LinearHead.name: _linear, HiddenLayerHead.name: _hidden_layer}
