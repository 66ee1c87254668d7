"""The sum of clipped per-conversation gradients for any PyTorch module, through Opacus' per-sample gradients.

It stands behind the same interface as the closed form of `ringfence.privacy.clipped_sum` and is its reference in tests.
Of Opacus, only `GradSampleModule` and `ModuleValidator` are used; noise and the step are the same code for both.
"""

from __future__ import annotations

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn

from ringfence.model.errors import ConfigError
from ringfence.privacy.arrays import FeatureArray, FloatArray, IntegerArray, MaskArray
from ringfence.privacy.clipped_sum import check_examples
from ringfence.privacy.grid import Grid
from ringfence.privacy.torch_sum import clip_gradients, micro_batches, sum_on_fine_grid


class ModuleGradients:
    """Per-conversation gradients of a module that maps features to logits.

    Mechanism: per-example clipping to C, weighting, a sum, one rounding of it to the grid.
    Unit: one participant, whose conversations weigh at most k together.
    Assumes: the module treats examples one by one. Batch normalisation, mean-centring and negatives from the batch do
        not, and the last two pass Opacus' validator: hold each shipped module to `gradients` of a batch of one in a test.
    Sensitivity: k * C in L2 norm and one step of the grid a coordinate, within k * `Grid.sensitivity`.
    Source: Abadi et al. 2016, arXiv 1607.00133, algorithm 1; Opacus, arXiv 2109.12298, section 2.

    Args:
        module: maps ``(batch, prefixes, dimension)`` to logits ``(batch, prefixes)``, or ``(batch, ...)`` to ``(batch,)``.
            Its parameters in PyTorch's order, flattened, are the model.
        features: ``(n, ...)``.
        labels: ``(n,)``, each 0 or 1.
        grid: of as many parameters as the module has.
        positive_weight: factor on the loss of positive conversations, above 0.
        weights: ``(n,)`` factors in (0, 1] on clipped gradients, None for 1.

    Raises:
        ConfigError: shapes do not fit together, or the module cannot be trained in private. The caller's fault.
    """

    def __init__(
        self,
        module: nn.Module,
        features: FeatureArray | FloatArray,
        labels: FloatArray | IntegerArray,
        *,
        grid: Grid,
        positive_weight: float,
        weights: FloatArray | None = None,
    ) -> None:
        check_examples(features, labels, weights)
        problems = ModuleValidator.validate(module, strict=False)
        if problems:
            raise ConfigError(
                "The module mixes examples or cannot give per-sample gradients, so it cannot be trained in private.",
                hint="Replace batch normalisation by group or layer normalisation.",
            )
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if sum(parameter.numel() for parameter in trained) != grid.dimension:
            raise ConfigError(
                "The grid does not fit the module.", hint="Give the grid the number of parameters."
            )
        self._grid = grid
        self._parameters = trained
        self._module = GradSampleModule(module, loss_reduction="sum")
        self._dtype, self._device = trained[0].dtype, trained[0].device
        self._features = torch.as_tensor(features, dtype=self._dtype, device=self._device)
        self._labels = torch.as_tensor(labels, dtype=self._dtype, device=self._device)
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
        self._load(parameters)
        total = torch.zeros(self._grid.dimension, dtype=torch.int64, device=self._device)
        for rows in micro_batches(self.examples, selected, self._device):
            clipped = clip_gradients(self._gradients(rows), clip_norm=self._grid.clip_norm)
            total += sum_on_fine_grid(
                clipped, None if self._weights is None else self._weights[rows], self._grid
            )
        return self._grid.rounded(np.asarray(total.cpu().numpy()))

    def gradients(self, parameters: FloatArray, *, rows: IntegerArray | None = None) -> FloatArray:
        """Return gradients before clipping, ``(n, d)`` float64, computed in one batch of the given rows (None: all)."""
        self._load(parameters)
        chosen = torch.as_tensor(np.arange(self.examples) if rows is None else rows, device=self._device)
        return np.asarray(self._gradients(chosen).cpu().numpy())

    def _load(self, parameters: FloatArray) -> None:
        values = torch.as_tensor(parameters, dtype=self._dtype, device=self._device)
        with torch.no_grad():
            for parameter, piece in zip(
                self._parameters,
                torch.split(values, [parameter.numel() for parameter in self._parameters]),
                strict=True,
            ):
                parameter.copy_(piece.view_as(parameter))

    def _gradients(self, rows: torch.Tensor) -> torch.Tensor:
        self._module.zero_grad()
        # Opacus' hooks fire on the way back through the module's inputs.
        logits = self._module(self._features[rows].requires_grad_()).reshape(len(rows), -1)
        targets = self._labels[rows, None].expand_as(logits)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        torch.autograd.backward((losses.mean(dim=1) * self._loss_weights[rows]).sum())
        pieces = [_grad_sample(parameter).reshape(len(rows), -1) for parameter in self._parameters]
        gradients = torch.cat(pieces, dim=1).double()
        self._module.zero_grad()
        return gradients


def _grad_sample(parameter: nn.Parameter) -> torch.Tensor:
    found = getattr(parameter, "grad_sample", None)
    if not isinstance(found, torch.Tensor):
        raise ConfigError(
            "A parameter of the module takes no part in its output once for each example.",
            hint="Use each parameter exactly once, or freeze it.",
        )
    return found.detach()
