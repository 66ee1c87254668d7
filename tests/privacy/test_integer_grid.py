"""Sums and noise are whole steps of a public grid, and the noise covers what rounding adds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ringfence.model.errors import BudgetError, ConfigError, PeerError
from ringfence.privacy.grid import (
    FINE_BITS,
    GRID_BITS,
    MOST_DEVIATION,
    MOST_SUMMANDS,
    SMOOTHING_STEPS,
    Grid,
    floating_point_delta,
)
from ringfence.privacy.secure_noise import Csprng, standard_normal_draws
from ringfence.privacy.update_grid import UPDATE_BOUND, UPDATE_STEP, dequantise_update, quantise_update


@pytest.mark.parametrize(("clip_norm", "dimension"), [(1.0, 109), (0.1, 1), (1000.0, 100_000)])
def test_the_sensitivity_is_the_clip_norm_and_a_little_more(clip_norm, dimension):
    grid = Grid(clip_norm, dimension)
    assert grid.step == clip_norm * 2.0**-GRID_BITS
    expected = clip_norm * (1 + 2.0**-16) + grid.step * np.sqrt(dimension)
    assert grid.sensitivity == pytest.approx(expected, rel=1e-15)
    assert clip_norm < grid.sensitivity < 1.001 * clip_norm


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clip_norm_that_bounds_nothing_is_refused(clip_norm):
    with pytest.raises(ConfigError):
        Grid(clip_norm, 3)


def test_noise_is_whole_numbers_with_the_promised_deviation():
    """Chi-square on the squares of 100,000 values; a sound mechanism fails once in a million runs."""
    grid = Grid(1.0, 100_000)
    noise = grid.noise(Csprng(), noise_multiplier=1.5, steps=1)[0]
    assert noise.dtype == np.int64
    scaled = noise / (1.5 * grid.sensitivity / grid.step)
    p_value = 2 * min(f((scaled**2).sum(), len(noise)) for f in (stats.chi2.cdf, stats.chi2.sf))
    assert p_value > 1e-6


@pytest.mark.parametrize("noise_multiplier", [1e10, float("inf"), float("nan"), -1.0])
def test_noise_that_64_bits_cannot_hold_is_refused(noise_multiplier):
    with pytest.raises(ConfigError, match="cannot be drawn in 64 bits"):
        Grid(1.0, 3).noise(Csprng(), noise_multiplier=noise_multiplier, steps=1)


def test_the_largest_noise_is_still_noise():
    grid = Grid(1.0, 2_000)
    noise = grid.noise(Csprng(), noise_multiplier=0.9 * MOST_DEVIATION * grid.step, steps=2)
    assert np.unique(noise).size == noise.size


def test_rounded_noise_has_the_law_of_a_rounded_gaussian():
    """Against the exact probability of each integer, at a deviation of about three steps; fails once in a million runs."""
    grid = Grid(1.0, 200_000)
    deviation = 3.0
    noise = grid.noise(Csprng(), noise_multiplier=deviation * grid.step / grid.sensitivity, steps=1)[0]
    support = np.arange(-9, 10)
    expected = stats.norm.cdf((support + 0.5) / deviation) - stats.norm.cdf((support - 0.5) / deviation)
    expected[0], expected[-1] = stats.norm.cdf(-8.5 / deviation), stats.norm.cdf(-8.5 / deviation)
    found = np.bincount(np.clip(noise, -9, 9) + 9, minlength=19)
    assert stats.chisquare(found, expected * len(noise)).pvalue > 1e-6


def test_a_second_draw_of_its_own_hides_what_floating_point_does_to_the_first(repeatable):
    """Chi-square on the squares of what the second adds, of 100,000 values; fails once in a million runs."""
    grid = Grid(1.0, 100_000)
    noise = grid.noise(repeatable(3), noise_multiplier=5.0, steps=1)[0]
    drawn = standard_normal_draws(repeatable(3), draws=2, count=100_000)
    first = np.rint(drawn[0] * (5.0 * grid.sensitivity / grid.step))
    second = (noise - first) / SMOOTHING_STEPS
    p_value = 2 * min(f((second**2).sum(), len(noise)) for f in (stats.chi2.cdf, stats.chi2.sf))
    assert p_value > 1e-6
    assert abs(np.corrcoef(first, second)[0, 1]) < stats.norm.isf(1e-6 / 2) / np.sqrt(len(noise))


def test_the_noise_of_several_steps_is_independent(repeatable):
    """Chi-square of the differences of two steps' noise, whose deviation is sqrt(2); fails once in a million runs."""
    grid = Grid(1.0, 2_001)
    source = repeatable(3)
    noise = grid.noise(source, noise_multiplier=5.0, steps=60)
    assert noise.shape == (60, 2_001)
    alone = repeatable(3)
    for _ in range(60):
        grid.noise(alone, noise_multiplier=5.0, steps=1)
    assert source.drawn == alone.drawn
    scale = 5.0 * grid.sensitivity / grid.step
    for other in (1, 7, 30):
        differences = (noise[other:] - noise[:-other]).ravel()[:: other + 1] / (np.sqrt(2) * scale)
        p_value = 2 * min(
            f((differences**2).sum(), len(differences)) for f in (stats.chi2.cdf, stats.chi2.sf)
        )
        assert p_value > 1e-6


@pytest.mark.parametrize("value", [0.0, 0.49999, -0.49999, 1.5, -7.25, 2.0**22])
def test_a_sum_on_the_fine_grid_is_rounded_to_the_nearest_step(value):
    grid = Grid(1.0, 1)
    fine = np.array([int(value * 2 ** (FINE_BITS - GRID_BITS))])
    assert abs(grid.rounded(fine)[0] - value) <= 0.5


def test_the_largest_sum_fits_into_64_bits():
    assert MOST_SUMMANDS * 2**FINE_BITS <= 2**62


def test_the_tails_add_next_to_nothing_to_delta():
    assert floating_point_delta(dimension=109, steps=300) == pytest.approx(109 * 300 * 2.0**-50)


class TestAnUpdateThatLeaves:
    def test_comes_back_to_within_half_a_step(self):
        delta = np.random.default_rng(0).normal(size=109)
        update = quantise_update(delta)
        assert update.dtype == np.int64
        assert np.abs(dequantise_update(update) - delta).max() <= UPDATE_STEP / 2

    def test_is_clamped_to_the_public_bound(self):
        assert dequantise_update(quantise_update(np.array([1e9, -1e9]))).tolist() == [
            UPDATE_BOUND,
            -UPDATE_BOUND,
        ]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_does_not_leave_when_it_is_not_finite(self, bad):
        with pytest.raises(BudgetError) as caught:
            quantise_update(np.array([0.0, bad]))
        assert "nan" not in caught.value.message

    @pytest.mark.parametrize(
        "forged",
        [np.array([2**43], dtype=np.int64), np.array([-(2**62)], dtype=np.int64), np.array([0.5])],
        ids=["too large", "far too small", "not integers"],
    )
    def test_is_refused_when_no_honest_member_could_have_sent_it(self, forged):
        with pytest.raises(PeerError):
            dequantise_update(forged)
