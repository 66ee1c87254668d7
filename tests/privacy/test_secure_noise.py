"""The generator of noise cannot be predicted, repeated, saved or inherited."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from ringfence.privacy.secure_noise import (
    Csprng,
    log_uniforms,
    standard_normal_draws,
    standard_normals,
    uniforms,
)

FALSE_ALARM = 1e-6


class TestTheGenerator:
    def test_has_no_argument_that_could_seed_it(self):
        assert list(inspect.signature(Csprng).parameters) == []

    def test_gives_two_instances_different_words(self):
        assert not np.array_equal(Csprng().words(8), Csprng().words(8))

    def test_never_repeats_its_own_words(self):
        source = Csprng()
        assert len(np.unique(np.concatenate([source.words(1000), source.words(1000)]))) == 2000

    @pytest.mark.parametrize(
        "duplicate", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deep copy", "pickle"]
    )
    def test_refuses_to_be_duplicated(self, duplicate):
        with pytest.raises(TypeError, match="secret"):
            duplicate(Csprng())

    def test_draws_a_new_key_in_a_forked_child(self):
        source = Csprng()
        source.words(1)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - runs in the child
            os.write(write_end, source.words(4).tobytes())
            os._exit(0)
        os.waitpid(child, 0)
        childs = np.frombuffer(os.read(read_end, 32), dtype=np.uint64)
        os.close(read_end)
        os.close(write_end)
        assert len(childs) == 4
        assert not np.isin(childs, source.words(64)).any()

    def test_is_not_touched_by_the_seeds_of_other_generators(self):
        import torch

        draws = []
        for _ in range(2):
            torch.manual_seed(42)
            np.random.seed(42)  # the habit that must not matter
            draws.append(standard_normals(Csprng(), 16))
        assert not np.allclose(draws[0], draws[1])


class TestTheValues:
    def test_uniforms_are_never_zero_even_for_extreme_words(self):
        class Extremes:
            def words(self, count):
                return np.array([0, 2**64 - 1] * count, dtype=np.uint64)[:count]

        extremes = Extremes().words(2)
        assert uniforms(extremes).tolist() == [2.0**-53, 1.0]
        assert log_uniforms(extremes, extremes).tolist() == [-106 * np.log(2.0), 0.0]
        assert np.isfinite(standard_normals(Extremes(), 9)).all()

    @pytest.mark.parametrize(
        "top", [0, 1, 2, 1000, 2**23, 2**52 - 1, 2**52, 2**53 - 1000, 2**53 - 2, 2**53 - 1]
    )
    def test_the_lengths_of_pairs_lie_closer_than_the_grid_wherever_they_fall(self, top):
        """At a deviation of 10^4 clip norms: if lengths left out a step of the grid, a release would rule out neighbours."""
        steps = 1e4 * 2.0**20
        for low in (0, 1, 2**45, 2**52, 2**53 - 2):
            if (top, low) in ((0, 0), (0, 1)):
                continue  # once in 2^105 pairs
            first = np.array([top << 11] * 2, dtype=np.uint64)
            second = np.array([low << 11, (low + 1) << 11], dtype=np.uint64)
            shorter, longer = np.sqrt(-2.0 * log_uniforms(first, second)) * steps
            assert abs(longer - shorter) < 1e-3, (low, longer, shorter)
        if top + 1 < 2**53:
            # From the last value of these top bits to the first of the next: the second word fills the whole gap.
            first = np.array([top << 11, (top + 1) << 11], dtype=np.uint64)
            second = np.array([(2**53 - 1) << 11, 0], dtype=np.uint64)
            shorter, longer = np.sqrt(-2.0 * log_uniforms(first, second)) * steps
            assert abs(longer - shorter) < 1e-3, (longer, shorter)

    @pytest.mark.parametrize(
        "top", [0, 1, 2**52 - 1, 2**52, 2**53 - 2**40, 2**53 - 1000, 2**53 - 2, 2**53 - 1]
    )
    def test_logarithms_of_uniforms_are_right_to_the_last_bits(self, top):
        """Against 60 decimal digits. Near 1, where only the second word differs, the nearest float64 of the value will not do."""
        lows = [0, 1, 2**45, 2**52 - 1, 2**52, 3 * 2**51, 2**53 - 2]
        first = np.array([top << 11] * len(lows), dtype=np.uint64)
        second = np.array([low << 11 for low in lows], dtype=np.uint64)
        found = log_uniforms(first, second)
        with localcontext(prec=60):
            exact = [(Decimal((top << 53) + low + 1) / 2**106).ln() for low in lows]
            errors = [
                abs(Decimal(value) / true - 1) for value, true in zip(found.tolist(), exact, strict=True)
            ]
        assert max(errors) < 2.0**-51, errors

    def test_logarithms_of_uniforms_follow_the_exponential_law_at_both_ends(self):
        """Kolmogorov and Smirnov on 200,000 values, as they are and as their complements; fails once in a million runs."""
        logarithms = log_uniforms(Csprng().words(200_000), Csprng().words(200_000))
        assert stats.kstest(-logarithms, "expon").pvalue > FALSE_ALARM
        assert stats.kstest(-np.log(-np.expm1(logarithms)), "expon").pvalue > FALSE_ALARM

    @pytest.mark.parametrize("count", [1, 2, 7, 1000])
    def test_the_number_of_words_depends_on_the_count_alone(self, repeatable, count):
        source = repeatable(0)
        assert standard_normals(source, count).shape == (count,)
        assert source.drawn == 3 * ((count + 1) // 2)

    def test_no_two_draws_share_a_pair(self, repeatable):
        drawn = standard_normal_draws(repeatable(1), draws=2, count=50_001)
        assert drawn.shape == (2, 50_001)
        lengths = drawn[:, :25_000] ** 2 + drawn[:, 25_001:50_001] ** 2
        assert len(np.unique(np.round(lengths, 12))) == lengths.size

    def test_normals_follow_the_normal_law(self):
        """Kolmogorov and Smirnov on 200,000 values; a sound generator fails once in a million runs."""
        values = standard_normals(Csprng(), 200_000)
        assert stats.kstest(values, "norm").pvalue > FALSE_ALARM
        assert stats.kstest(values**2, stats.chi2(1).cdf).pvalue > FALSE_ALARM

    def test_neighbouring_normals_are_uncorrelated(self):
        """Both halves of a Box-Muller pair, and successive values: |r| sqrt(n) is standard normal."""
        values = standard_normals(Csprng(), 200_000)
        limit = stats.norm.isf(FALSE_ALARM / 4) / np.sqrt(100_000)
        assert abs(np.corrcoef(values[:100_000], values[100_000:])[0, 1]) < limit
        assert abs(np.corrcoef(values[:-1:2], values[1::2])[0, 1]) < limit
