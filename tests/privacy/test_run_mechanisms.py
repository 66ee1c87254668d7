"""A run's evaluation is part of its price, in every place where a price is stated."""

from __future__ import annotations

import math

import pytest

from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.privacy.accounting import epsilon_of
from ringfence.privacy.gaussian_privacy import gaussian_epsilon
from ringfence.privacy.ledger_terms import LedgerTerms
from ringfence.privacy.run_cost import run_cost, runs_within
from ringfence.privacy.run_mechanisms import run_mechanisms


def plan(*, evaluation: float | None, noise: float = 30.0, **privacy: object) -> Plan:
    return Plan(
        name="spring",
        federation="test",
        training=TrainingTerms(feature_set_sha256="f" * 64, rounds=30, local_steps=10),
        privacy=PrivacyTerms(noise_multiplier=noise, evaluation_noise_multiplier=evaluation, **privacy),
    )


@pytest.mark.parametrize("evaluation", [2.0, 10.0, 40.0])
@pytest.mark.parametrize("platforms", [1, 2, 3])
def test_the_price_of_a_full_batch_run_is_that_of_both_gaussians(evaluation: float, platforms: int) -> None:
    statement = epsilon_of(plan(evaluation=evaluation))
    mu = 2 * math.sqrt(platforms * (300 / 30.0**2 + 1 / evaluation**2))
    assert dict(statement.epsilon_by_platforms)[platforms] == pytest.approx(
        gaussian_epsilon(mu, delta=1e-6), rel=1e-4
    )


def test_an_evaluation_costs_something_and_less_with_more_noise() -> None:
    none, little, much = (epsilon_of(plan(evaluation=noise)).epsilon for noise in (None, 100.0, 5.0))
    assert none < little < much


def test_a_second_evaluation_costs_more_and_none_without_the_plans_word() -> None:
    assert epsilon_of(plan(evaluation=5.0), evaluations=2).epsilon > epsilon_of(plan(evaluation=5.0)).epsilon
    assert (
        epsilon_of(plan(evaluation=None), evaluations=9).epsilon == epsilon_of(plan(evaluation=None)).epsilon
    )


def test_a_sampled_run_is_charged_its_full_batch_evaluation() -> None:
    base, evaluated = (
        epsilon_of(plan(evaluation=noise, noise=4.0, sampling="poisson", sample_rate=0.05)).epsilon
        for noise in (None, 5.0)
    )
    alone = gaussian_epsilon(2 / 5.0, delta=1e-6)
    assert max(alone, base) < evaluated < alone + base


def test_shared_noise_is_not_counted_for_the_evaluation() -> None:
    training, evaluation = run_mechanisms(
        contribution_bound=2,
        sample_rate=1.0,
        noise_multiplier=30.0,
        steps=300,
        shared_noise=True,
        evaluation_noise_multiplier=5.0,
        platforms=2,
    )
    assert (training.contribution_bound, training.steps) == (4, 300)
    assert (evaluation.contribution_bound, evaluation.steps, evaluation.noise_multiplier) == (2, 2, 5.0)


def test_the_ledger_reckons_with_the_evaluation_too() -> None:
    terms = LedgerTerms(lineage="chats")
    gates = {"headline": terms.headline, "fallback": terms.fallback}
    without = run_cost(plan(evaluation=None), **gates)
    once, twice = (run_cost(plan(evaluation=5.0), evaluations=count, **gates) for count in (1, 2))
    assert twice.headline_units - once.headline_units == once.headline_units - without.headline_units > 0
    assert once.fallback_units > without.fallback_units
    assert runs_within(terms, plan(evaluation=1.0)) < runs_within(terms, plan(evaluation=None))
