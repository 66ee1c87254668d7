"""The planner: of epsilon, steps, sample rate and noise, whatever is left open.

Epsilon falls with noise and grows with steps and with the sample rate, each almost as a power. So a first guess comes
from Renyi divergences, which are fast and a little too careful, and a few secant steps on the accountant of certificates
finish it. The answer is always on the safe side: its epsilon is at most the one that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ringfence.model.errors import ConfigError
from ringfence.privacy.accounting import mechanism_epsilon
from ringfence.privacy.gaussian_privacy import gaussian_mu
from ringfence.privacy.renyi_filter import RenyiFilter, SampledGaussian

MOST_NOISE = 1e4
LEAST_NOISE = 0.3
MOST_STEPS = 1_000_000
LEAST_RATE = 1e-6

_ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 28, 40, 64)
_PRECISION = 1e-3
_MOST_EVALUATIONS = 12


def noise_multiplier_for(
    epsilon: float, *, contribution_bound: int, sample_rate: float, steps: int, delta: float
) -> float:
    """Return the smallest noise multiplier that keeps a person within ``epsilon``.

    Exact for the full batch; otherwise at most 0.1 % of epsilon is left over.

    Raises:
        ConfigError: epsilon is out of range. The planner's fault.
    """
    _check_epsilon(epsilon)
    full_batch = contribution_bound * math.sqrt(steps) / gaussian_mu(epsilon, delta=delta)
    if sample_rate == 1.0:
        return full_batch

    def mechanism(noise: float) -> SampledGaussian:
        return SampledGaussian(contribution_bound, sample_rate, noise, steps)

    # The full batch needs the most noise, so its answer is within epsilon.
    most = min(MOST_NOISE, full_batch)
    return _border(mechanism, epsilon, delta, safe=most, limit=LEAST_NOISE, exponent=-1.0)


def steps_for(
    epsilon: float, *, contribution_bound: int, sample_rate: float, noise_multiplier: float, delta: float
) -> int:
    """Return the most steps (to 0.2 %) that keep a person within ``epsilon``.

    Raises:
        ConfigError: not even one step does. The planner's fault.
    """
    _check_epsilon(epsilon)

    def mechanism(steps: float) -> SampledGaussian:
        return SampledGaussian(contribution_bound, sample_rate, noise_multiplier, math.floor(steps))

    return math.floor(_border(mechanism, epsilon, delta, safe=1.0, limit=MOST_STEPS, exponent=0.5))


def sample_rate_for(
    epsilon: float, *, contribution_bound: int, steps: int, noise_multiplier: float, delta: float
) -> float:
    """Return the largest sample rate that keeps a person within ``epsilon``, to 0.1 % of epsilon; 1 is the full batch.

    Raises:
        ConfigError: not even one in a million does. The planner's fault.
    """
    _check_epsilon(epsilon)

    def mechanism(rate: float) -> SampledGaussian:
        return SampledGaussian(contribution_bound, rate, noise_multiplier, steps)

    if mechanism_epsilon(mechanism(1.0), delta=delta) <= epsilon:
        return 1.0
    return _border(mechanism, epsilon, delta, safe=LEAST_RATE, limit=1.0 - 1e-9, exponent=1.0)


def _border(
    mechanism: Callable[[float], SampledGaussian],
    epsilon: float,
    delta: float,
    *,
    safe: float,
    limit: float,
    exponent: float,
) -> float:
    """Return the value nearest to ``limit`` that stays within epsilon, which ``safe`` must do.

    ``exponent`` is roughly the power with which epsilon depends on the value.
    """
    if mechanism_epsilon(mechanism(safe), delta=delta) > epsilon:
        raise ConfigError(
            "Nothing in the planner's range stays within this epsilon.",
            hint="Allow a larger epsilon, or add noise or take fewer steps.",
        )
    value = best = _careful_guess(mechanism, epsilon, delta, safe=safe, limit=limit)
    lowest, highest = min(safe, limit), max(safe, limit)
    seen: tuple[float, float] | None = None
    for _ in range(_MOST_EVALUATIONS):
        found = mechanism_epsilon(mechanism(value), delta=delta)
        if found <= epsilon and abs(math.log(value / safe)) >= abs(math.log(best / safe)):
            best = value
        if value == limit or epsilon * (1.0 - _PRECISION) <= found <= epsilon:
            break
        if seen is not None and seen[1] != found and seen[0] != value:
            exponent = math.log(seen[1] / found) / math.log(seen[0] / value)
        seen = (value, found)
        # Aim just below the target, so that the last evaluation is within it.
        step = (epsilon * (1.0 - 0.5 * _PRECISION) / found) ** (1.0 / exponent)
        value = min(max(value * step, lowest), highest)
    return best


def _careful_guess(
    mechanism: Callable[[float], SampledGaussian], epsilon: float, delta: float, *, safe: float, limit: float
) -> float:
    """Bisect, in ratio, on the epsilon of Renyi divergences, which is an upper bound and takes milliseconds."""

    def within(value: float) -> bool:
        return any(
            RenyiFilter(math.inf, delta, order).epsilon_of(
                RenyiFilter(math.inf, delta, order).cost_of(mechanism(value))
            )
            <= epsilon
            for order in _ORDERS
        )

    good, bad = safe, limit
    while abs(math.log(good / bad)) > 0.02:
        middle = math.sqrt(good * bad)
        good, bad = (middle, bad) if within(middle) else (good, middle)
    return good


def _check_epsilon(epsilon: float) -> None:
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise ConfigError("epsilon must be finite and above 0.", hint="Ask for a larger epsilon.")
