"""The integer grid on which gradients are summed and noise is added.

Floating-point noise leaks: the low-order bits of a sum betray its terms, and a float32 sum of a few thousand clipped
gradients exceeds the bound that the accounting relies on. Integers do neither: every clipped gradient becomes a vector of
whole steps of the grid, sums are exact, and the noise is a whole number of steps too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.privacy.arrays import FloatArray, IntegerArray
from ringfence.privacy.secure_noise import TAIL_DELTA, RandomSource, standard_normals

GRID_BITS = 20
"""One step of the grid is the clip norm divided by two to this power."""

FLOAT_SLACK = 2.0**-16
"""Relative allowance for rounding while a norm is computed in floating point."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one plan.

    Mechanism: Gaussian noise rounded to the grid, added to a sum of grid vectors (post-processing of a continuous
        Gaussian, because the sum already lies on the grid).
    Unit: one conversation's gradient.
    Assumes: each summand was clipped to the clip norm before it came here.
    Sensitivity: `sensitivity` in L2 norm for each conversation of weight 1; it is above the clip norm, so that the noise
        covers rounding as well.
    Source: Kairouz, Liu and Steinke 2021, arXiv 2102.06387, section 4 (summing on a grid); Mironov 2012 (the attack on
        floating-point noise).

    Attributes:
        clip_norm: C, above 0.
        dimension: number of parameters, d.
    """

    clip_norm: float
    dimension: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0 and self.dimension >= 1):
            raise ConfigError(
                "The clip norm must be a finite number above 0, and the model must have parameters.",
                hint="Correct clip_norm in the plan.",
            )

    @property
    def step(self) -> float:
        """Gamma, the width of the grid, in units of the gradient."""
        return self.clip_norm * 2.0**-GRID_BITS

    @property
    def sensitivity(self) -> float:
        """S, what the noise is scaled to: the clip norm and everything that rounding may add."""
        return self.clip_norm * (1.0 + FLOAT_SLACK) + self.step * math.sqrt(self.dimension)

    def noise(self, source: RandomSource, *, noise_multiplier: float) -> IntegerArray:
        """Draw the noise of one step: ``(dimension,)`` int64, standard deviation ``noise_multiplier * S`` in steps."""
        deviation = noise_multiplier * self.sensitivity / self.step
        return np.rint(standard_normals(source, self.dimension) * deviation).astype(np.int64)

    def to_values(self, integers: IntegerArray) -> FloatArray:
        """Return grid vectors in units of the gradient: ``(dimension,)`` float64."""
        return integers.astype(np.float64) * self.step


def floating_point_delta(*, dimension: int, steps: int) -> float:
    """Return what the finite tails of the noise add to delta over ``steps`` draws of ``dimension`` values."""
    return dimension * steps * TAIL_DELTA
