"""Of epsilon, rounds, sample rate and noise, the one that a planner left open; as certificates will count it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ringfence.model.errors import ConfigError
from ringfence.privacy.accounting import LINEAR_HEAD_PARAMETERS, PLATFORMS, mechanism_epsilon
from ringfence.privacy.gaussian_privacy import gaussian_mu
from ringfence.privacy.grid import floating_point_delta
from ringfence.privacy.planning import MOST_NOISE, noise_multiplier_for, sample_rate_for, steps_for
from ringfence.privacy.renyi_filter import SampledGaussian

Quantity: TypeAlias = Literal["epsilon", "rounds", "sample_rate", "noise_multiplier"]

MOST_ROUNDS = 1000
"""Of one plan."""

_NOISE_PARTS = 10_000  # noise is rounded up to four decimals: epsilon only falls
_NEGLIGIBLE = 0.01
_TRIES = 4


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """The four numbers that hang together, for one person with conversations at one member.

    Attributes:
        epsilon: of the whole run.
        rounds: aggregations, 1 to 1,000.
        sample_rate: q in (0, 1]; 1 is the full batch.
        noise_multiplier: s.
        solved: which of the four was left open.
    """

    epsilon: float
    rounds: int
    sample_rate: float
    noise_multiplier: float
    solved: Quantity


@dataclass(frozen=True, slots=True)
class FixedTerms:
    """What the four numbers are worked out for.

    Attributes:
        contribution_bound: k, at least 1.
        local_steps: private steps of one round, at least 1.
        delta: in (0, 1).
        dimension: numbers of the model, at least 1.
    """

    contribution_bound: int = 2
    local_steps: int = 10
    delta: float = 1e-6
    dimension: int = LINEAR_HEAD_PARAMETERS

    def __post_init__(self) -> None:
        if not (self.contribution_bound >= 1 and self.local_steps >= 1 and 0.0 < self.delta < 1.0):
            raise ConfigError(
                "The contribution bound and the steps of a round are at least 1, delta between 0 and 1.",
                hint="Correct the number.",
            )


def planning_delta(delta: float, *, steps: int, dimension: int = LINEAR_HEAD_PARAMETERS) -> float:
    """Return what is left of a plan's delta after the finite tails of the noise, as certificates take it off.

    Raises:
        ConfigError: nothing is left.
    """
    left = delta - _tails(steps, dimension)
    if not left > 0.0:
        raise ConfigError(
            "delta is too small for this many steps.", hint="Allow a larger delta or fewer steps."
        )
    return left


def solve(
    terms: FixedTerms,
    *,
    epsilon: float | None = None,
    rounds: int | None = None,
    sample_rate: float | None = None,
    noise_multiplier: float | None = None,
) -> PlannedRun:
    """Return all four numbers when one was left open.

    Without a sample rate, two of the other three give the third for the full batch, and all three give the sample rate.
    What is solved is rounded to the safe side: the epsilon of the answer is never above the one that was asked for.

    Args:
        terms: what they are worked out for.
        epsilon: for a person with conversations at one member, above 0.
        rounds: 1 to 1,000.
        sample_rate: in (0, 1].
        noise_multiplier: above 0, up to 10,000.

    Raises:
        ConfigError: too few or too many numbers are given, one is out of range, or nothing in the planner's range fits.
    """
    if sample_rate is None and None in (epsilon, rounds, noise_multiplier):
        sample_rate = 1.0
    given = [value for value in (epsilon, rounds, sample_rate, noise_multiplier) if value is not None]
    if len(given) != 3:
        raise ConfigError(
            "Of epsilon, rounds and noise two are needed; with all three, the sample rate is worked out.",
            hint="Leave exactly one open.",
        )
    if not all(math.isfinite(value) and value > 0 for value in given) or (sample_rate or 0.0) > 1.0:
        raise ConfigError(
            "Each number is above 0, and the sample rate at most 1.", hint="Correct the number."
        )
    solved: Quantity = "epsilon"
    if rounds is None and epsilon is not None and sample_rate is not None and noise_multiplier is not None:
        rounds, solved = _rounds(terms, epsilon, sample_rate, noise_multiplier), "rounds"
    elif noise_multiplier is None and epsilon is not None and rounds is not None and sample_rate is not None:
        noise_multiplier, solved = _noise(terms, epsilon, rounds, sample_rate), "noise_multiplier"
    elif sample_rate is None and epsilon is not None and rounds is not None and noise_multiplier is not None:
        sample_rate, solved = _sample_rate(terms, epsilon, rounds, noise_multiplier), "sample_rate"
    return _with_epsilon(terms, rounds or 0, sample_rate or 0.0, noise_multiplier or 0.0, solved)


def _tails(steps: int, dimension: int) -> float:
    return max(PLATFORMS) * floating_point_delta(dimension=dimension, steps=steps)


def _with_epsilon(
    terms: FixedTerms, rounds: int, sample_rate: float, noise_multiplier: float, solved: Quantity
) -> PlannedRun:
    steps = rounds * terms.local_steps
    mechanism = SampledGaussian(terms.contribution_bound, sample_rate, noise_multiplier, steps)
    epsilon = mechanism_epsilon(
        mechanism, delta=planning_delta(terms.delta, steps=steps, dimension=terms.dimension)
    )
    return PlannedRun(epsilon, rounds, sample_rate, noise_multiplier, solved)


def _noise(terms: FixedTerms, epsilon: float, rounds: int, sample_rate: float) -> float:
    steps = rounds * terms.local_steps
    noise = noise_multiplier_for(
        epsilon,
        contribution_bound=terms.contribution_bound,
        sample_rate=sample_rate,
        steps=steps,
        delta=planning_delta(terms.delta, steps=steps, dimension=terms.dimension),
    )
    noise = math.ceil(noise * _NOISE_PARTS) / _NOISE_PARTS
    if noise > MOST_NOISE:
        raise ConfigError(
            "So little epsilon over so many rounds asks for more noise than a plan may have.",
            hint="Allow a larger epsilon or fewer rounds.",
        )
    return noise


def _rounds(terms: FixedTerms, epsilon: float, sample_rate: float, noise_multiplier: float) -> int:
    def steps(delta: float) -> int:
        if sample_rate == 1.0:  # exact: mu = k sqrt(T) / s
            return math.floor(
                (gaussian_mu(epsilon, delta=delta) * noise_multiplier / terms.contribution_bound) ** 2
            )
        return steps_for(
            epsilon,
            contribution_bound=terms.contribution_bound,
            sample_rate=sample_rate,
            noise_multiplier=noise_multiplier,
            delta=delta,
        )

    if _with_epsilon(terms, 1, sample_rate, noise_multiplier, "rounds").epsilon > epsilon:
        raise ConfigError(
            "Not even one round stays within this epsilon.",
            hint="Allow a larger epsilon, more noise, or fewer steps in a round.",
        )
    # More steps take more off delta: what is taken off for too many steps leaves an answer on the safe side.
    most = MOST_ROUNDS * terms.local_steps
    if _tails(most, terms.dimension) > _NEGLIGIBLE * terms.delta:
        most = min(most, steps(terms.delta))
    try:
        found = steps(planning_delta(terms.delta, steps=most, dimension=terms.dimension)) // terms.local_steps
    except ConfigError:  # one round it is, and by a hair
        found = 1
    rounds = min(MOST_ROUNDS, max(1, found))
    # The planner stops up to some steps short; whole rounds more are found by trying.
    for _ in range(_TRIES + rounds // 100):
        if rounds == MOST_ROUNDS:
            break
        if _with_epsilon(terms, rounds + 1, sample_rate, noise_multiplier, "rounds").epsilon > epsilon:
            break
        rounds += 1
    return rounds


def _sample_rate(terms: FixedTerms, epsilon: float, rounds: int, noise_multiplier: float) -> float:
    steps = rounds * terms.local_steps
    return sample_rate_for(
        epsilon,
        contribution_bound=terms.contribution_bound,
        steps=steps,
        noise_multiplier=noise_multiplier,
        delta=planning_delta(terms.delta, steps=steps, dimension=terms.dimension),
    )
