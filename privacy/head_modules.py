"""The heads as PyTorch modules, their parameters in the order of the plan's model: what Opacus takes gradients of.

A head without a closed form (`ringfence.privacy.head_gradients`) is trained through its module. Those that have one are here as
well: they are the reference that the closed forms are held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from ringfence.model.errors import ConfigError
from ringfence.model.head import HiddenLayerHead, LinearHead


class LinearModule(nn.Module):
    """The linear head: features ``(batch, prefixes, dimension)`` to logits ``(batch, prefixes)``."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, 1).double()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return one logit a prefix."""
        logits: torch.Tensor = self.linear(features)
        return logits.squeeze(-1)


class HiddenLayerModule(nn.Module):
    """The head with one hidden layer: each unit's bias is its last weight, as in the model's order."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dimension + 1, HiddenLayerHead.UNITS, bias=False).double()
        self.output = nn.Linear(HiddenLayerHead.UNITS, 1).double()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return one logit a prefix."""
        with_one = torch.cat([features, torch.ones_like(features[..., :1])], dim=-1)
        logits: torch.Tensor = self.output(torch.relu(self.hidden(with_one)))
        return logits.squeeze(-1)


MODULES: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {LinearHead.name: LinearModule, HiddenLayerHead.name: HiddenLayerModule}
)
"""Name in the registry of `ringfence.model.head` -> its module on features of a dimension."""


def module_of(architecture: str, dimension: int) -> nn.Module:
    """Return a head as a module, its parameters to be filled in.

    Raises:
        ConfigError: it has none. The plan's fault.
    """
    if architecture not in MODULES:
        raise ConfigError(
            f"The architecture {architecture} cannot be trained here.",
            hint=f"Choose one of {', '.join(sorted(MODULES))}.",
        )
    return MODULES[architecture](dimension)
