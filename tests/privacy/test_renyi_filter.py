"""The gate's divergences are right, and the price of a sound gate is the one that was measured."""

from __future__ import annotations

import math

import pytest

from ringfence.model.errors import BudgetError, ConfigError
from ringfence.privacy.accounting import mechanism_epsilon
from ringfence.privacy.renyi_filter import RenyiFilter, SampledGaussian, step_divergence

DELTA = 1e-6


@pytest.mark.parametrize(("rate", "noise"), [(0.0256, 1.5), (0.0128, 1.0), (0.0512, 4.0), (0.3, 0.7)])
@pytest.mark.parametrize("order", [2, 3, 4, 8, 15, 28, 64])
def test_divergence_of_one_conversation_matches_dp_accounting_to_ten_digits(rate, noise, order):
    from dp_accounting import dp_event
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders=[order])
    accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)))
    assert step_divergence(1, rate, noise, order=order) == pytest.approx(accountant._rdp[0], rel=1e-10)


@pytest.mark.parametrize("order", [2, 4, 15])
def test_divergence_approaches_the_full_batch_as_everybody_is_sampled(order):
    exact = step_divergence(3, 1.0, 9.0, order=order)
    assert exact == pytest.approx(order * 9 / (2 * 81))
    assert step_divergence(3, 1.0 - 1e-12, 9.0, order=order) == pytest.approx(exact, rel=1e-6)


def test_divergence_of_more_conversations_is_larger():
    values = [step_divergence(bound, 0.0256, 2.5, order=8) for bound in (1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[1] > 2 * values[0]


def test_a_mixture_is_integrated_in_both_directions():
    """The larger of E[(P/Q)^a] and E[(Q/P)^(a-1)] under Q, against adaptive quadrature."""
    import numpy as np
    from scipy import integrate, stats

    bound, rate, noise, order = 2, 0.4, 1.2, 5

    def mixture(x):
        return np.log(
            sum(stats.binom.pmf(j, bound, rate) * stats.norm.pdf(x, j, noise) for j in range(bound + 1))
        )

    def null(x):
        return stats.norm.logpdf(x, 0, noise)

    def moment(above, below):
        def integrand(x):
            return np.exp(order * above(x) + (1 - order) * below(x))

        return integrate.quad(integrand, -14, 24, limit=400, points=[0, 5, 10])[0]

    expected = max(np.log(moment(mixture, null)), np.log(moment(null, mixture))) / (order - 1)
    assert step_divergence(bound, rate, noise, order=order) == pytest.approx(expected, rel=1e-8)


def test_noise_that_is_next_to_nothing_costs_infinitely_much_and_little_memory():
    assert step_divergence(64, 0.5, 1e-3, order=29) == math.inf


@pytest.mark.parametrize(("epsilon", "order"), [(1.0, 29), (2.0, 15), (4.0, 8), (8.0, 4), (40.0, 2)])
def test_the_order_is_fixed_by_the_budget(epsilon, order):
    gate = RenyiFilter.for_budget(epsilon, delta=DELTA)
    assert gate.order == order
    assert gate.epsilon_of(gate.budget) == pytest.approx(epsilon, rel=1e-12)


@pytest.mark.parametrize(
    ("mechanism", "epsilon", "low", "high"),
    [
        (SampledGaussian(2, 1.0, 77.25, 1), 8.0, 0.07, 0.08),
        (SampledGaussian(2, 1.0, 77.25, 1), 4.0, 0.07, 0.08),
        (SampledGaussian(2, 0.0256, 2.49, 1), 8.0, 0.07, 0.08),
        (SampledGaussian(4, 0.0256, 4.72, 1), 8.0, 0.07, 0.08),
    ],
)
def test_the_filter_costs_seven_to_eight_per_cent_of_epsilon(mechanism, epsilon, low, high):
    gate = RenyiFilter.for_budget(epsilon, delta=DELTA)
    steps = gate.runs_within(mechanism)
    spent = SampledGaussian(
        mechanism.contribution_bound, mechanism.sample_rate, mechanism.noise_multiplier, steps
    )
    assert low < epsilon / mechanism_epsilon(spent, delta=DELTA) - 1 < high


def test_the_filter_never_admits_more_than_certificates_would():
    for epsilon in (0.5, 1.0, 3.0, 8.0):
        gate = RenyiFilter.for_budget(epsilon, delta=DELTA)
        steps = gate.runs_within(SampledGaussian(2, 0.0256, 4.0, 1))
        assert mechanism_epsilon(SampledGaussian(2, 0.0256, 4.0, steps), delta=DELTA) <= epsilon


def test_ten_runs_of_about_two_fit_into_the_default_lifetime():
    gate = RenyiFilter.for_budget(8.0, delta=DELTA)
    assert gate.runs_within(SampledGaussian(2, 1.0, 77.25, 300)) == 10


@pytest.mark.parametrize(
    "values",
    [
        (0, 1.0, 1.0, 1),
        (1, 0.0, 1.0, 1),
        (1, 1.5, 1.0, 1),
        (1, math.nan, 1.0, 1),
        (1, 1.0, 0.0, 1),
        (1, 1.0, -1.0, 1),
        (1, 1.0, math.nan, 1),
        (1, 1.0, math.inf, 1),
        (1, 1.0, 1.0, 0),
    ],
)
def test_a_mechanism_out_of_range_is_refused(values):
    with pytest.raises(BudgetError):
        SampledGaussian(*values)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-6), (-1.0, 1e-6), (math.nan, 1e-6), (math.inf, 1e-6), (1.0, 0.0)]
)
def test_a_budget_out_of_range_is_refused(epsilon, delta):
    with pytest.raises(ConfigError):
        RenyiFilter.for_budget(epsilon, delta=delta)
