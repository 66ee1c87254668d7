"""The exact privacy of repeated Gaussian noise without sampling, which every full-batch plan uses."""

from __future__ import annotations

import math

from ringfence.model.errors import ConfigError


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """Return the epsilon of a mechanism that is exactly ``mu``-Gaussian-DP, at ``delta``.

    Mechanism: Gaussian; T adaptive steps of sensitivity k and noise multiplier s have mu = k sqrt(T) / s.
    Unit: whatever the sensitivity was counted for.
    Assumes: no sampling.
    Sensitivity: contained in ``mu``.
    Source: Balle and Wang 2018, arXiv 1805.06530, theorem 8; Dong, Roth and Su 2019, arXiv 1905.02383, corollary 2.13.

    Args:
        mu: at least 0.
        delta: in (0, 1).

    Raises:
        ConfigError: a value is out of range.
    """
    if not (math.isfinite(mu) and mu >= 0.0 and 0.0 < delta < 1.0):
        raise ConfigError("mu must be finite and at least 0, delta in (0, 1).", hint="Correct the plan.")
    if mu == 0.0 or gaussian_delta(mu, epsilon=0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, epsilon=high) > delta:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gaussian_delta(mu, epsilon=middle) > delta else (low, middle)
    return high


def gaussian_delta(mu: float, *, epsilon: float) -> float:
    """Return the smallest delta for which a ``mu``-Gaussian-DP mechanism is (``epsilon``, delta)-DP."""
    if mu == 0.0:
        return 0.0
    first = _log_upper_tail(epsilon / mu - mu / 2.0)
    second = epsilon + _log_upper_tail(epsilon / mu + mu / 2.0)
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


def gaussian_mu(epsilon: float, *, delta: float) -> float:
    """Return the largest mu whose epsilon at ``delta`` is at most ``epsilon``.

    Raises:
        ConfigError: a value is out of range.
    """
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise ConfigError("epsilon must be finite and above 0.", hint="Ask for a larger epsilon.")
    low, high = 0.0, 1.0
    while gaussian_epsilon(high, delta=delta) < epsilon:
        low, high = high, 2.0 * high
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gaussian_epsilon(middle, delta=delta) <= epsilon else (low, middle)
    return low


def _log_upper_tail(x: float) -> float:
    """Return the logarithm of P(Z > x) for a standard normal Z, accurate far into the tail."""
    if x < 20.0:
        return math.log(0.5 * math.erfc(x / math.sqrt(2.0)))
    # Asymptotic series of Mills' ratio; at x = 20 its fourth term is below 1e-9.
    inverse = 1.0 / (x * x)
    series = 1.0 - inverse * (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse * (1.0 - 7.0 * inverse)))
    return -0.5 * x * x - math.log(x * math.sqrt(2.0 * math.pi)) + math.log(series)
