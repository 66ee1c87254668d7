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

SMOOTHING_STEPS = 2.0**13
"""Deviation, in steps of the grid, of the second draw that hides what floating point does to the first."""

SMOOTHING_SHARE = 2.0**-6
"""Most that the deviation of the second draw may be of the first's."""


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
        """Draw the noise of one step: ``(dimension,)`` int64, standard deviation ``noise_multiplier * S`` in steps.

        Two draws are added. The first alone is the mechanism that is accounted for. In float64 it falls short of the exact
        law: a value of some 10^8 steps is right to about 2^-22 of a step, which moves the border between a whole number and
        the next, and with it the probability of either, by as much. The second draw, of 2^13 steps, is post-processing: it
        changes nothing in the accounting and averages those borders over thousands of neighbours. What is left is a
        factor within 1 +- 2^-30 on the probability of an outcome, for each value, which over the 10^4 to 10^5 values of
        a run is less than the allowance in `sensitivity` gives away.
        """
        deviation = noise_multiplier * self.sensitivity / self.step
        smoothing = min(SMOOTHING_STEPS, SMOOTHING_SHARE * deviation)
        noise = np.rint(standard_normals(source, self.dimension) * deviation)
        noise += np.rint(standard_normals(source, self.dimension) * smoothing)
        return np.asarray(noise.astype(np.int64))

    def to_values(self, integers: IntegerArray) -> FloatArray:
        """Return grid vectors in units of the gradient: ``(dimension,)`` float64."""
        return integers.astype(np.float64) * self.step


def floating_point_delta(*, dimension: int, steps: int) -> float:
    """Return what the finite tails of the noise add to delta over ``steps`` draws of ``dimension`` values."""
    return dimension * steps * TAIL_DELTA
