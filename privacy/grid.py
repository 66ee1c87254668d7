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
from ringfence.privacy.secure_noise import TAIL_DELTA, RandomSource, standard_normal_draws

GRID_BITS = 20
"""One step of the grid is the clip norm divided by two to this power."""

FINE_BITS = 40
"""Sums are kept in whole numbers of the clip norm divided by two to this power, until they are rounded to the grid."""

MOST_SUMMANDS = 2**21
"""More conversations than this in one sum could leave 64 bits, and what float64 loses could leave the allowance."""

FLOAT_SLACK = 2.0**-16
"""Relative allowance for rounding while a norm is computed in floating point."""

SMOOTHING_STEPS = 2.0**13
"""Deviation, in steps of the grid, of the second draw that hides what floating point does to the first."""

MOST_DEVIATION = 2.0**53
"""Most that the deviation of the noise may be, in steps of the grid: values of many deviations then still fit 64 bits."""

SMOOTHING_SHARE = 2.0**-6
"""Most that the deviation of the second draw may be of the first's."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one plan.

    Mechanism: Gaussian noise rounded to the grid, added to a sum on the grid (post-processing of a continuous Gaussian,
        because the sum already lies on the grid).
    Unit: one participant, whose conversations weigh at most k together, k at least 1.
    Assumes: each summand was clipped to the clip norm before it came here, and the sum rounded once, at the end.
    Sensitivity: k * `sensitivity` in L2 norm. Two sums that differ by v before rounding differ by less than one step a
        coordinate more afterwards: |v| + step * sqrt(d), with |v| at most k times the clip norm, however many conversations
        a person's weight is spread over. The relative allowance is for what float64 loses in norms and in sums.
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

    @property
    def fine_step(self) -> float:
        """Width of the fine grid, on which sums are kept, in units of the gradient."""
        return self.clip_norm * 2.0**-FINE_BITS

    def rounded(self, fine_sum: IntegerArray) -> IntegerArray:
        """Return a sum on the fine grid as whole steps of the grid, rounded to the nearest: ``(dimension,)`` int64."""
        shift = FINE_BITS - GRID_BITS
        result: IntegerArray = (fine_sum + (1 << (shift - 1))) >> shift
        return result

    def noise(self, source: RandomSource, *, noise_multiplier: float, steps: int) -> IntegerArray:
        """Draw the noise of some steps: ``(steps, dimension)`` int64, standard deviation ``noise_multiplier * S``.

        All values are independent. Drawn together, the noise of several steps costs a fraction of what it does one by one.

        Two draws are added. The first alone is the mechanism that is accounted for. In float64 it falls short of the exact
        law: a value of some 10^8 steps is right to about 2^-22 of a step, which moves the border between a whole number and
        the next, and with it the probability of either, by as much. The second draw, of 2^13 steps, is post-processing: it
        changes nothing in the accounting and averages those borders over thousands of neighbours. What is left is a
        factor within 1 +- 2^-30 on the probability of an outcome, for each value, which over the 10^4 to 10^5 values of
        a run is less than the allowance in `sensitivity` gives away.

        Raises:
            ConfigError: the noise does not fit the numbers that hold it. The planner's fault.
        """
        deviation = noise_multiplier * self.sensitivity / self.step
        if not 0.0 <= deviation <= MOST_DEVIATION:
            raise ConfigError(
                f"A noise multiplier of {noise_multiplier:g} cannot be drawn in 64 bits.",
                hint="Take one between 0 and 1,000,000.",
            )
        smoothing = min(SMOOTHING_STEPS, SMOOTHING_SHARE * deviation)
        drawn = standard_normal_draws(source, draws=2 * steps, count=self.dimension)
        first, second = drawn[:steps], drawn[steps:]
        return np.asarray((np.rint(first * deviation) + np.rint(second * smoothing)).astype(np.int64))

    def to_values(self, integers: IntegerArray) -> FloatArray:
        """Return grid vectors in units of the gradient: ``(dimension,)`` float64."""
        return integers.astype(np.float64) * self.step


def floating_point_delta(*, dimension: int, steps: int) -> float:
    """Return what the finite tails of the noise add to delta over ``steps`` draws of ``dimension`` values."""
    return dimension * steps * TAIL_DELTA
