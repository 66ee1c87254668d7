"""Is every conversation sampled by an independent coin? Chi-square tests on batch sizes and on how often each took part.

False alarms: once in a million runs of a sound program. Each fault below is noticed every time in 25 runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ringfence.model.errors import ConfigError
from ringfence.model.plan import TrainingTerms
from ringfence.privacy.grid import Grid
from ringfence.privacy.private_step import StepTerms
from ringfence.privacy.sampler import poisson_mask
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import descend_privately

FALSE_ALARM = 1e-6
CONVERSATIONS = 2000
RATE = 0.1
STEPS = 60


class Attendance:
    """A source of empty sums that notes who was selected."""

    examples = CONVERSATIONS
    grid = Grid(1.0, 2)

    def __init__(self) -> None:
        self.masks: list[np.ndarray] = []

    def clipped_sum(self, parameters, *, selected):
        self.masks.append(selected)
        return np.zeros(2, np.int64)


def sampler_p_value() -> float:
    """Train, and test batch sizes against Binomial(n, q) and attendance against Binomial(T, q)."""
    source = Attendance()
    terms = TrainingTerms(feature_set_sha256="0" * 64)
    step = StepTerms(noise_multiplier=1.0, sample_rate=RATE, divisor=200.0)
    descend_privately(source, np.zeros(2), terms=terms, step=step, steps=STEPS, rng=Csprng())
    masks = np.array(source.masks)
    deviation = np.sqrt(CONVERSATIONS * RATE * (1 - RATE))
    spread = float((((masks.sum(axis=1) - CONVERSATIONS * RATE) / deviation) ** 2).sum())
    sizes = 2 * min(stats.chi2.cdf(spread, STEPS), stats.chi2.sf(spread, STEPS))
    attended = np.bincount(masks.sum(axis=0), minlength=STEPS + 1)
    expected = stats.binom.pmf(np.arange(STEPS + 1), STEPS, RATE) * CONVERSATIONS
    common = expected > 5
    found = np.append(attended[common], attended[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    return 2 * min(sizes, stats.chisquare(found, wanted).pvalue)


def test_a_sound_program_raises_no_alarm():
    assert min(sampler_p_value() for _ in range(25)) > FALSE_ALARM / 25


@pytest.mark.parametrize("name", ["shuffling", "rate x1.1"])
def test_the_fault_is_noticed_every_time_in_25_runs(fault, name):
    fault(name)
    assert max(sampler_p_value() for _ in range(25)) < FALSE_ALARM


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.1, float("nan"), float("inf")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(ConfigError):
        poisson_mask(Csprng(), 10, sample_rate=rate)


def test_a_coin_is_drawn_for_everybody_even_when_hardly_anybody_comes(repeatable):
    source = repeatable(0)
    assert not poisson_mask(source, 1000, sample_rate=1e-9).any()
    assert source.drawn == 1000
