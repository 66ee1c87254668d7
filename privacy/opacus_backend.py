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
from ringfence.privacy.clipped_sum import check_examples, check_selection
from ringfence.privacy.examples import Examples
from ringfence.privacy.grid import Grid
from ringfence.privacy.torch_sum import MICRO_BATCH, one_each, sum_on_fine_grid, weights_in_step

_PROBES = 4
_TOLERANCE = 1e-5
"""Relative and absolute; float32 modules stay within it, and mixing does not."""


class ModuleGradients:
    """Per-conversation gradients of a module that maps features to logits.

    Mechanism: per-conversation clipping to C, weighting, the sum of each example clipped to C where it has several
        conversations, the sum of all, one rounding of it to the grid.
    Unit: one participant, whose conversations weigh at most k together.
    Assumes: the module treats examples one by one. Batch normalisation, mean-centring and negatives from the batch do
        not, and the last two pass Opacus' validator: made-up examples are therefore held to batches of one, here and now.
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
        group_sizes: ``(e,)``, conversations of each example, which lie together; None where each is one.

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
        group_sizes: IntegerArray | None = None,
    ) -> None:
        check_examples(features, labels, weights, group_sizes)
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
            None if weights is None else torch.tensor(weights, dtype=torch.float64, device=self._device)
        )
        self._examples = Examples(one_each(len(labels)) if group_sizes is None else group_sizes)
        self._left_half_done = False
        refuse_mixing(self, shape=tuple(self._features.shape[1:]))

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
            ConfigError: there is not one choice for each example, or a step failed before. The caller's fault.
        """
        check_selection(selected, examples=self.examples)
        self._load(parameters)
        total = torch.zeros(self._grid.dimension, dtype=torch.int64, device=self._device)
        weights = weights_in_step(self._weights, self._examples, selected, self._device)
        for group in self._examples.stretches(most=MICRO_BATCH):
            total += sum_on_fine_grid(
                self._gradients_of(group.rows),
                group,
                weights=None if weights is None else weights[group.rows],
                grid=self._grid,
            )
        return self._grid.rounded(np.asarray(total.cpu().numpy()))

    def gradients(self, parameters: FloatArray, *, rows: IntegerArray | None = None) -> FloatArray:
        """Return gradients before clipping, ``(n, d)`` float64, computed in one batch of the given rows (None: all)."""
        self._load(parameters)
        chosen = slice(None) if rows is None else torch.as_tensor(rows, device=self._device)
        return np.asarray(self._gradients_of(chosen).cpu().numpy())

    def _load(self, parameters: FloatArray) -> None:
        values = torch.as_tensor(parameters, dtype=self._dtype, device=self._device)
        with torch.no_grad():
            for parameter, piece in zip(
                self._parameters,
                torch.split(values, [parameter.numel() for parameter in self._parameters]),
                strict=True,
            ):
                parameter.copy_(piece.view_as(parameter))

    def made_up_gradients(self, parameters: FloatArray, features: FloatArray) -> FloatArray:
        """Return the gradients of examples that are nobody's, ``(m, d)`` float64, computed in one batch."""
        self._load(parameters)
        made_up = torch.as_tensor(features, dtype=self._dtype, device=self._device)
        labels = torch.arange(len(made_up), device=self._device).remainder(2).to(self._dtype)
        return np.asarray(self._gradients(made_up, labels, torch.ones_like(labels)).cpu().numpy())

    def _gradients_of(self, rows: slice | torch.Tensor) -> torch.Tensor:
        return self._gradients(self._features[rows], self._labels[rows], self._loss_weights[rows])

    def _gradients(
        self, features: torch.Tensor, labels: torch.Tensor, loss_weights: torch.Tensor
    ) -> torch.Tensor:
        if self._left_half_done:
            raise ConfigError(
                "A step on these examples failed before, and Opacus holds what is left of it.",
                hint="Make a new source from the same examples.",
            )
        self._left_half_done = True
        self._module.zero_grad()
        # Opacus' hooks fire on the way back through the module's inputs; a module may work on its input in place.
        logits = self._module(features.clone().requires_grad_()).reshape(len(labels), -1)
        targets = labels[:, None].expand_as(logits)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        torch.autograd.backward((losses.mean(dim=1) * loss_weights).sum())
        pieces = [_grad_sample(parameter).reshape(len(labels), -1) for parameter in self._parameters]
        gradients = torch.cat(pieces, dim=1).double()
        self._module.zero_grad()
        self._left_half_done = False
        return gradients


def refuse_mixing(source: ModuleGradients, *, shape: tuple[int, ...]) -> None:
    """Hold a module's gradients of made-up examples to those of each alone: whoever is in a batch must not change another's.

    Args:
        source: of the module.
        shape: of one example.

    Raises:
        ConfigError: the module mixes examples, so that no bound on one person's part would hold. The caller's fault.
    """
    generator = np.random.default_rng(0)
    parameters = 0.3 * generator.normal(size=source.grid.dimension)
    pairs = generator.normal(size=(_PROBES, 2, *shape))
    together = np.concatenate([source.made_up_gradients(parameters, pair) for pair in pairs])[::2]
    alone = np.concatenate([source.made_up_gradients(parameters, pair[:1]) for pair in pairs])
    if not np.allclose(together, alone, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise ConfigError(
            "The module mixes examples: a conversation's gradient depends on who else is in the batch.",
            hint="Leave out whatever looks across the batch, such as its mean or its other examples.",
        )


def _grad_sample(parameter: nn.Parameter) -> torch.Tensor:
    found = getattr(parameter, "grad_sample", None)
    if not isinstance(found, torch.Tensor):
        raise ConfigError(
            "A parameter of the module takes no part in its output once for each example.",
            hint="Use each parameter exactly once, or freeze it.",
        )
    return found.detach()
