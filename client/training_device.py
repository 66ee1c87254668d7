"""On which device the private step runs: what the member chose, held against what this machine has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from ringfence.model.errors import ConfigError

Device = Literal["cpu", "cuda", "auto"]


def has_cuda() -> bool:
    """Return whether torch can use a GPU here; it is imported for that."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def training_device(chosen: Device, *, available: Callable[[], bool] = has_cuda) -> str:
    """Return the device as `ringfence.privacy.training.train_privately` calls it.

    Args:
        chosen: "cpu", which needs no torch; "cuda"; or "auto", a GPU where there is one.
        available: whether torch can use a GPU here; asked only where it matters.

    Raises:
        ConfigError: a GPU was chosen and cannot be used. The operator's to mend.
    """
    if chosen == "cpu":
        return "cpu"
    if available():
        return "cuda"
    if chosen == "cuda":
        raise ConfigError(
            'member.toml has device = "cuda", and torch finds no GPU that it can use here.',
            hint='Set device = "cpu": it is faster for the heads that plans train. Or install a CUDA build of torch and a driver.',
        )
    return "cpu"
