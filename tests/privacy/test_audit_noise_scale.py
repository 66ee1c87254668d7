"""Is the released noise as large as promised? A chi-square test on everything that training adds to the clipped sums.

False alarms: once in a million runs of a sound program, for each of the two tails together. Each fault below is noticed
every time in 25 runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ringfence.model.plan import TrainingTerms
from ringfence.privacy.clipped_sum import LinearHeadGradients
from ringfence.privacy.grid import Grid
from ringfence.privacy.private_step import StepTerms
from ringfence.privacy.secure_noise import Csprng
from ringfence.privacy.training import descend_privately

FALSE_ALARM = 1e-6
DIMENSION = 4000
EXAMPLES = 40
STEPS = 4
NOISE = 1.3
DIVISOR = 64.0


class Watched:
    """A source of sums that notes the model at the start of each step."""

    def __init__(self, source: LinearHeadGradients) -> None:
        self._source = source
        self.models: list[np.ndarray] = []
        self.examples, self.grid = source.examples, source.grid

    def clipped_sum(self, parameters, *, selected):
        self.models.append(parameters)
        return self._source.clipped_sum(parameters, selected=selected)


def noise_scale_p_value() -> float:
    """Train, take off what an independent computation says the clipped sums were, and test the scale of the rest."""
    features = np.zeros((EXAMPLES, 1, DIMENSION), np.float32)
    features[:, 0, 0] = 1e3  # every gradient is far above the clip norm, and points the same way
    source = Watched(
        LinearHeadGradients(features, np.ones(EXAMPLES), grid=Grid(1.0, DIMENSION + 1), positive_weight=1.0)
    )
    terms = TrainingTerms(feature_set_sha256="0" * 64, learning_rate=1e-9, momentum=0.0)
    step = StepTerms(noise_multiplier=NOISE, sample_rate=None, divisor=DIVISOR)
    final = descend_privately(
        source, np.zeros(DIMENSION + 1), terms=terms, step=step, steps=STEPS, rng=Csprng()
    )
    models = np.array([*source.models, final])
    released = -np.diff(models, axis=0) / terms.learning_rate * DIVISOR
    direction = np.zeros(DIMENSION + 1)
    direction[[0, -1]] = [-1e3, -1.0]
    clipped_sum = EXAMPLES * direction / np.linalg.norm(direction)
    squares = float((((released - clipped_sum) / (NOISE * source.grid.sensitivity)) ** 2).sum())
    freedom = released.size
    return 2 * min(stats.chi2.cdf(squares, freedom), stats.chi2.sf(squares, freedom))


def test_a_sound_program_raises_no_alarm():
    assert min(noise_scale_p_value() for _ in range(25)) > FALSE_ALARM / 25


@pytest.mark.parametrize("name", ["noise x0.9", "noise halved", "clipping skipped", "last draw missing"])
def test_the_fault_is_noticed_every_time_in_25_runs(fault, name):
    fault(name, steps=STEPS)
    assert max(noise_scale_p_value() for _ in range(25)) < FALSE_ALARM
