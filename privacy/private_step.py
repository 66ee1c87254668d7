"""One private step: sample, clip and sum, add noise once, divide by a public constant."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ringfence.model.errors import BudgetError, ConfigError
from ringfence.privacy.arrays import FloatArray, IntegerArray
from ringfence.privacy.clipped_sum import ClippedSumSource
from ringfence.privacy.sampler import poisson_mask
from ringfence.privacy.secure_noise import RandomSource


@dataclass(frozen=True, slots=True)
class StepTerms:
    """The public constants of every step of a run.

    Attributes:
        noise_multiplier: s, standard deviation of the noise in units of the sensitivity of one conversation, above 0.
        sample_rate: q in (0, 1); None takes every conversation in every step.
        divisor: B, a public constant of the plan, at least 1: never the batch that came, never the number of examples.
    """

    noise_multiplier: float
    sample_rate: float | None
    divisor: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0.0):
            raise ConfigError("The noise multiplier must be finite and above 0.", hint="Correct the plan.")
        if not (math.isfinite(self.divisor) and self.divisor > 0.0):
            raise ConfigError(
                "The divisor of a step must be finite and above 0.", hint="Correct the size class."
            )


NOISE_AT_ONCE = 64
"""Steps whose noise is drawn together: a few MB for the largest head."""


def private_gradients(
    source: ClippedSumSource, *, terms: StepTerms, steps: int, rng: RandomSource
) -> Iterator[Callable[[FloatArray], FloatArray]]:
    """Yield, for each of some steps, what takes the parameters to that step's noised gradient: call it once.

    The noise of several steps is drawn together, because that takes a fraction of the time. Each vector of it belongs to one
    step, which refuses to be asked twice, or in a process that was forked meanwhile and would add the same noise again.
    """
    for start in range(0, steps, NOISE_AT_ONCE):
        count, process = min(NOISE_AT_ONCE, steps - start), os.getpid()
        drawn = source.grid.noise(rng, noise_multiplier=terms.noise_multiplier, steps=count)
        for noise in drawn:
            yield _Step(source, terms, rng, noise, process=process)


class _Step:
    """One step, with its own noise, which is good in the process that drew it."""

    __slots__ = ("_noise", "_process", "_rng", "_source", "_terms")

    def __init__(
        self,
        source: ClippedSumSource,
        terms: StepTerms,
        rng: RandomSource,
        noise: IntegerArray,
        *,
        process: int,
    ) -> None:
        self._source = source
        self._terms = terms
        self._rng = rng
        # A list, which a copy of the step would share: whoever takes the noise out has it alone.
        self._noise = [noise]
        self._process = process

    def __call__(self, parameters: FloatArray) -> FloatArray:
        try:
            noise = self._noise.pop()
        except IndexError:
            noise = None
        if noise is None or self._process != os.getpid():
            raise BudgetError(
                "The noise of a step may be used once, in the process that drew it.",
                hint="Take new steps.",
            )
        return _noised_gradient(self._source, parameters, terms=self._terms, rng=self._rng, noise=noise)


def private_gradient(
    source: ClippedSumSource, parameters: FloatArray, *, terms: StepTerms, rng: RandomSource
) -> FloatArray:
    """Return the noised gradient of one step, ``(d,)`` float64; see `private_gradients` for several."""
    (step,) = private_gradients(source, terms=terms, steps=1, rng=rng)
    return step(parameters)


def _noised_gradient(
    source: ClippedSumSource,
    parameters: FloatArray,
    *,
    terms: StepTerms,
    rng: RandomSource,
    noise: IntegerArray,
) -> FloatArray:
    """Return the noised gradient of one step, ``(d,)`` float64.

    Mechanism: (sampled) Gaussian on the clipped sum, on an integer grid.
    Unit: one participant, at most k conversations (contribution bound).
    Assumes: Poisson sampling at rate q from a secret source, or the full batch; C, s, q and B fixed in the plan.
    Sensitivity: k * S in L2 norm, S = `Grid.sensitivity`.
    Source: Abadi et al. 2016, algorithm 1; noise scale of Ganesh et al. 2025, section 3.

    An empty sample is a step like any other: its sum is zero, and its noise is drawn. The number of random words depends
    on the number of examples and parameters alone.
    """
    # Step 1: one secret mask for the whole step.
    selected = (
        None
        if terms.sample_rate is None
        else poisson_mask(rng, source.examples, sample_rate=terms.sample_rate)
    )
    # Steps 2 and 3: micro-batches, clip each conversation, round, sum as integers.
    clipped_sum = source.clipped_sum(parameters, selected=selected)
    # Step 4: one vector of noise, which no other step has, on the sum.
    noised_sum = clipped_sum + noise
    # Step 5: the public constant.
    return source.grid.to_values(noised_sum) / terms.divisor
