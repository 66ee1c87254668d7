"""The planner and the certificate are inverse to each other, and the planner errs on the safe side only."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.model.errors import ConfigError
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.privacy.accounting import epsilon_of
from ringfence.privacy.plan_report import needed_noise
from ringfence.privacy.plan_solving import MOST_ROUNDS, FixedTerms, PlannedRun, solve

TERMS = st.builds(
    FixedTerms,
    contribution_bound=st.integers(1, 8),
    local_steps=st.integers(1, 30),
    delta=st.sampled_from([1e-7, 1e-6, 1e-5]),
)


def certified(terms: FixedTerms, found: PlannedRun) -> float:
    """Return the epsilon that the certificate states for a plan with the planner's numbers."""
    plan = Plan(
        name="p",
        federation="f",
        training=TrainingTerms(
            feature_set_sha256="0" * 64, rounds=found.rounds, local_steps=terms.local_steps
        ),
        privacy=PrivacyTerms(
            contribution_bound=terms.contribution_bound,
            delta=terms.delta,
            noise_multiplier=found.noise_multiplier,
            sampling="full-batch" if found.sample_rate == 1.0 else "poisson",
            sample_rate=found.sample_rate,
        ),
    )
    return epsilon_of(plan).epsilon


@settings(max_examples=60, deadline=None)
@given(terms=TERMS, epsilon=st.floats(0.2, 10.0), rounds=st.integers(1, 200))
def test_noise_worked_out_for_an_epsilon_gives_that_epsilon_and_never_more(
    terms: FixedTerms, epsilon: float, rounds: int
) -> None:
    found = solve(terms, epsilon=epsilon, rounds=rounds)
    assert found.solved == "noise_multiplier"
    assert epsilon * (1 - 1e-3) <= certified(terms, found) <= epsilon
    assert found.epsilon == pytest.approx(certified(terms, found), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(terms=TERMS, rounds=st.integers(1, 500), noise=st.floats(5.0, 500.0))
def test_epsilon_rounds_and_noise_give_each_other_back(terms: FixedTerms, rounds: int, noise: float) -> None:
    found = solve(terms, rounds=rounds, noise_multiplier=noise)
    assert found.epsilon == pytest.approx(certified(terms, found), rel=1e-12)
    if not 0.01 <= found.epsilon <= 50.0:
        return
    again = solve(terms, epsilon=found.epsilon, rounds=rounds)
    assert noise * (1 - 1e-12) <= again.noise_multiplier <= noise * (1 + 1e-6) + 1e-4
    assert solve(terms, epsilon=found.epsilon, noise_multiplier=noise).rounds == rounds


def test_sampled_plans_give_each_other_back_too() -> None:
    terms, rate, noise, rounds = FixedTerms(), 0.1, 40.0, 40
    found = solve(terms, rounds=rounds, sample_rate=rate, noise_multiplier=noise)
    assert found.solved == "epsilon"
    by_noise = solve(terms, epsilon=found.epsilon, rounds=rounds, sample_rate=rate)
    assert by_noise.noise_multiplier == pytest.approx(noise, rel=5e-3)
    assert by_noise.epsilon <= found.epsilon
    by_rate = solve(terms, epsilon=found.epsilon, rounds=rounds, noise_multiplier=noise)
    assert by_rate.solved == "sample_rate"
    assert by_rate.sample_rate == pytest.approx(rate, rel=5e-3)
    assert by_rate.epsilon <= found.epsilon
    assert solve(terms, epsilon=found.epsilon, sample_rate=rate, noise_multiplier=noise).rounds == rounds


def test_the_planner_agrees_with_the_published_table() -> None:
    """Sampled at .0256 over 400 steps, two conversations of a person, noise 2.49: epsilon 2."""
    found = solve(FixedTerms(), rounds=40, sample_rate=0.0256, noise_multiplier=2.49)
    assert found.epsilon == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize(
    "given_numbers",
    [
        {},
        {"epsilon": 2.0},
        {"rounds": 30},
        {"epsilon": 2.0, "sample_rate": 0.5},
        {"epsilon": 2.0, "rounds": 30, "noise_multiplier": 2.0, "sample_rate": 0.5},
        {"epsilon": math.nan, "rounds": 30},
        {"epsilon": math.inf, "rounds": 30},
        {"epsilon": -1.0, "rounds": 30},
        {"epsilon": 0.0, "rounds": 30},
        {"epsilon": 2.0, "rounds": 0},
        {"epsilon": 2.0, "noise_multiplier": -3.0},
        {"epsilon": 2.0, "noise_multiplier": math.nan},
        {"epsilon": 2.0, "rounds": 30, "sample_rate": 1.5},
        {"epsilon": 2.0, "rounds": 30, "sample_rate": math.nan},
        {"epsilon": 1e-5, "rounds": 1000},
        {"epsilon": 0.01, "noise_multiplier": 1.0},
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(given_numbers: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as refused:
        solve(FixedTerms(), **given_numbers)  # type: ignore[arg-type]
    assert refused.value.hint


def test_all_four_left_to_the_full_batch_is_recognised_when_anything_goes() -> None:
    """So much epsilon that every conversation may be in every step: the sample rate is 1, rounds end at the plan's most."""
    assert solve(FixedTerms(), epsilon=50.0, rounds=1, noise_multiplier=100.0).sample_rate == 1.0
    assert solve(FixedTerms(), epsilon=50.0, noise_multiplier=5000.0).rounds == MOST_ROUNDS


@pytest.mark.parametrize("terms", [{"contribution_bound": 0}, {"local_steps": 0}, {"delta": 0.0}])
def test_terms_out_of_range_are_refused(terms: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        FixedTerms(**terms)  # type: ignore[arg-type]


def test_a_delta_that_the_noise_itself_uses_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="delta is too small"):
        solve(FixedTerms(delta=1e-12), epsilon=2.0, rounds=1000)


@pytest.mark.parametrize("evaluation", [None, 20.0, 4.0, 1.5])
def test_the_noise_that_a_report_names_keeps_the_whole_plan_within_epsilon(evaluation: float | None) -> None:
    """An evaluation spends a part of epsilon, so the steps need more noise beside it; beside 1.5 none is enough."""
    plan = Plan(
        name="p",
        federation="f",
        training=TrainingTerms(feature_set_sha256="0" * 64),
        privacy=PrivacyTerms(noise_multiplier=50.0, evaluation_noise_multiplier=evaluation),
    )
    noise = needed_noise(plan, epsilon=3.0)
    if evaluation == 1.5:
        assert noise is None
        return
    assert noise is not None
    privacy = plan.privacy.model_copy(update={"noise_multiplier": noise})
    found = epsilon_of(plan.model_copy(update={"privacy": privacy})).epsilon
    assert 3.0 * (1 - 3e-3) <= found <= 3.0
