"""Which conversations take part in a step: an independent secret coin for each (Poisson sampling)."""

from __future__ import annotations

import math

import numpy as np

from ringfence.model.errors import ConfigError
from ringfence.privacy.arrays import MaskArray
from ringfence.privacy.secure_noise import RandomSource


def poisson_mask(source: RandomSource, count: int, *, sample_rate: float) -> MaskArray:
    """Draw one coin for each of ``count`` conversations.

    Mechanism: Poisson sampling: every conversation independently with probability q.
    Unit: one participant, at most k conversations: their number in the step is Binomial(k, q).
    Assumes: ``source`` is secret; the mask is never revealed.
    Sensitivity: none of its own; it amplifies the privacy of the step that uses it.
    Source: Mironov, Talwar and Zhang 2019, arXiv 1908.10530, section 3.

    Args:
        source: the secret generator.
        count: number of conversations that were kept by the contribution bound.
        sample_rate: q, strictly between 0 and 1. Full batch has no sampling: it does not come here.

    Returns:
        ``(count,)`` bool. Exactly ``count`` words are drawn, whatever the data.

    Raises:
        ConfigError: the rate is not strictly between 0 and 1. The plan's fault.
    """
    if not (math.isfinite(sample_rate) and 0.0 < sample_rate < 1.0):
        raise ConfigError(
            "The sample rate of Poisson sampling must lie strictly between 0 and 1.",
            hint='Use sampling = "full-batch" to take every conversation in every step.',
        )
    threshold = np.uint64(int(sample_rate * 2.0**64))
    return np.asarray(source.words(count) < threshold)
