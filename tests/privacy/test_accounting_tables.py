"""The numbers that the design measured come out again within one per cent."""

from __future__ import annotations

import math

import pytest

from ringfence.model.errors import ConfigError
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.privacy.accounting import (
    adversary_noise,
    composed_epsilon,
    epsilon_of,
    largest_collusion,
    mechanism_epsilon,
)
from ringfence.privacy.gaussian_privacy import gaussian_delta, gaussian_epsilon, gaussian_mu
from ringfence.privacy.planning import noise_multiplier_for, sample_rate_for, steps_for
from ringfence.privacy.renyi_filter import SampledGaussian

DELTA = 1e-6


def plan(*, rounds=30, local_steps=10, cohort=3, **privacy) -> Plan:
    return Plan(
        name="run",
        federation="test",
        training=TrainingTerms(feature_set_sha256="0" * 64, rounds=rounds, local_steps=local_steps),
        privacy=PrivacyTerms(**{"noise_multiplier": 77.25, **privacy}),
        cohort=CohortTerms(minimum=cohort),
    )


@pytest.mark.parametrize(
    ("rate", "steps", "noise", "by_bound"),
    [
        (0.0128, 400, 1.0, {1: 1.86, 2: 3.93}),
        (0.0256, 400, 1.5, {1: 1.84, 2: 3.97}),
        (0.0512, 1000, 4.0, {1: 1.85, 2: 3.98, 4: 8.86, 8: 20.9, 16: 53.3}),
        pytest.param(0.0128, 400, 1.0, {4: 8.46, 8: 18.9, 16: 45.0}, marks=pytest.mark.slow),
        pytest.param(0.0256, 400, 1.5, {4: 8.81, 8: 20.6, 16: 51.8}, marks=pytest.mark.slow),
    ],
)
def test_epsilon_of_a_person_with_k_sampled_conversations(rate, steps, noise, by_bound):
    for bound, expected in by_bound.items():
        assert mechanism_epsilon(SampledGaussian(bound, rate, noise, steps), delta=DELTA) == pytest.approx(
            expected, rel=0.01
        )


def test_one_conversation_is_the_sampled_gaussian_to_four_digits():
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(dp_event.PoissonSampledDpEvent(0.0256, dp_event.GaussianDpEvent(1.5)), 400)
    ours = mechanism_epsilon(SampledGaussian(1, 0.0256, 1.5, 400), delta=DELTA)
    assert ours == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-4)


@pytest.mark.slow
def test_one_conversation_agrees_with_the_accountant_of_opacus():
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(1.5, 0.0256, 400)]
    ours = mechanism_epsilon(SampledGaussian(1, 0.0256, 1.5, 400), delta=DELTA)
    assert ours == pytest.approx(accountant.get_epsilon(DELTA, eps_error=0.005), rel=0.01)


@pytest.mark.parametrize(("bound", "noise"), [(1, 1.42), (2, 2.49), (4, 4.72), (8, 9.27), (16, 18.4)])
def test_the_noise_for_epsilon_two(bound, noise):
    found = noise_multiplier_for(2.0, contribution_bound=bound, sample_rate=0.0256, steps=400, delta=DELTA)
    assert found == pytest.approx(noise, rel=0.01)
    assert mechanism_epsilon(SampledGaussian(bound, 0.0256, found, 400), delta=DELTA) <= 2.0


@pytest.mark.parametrize(
    ("platforms", "apart", "together"), [(1, 1.99, 1.99), (2, 2.88, 4.31), (3, 3.59, 6.86)]
)
def test_a_person_on_several_platforms(platforms, apart, together):
    independent = SampledGaussian(2, 0.0256, 2.49, 400 * platforms)
    one_sum = SampledGaussian(2 * platforms, 0.0256, 2.49, 400)
    assert mechanism_epsilon(independent, delta=DELTA) == pytest.approx(apart, rel=0.01)
    assert mechanism_epsilon(one_sum, delta=DELTA) == pytest.approx(together, rel=0.01)


class TestTheFullBatch:
    @pytest.mark.parametrize(
        ("delta", "by_epsilon"),
        [
            (1e-5, {1: 37.3, 2: 19.9, 4: 10.8, 8: 6.0}),
            (1e-6, {1: 42.3, 2: 22.3, 4: 11.9, 8: 6.5}),
        ],
    )
    def test_noise_for_a_hundred_steps(self, delta, by_epsilon):
        for epsilon, noise in by_epsilon.items():
            for bound in (1, 3):
                found = noise_multiplier_for(
                    epsilon, contribution_bound=bound, sample_rate=1.0, steps=100, delta=delta
                )
                assert found == pytest.approx(noise * bound, rel=0.01)

    @pytest.mark.parametrize(("bound", "steps", "noise"), [(1, 100, 22.3), (2, 300, 77.25), (4, 7, 9.0)])
    def test_the_exact_trade_off_equals_the_loss_distribution_to_three_digits(self, bound, steps, noise):
        from dp_accounting import dp_event
        from dp_accounting.pld import PLDAccountant

        accountant = PLDAccountant(value_discretization_interval=1e-3)
        accountant.compose(dp_event.GaussianDpEvent(noise / bound), steps)
        ours = mechanism_epsilon(SampledGaussian(bound, 1.0, noise, steps), delta=DELTA)
        assert ours == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-3)

    @pytest.mark.parametrize("mu", [1e-3, 0.1, 0.45, 1.0, 3.0, 10.0, 60.0])
    def test_epsilon_delta_and_mu_are_inverse_to_each_other(self, mu):
        epsilon = gaussian_epsilon(mu, delta=1e-9)
        if epsilon > 0:
            assert gaussian_delta(mu, epsilon=epsilon) == pytest.approx(1e-9, rel=1e-6)
            assert gaussian_mu(epsilon, delta=1e-9) == pytest.approx(mu, rel=1e-6)

    def test_delta_follows_the_formula_of_balle_and_wang(self):
        from scipy import stats

        for mu, epsilon in ((0.5, 0.3), (1.0, 2.0), (2.5, 9.0)):
            expected = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(
                -mu / 2 - epsilon / mu
            )
            assert gaussian_delta(mu, epsilon=epsilon) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(
        ("mu", "delta"), [(math.nan, 1e-6), (-1.0, 1e-6), (math.inf, 1e-6), (1.0, 0.0), (1.0, 1.0)]
    )
    def test_values_out_of_range_are_refused(self, mu, delta):
        with pytest.raises(ConfigError):
            gaussian_epsilon(mu, delta=delta)


class TestComposition:
    def test_of_unlike_full_batches_adds_squares(self):
        parts = [
            SampledGaussian(2, 1.0, 40.0, 100),
            SampledGaussian(1, 1.0, 30.0, 50),
            SampledGaussian(2, 1.0, 40.0, 100),
        ]
        mu = math.sqrt(200 * (2 / 40) ** 2 + 50 / 30**2)
        assert composed_epsilon(parts, delta=DELTA) == pytest.approx(
            gaussian_epsilon(mu, delta=DELTA), rel=1e-12
        )

    def test_of_full_and_sampled_steps_exceeds_each(self):
        sampled, full = SampledGaussian(2, 0.0512, 8.0, 400), SampledGaussian(2, 1.0, 60.0, 100)
        both = composed_epsilon([sampled, full], delta=DELTA)
        alone = [mechanism_epsilon(part, delta=DELTA) for part in (sampled, full)]
        assert max(alone) < both < sum(alone)

    def test_in_pieces_is_composition_as_a_whole(self):
        whole = composed_epsilon([SampledGaussian(2, 0.0512, 8.0, 400)], delta=DELTA)
        pieces = composed_epsilon([SampledGaussian(2, 0.0512, 8.0, 100)] * 4, delta=DELTA)
        assert whole == pieces


class TestThePlanner:
    def test_finds_the_steps(self):
        found = steps_for(2.0, contribution_bound=2, sample_rate=0.0256, noise_multiplier=2.49, delta=DELTA)
        assert found == pytest.approx(401, rel=0.005)

    def test_finds_the_sample_rate(self):
        found = sample_rate_for(2.0, contribution_bound=2, steps=400, noise_multiplier=2.49, delta=DELTA)
        assert found == pytest.approx(0.0256, rel=0.005)

    def test_says_full_batch_when_no_sampling_is_needed(self):
        assert (
            sample_rate_for(8.0, contribution_bound=2, steps=10, noise_multiplier=100.0, delta=DELTA) == 1.0
        )

    def test_finds_steps_of_the_full_batch_exactly(self):
        found = steps_for(2.0, contribution_bound=2, sample_rate=1.0, noise_multiplier=77.25, delta=DELTA)
        assert found == pytest.approx(300, abs=1)

    @pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf])
    def test_refuses_an_epsilon_that_is_none(self, epsilon):
        with pytest.raises(ConfigError):
            noise_multiplier_for(epsilon, contribution_bound=1, sample_rate=0.1, steps=10, delta=DELTA)

    def test_says_when_not_even_one_step_is_possible(self):
        with pytest.raises(ConfigError, match="Nothing"):
            steps_for(0.1, contribution_bound=8, sample_rate=1.0, noise_multiplier=1.0, delta=DELTA)


class TestAPlansStatement:
    def test_of_the_default_recipe(self):
        statement = epsilon_of(plan())
        assert statement.epsilon == pytest.approx(2.00, rel=0.01)
        assert statement.epsilon_per_conversation == pytest.approx(0.943, rel=0.01)
        assert dict(statement.epsilon_by_platforms) == pytest.approx({1: 2.00, 2: 2.93, 3: 3.67}, rel=0.01)
        assert statement.steps == 300
        assert [adversary.name for adversary in statement.adversaries] == [
            "coordinator",
            "member",
            "coordinator-and-members",
            "everybody-else",
        ]

    def test_with_member_noise_is_the_same_against_everybody(self):
        statement = epsilon_of(plan(cohort=30))
        assert {adversary.epsilon for adversary in statement.adversaries} == {statement.epsilon}

    def test_says_in_plain_words_what_it_promises_and_what_it_does_not(self):
        sentence = epsilon_of(plan()).sentence()
        assert "2.00" in sentence
        assert "2.93 on 2" in sentence
        assert "who talked to whom" in sentence
        assert "anonym" not in sentence

    def test_takes_the_finite_tails_of_the_noise_off_delta(self):
        plain, large = epsilon_of(plan()), epsilon_of(plan(), dimension=300_000)
        assert plain.epsilon < large.epsilon < 1.05 * plain.epsilon
        with pytest.raises(ConfigError, match="delta"):
            epsilon_of(plan(), dimension=10_000_000)

    def test_with_sampling_names_the_accountant(self):
        statement = epsilon_of(plan(sampling="poisson", sample_rate=0.0512, noise_multiplier=6.0))
        assert "dp-accounting" in statement.accountant
        assert (
            statement.epsilon_per_conversation < statement.epsilon < dict(statement.epsilon_by_platforms)[3]
        )

    def test_with_shared_noise_weakens_with_those_who_collude(self):
        """Such plans are refused until sums are sealed; their arithmetic is ready."""
        sealed = plan(cohort=10).model_copy(
            update={"privacy": PrivacyTerms(noise_multiplier=30.0, noise="shared"), "aggregation": "sealed"}
        )
        noise = [left for _, _, left in adversary_noise(sealed)]
        assert noise == pytest.approx([30 * math.sqrt(10), 30 * 3, 30 * math.sqrt(7), 30])
        statement = epsilon_of(sealed)
        epsilons = [adversary.epsilon for adversary in statement.adversaries]
        assert epsilons == sorted(epsilons)
        assert statement.epsilon == epsilons[2]

    @pytest.mark.parametrize(("cohort", "colluding"), [(1, 0), (3, 0), (4, 1), (10, 3), (30, 9)])
    def test_counts_a_third_of_the_cohort_as_possibly_colluding(self, cohort, colluding):
        assert largest_collusion(cohort) == colluding
