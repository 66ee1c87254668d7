"""The evidence of a run: the accounting's own numbers, never rounded in the reader's favour, retries counted."""

from typing import Any

import pytest

from ringfence.model.errors import ConfigError
from ringfence.model.evidence import PrivacyEvidence, check_evidence_fits, parse_evidence, round_up
from ringfence.model.feature_set import load_feature_set
from ringfence.model.plan import Plan
from ringfence.privacy.accounting import epsilon_of
from ringfence.server.run_evidence import describe_features, evidence_of_run


def plan(**privacy: Any) -> Plan:
    return Plan.model_validate(
        {
            "name": "spring",
            "federation": "example",
            "demonstration": True,
            "training": {"feature_set_sha256": "a" * 64, "rounds": 10, "local_steps": 10},
            "privacy": {"noise_multiplier": 44.6, **privacy},
            "cohort": {"minimum": 7},
        }
    )


def evidence(agreed: Plan, **changes: Any) -> PrivacyEvidence:
    arguments: dict[str, Any] = {
        "dimension": 109,
        "contributors": 7,
        "size_classes": [512, 256],
        "public_inputs": [describe_features(load_feature_set())],
    }
    return evidence_of_run(agreed, **arguments | changes)


@pytest.mark.parametrize(
    "privacy",
    [{}, {"contribution_bound": 1}, {"sampling": "poisson", "sample_rate": 0.05, "noise_multiplier": 4.0}],
)
def test_the_numbers_are_those_of_the_accounting(privacy: dict[str, Any]) -> None:
    agreed = plan(**privacy)
    stated, found = epsilon_of(agreed), evidence(agreed)
    assert found.epsilon_by_platforms == dict(stated.epsilon_by_platforms)
    assert found.per_conversation_epsilon == stated.epsilon_per_conversation
    assert found.guarantee("coordinator-and-members").epsilon == dict(stated.epsilon_by_platforms)[2]
    assert found.guarantee("coordinator-and-members").colluding == 2
    assert found.guarantee("everybody-else").colluding == 6
    check_evidence_fits(found, plan=agreed)
    assert parse_evidence(found.to_json()) == found


def test_a_run_of_a_known_plan_has_the_known_epsilon() -> None:
    # Full batch, T = 100, delta 1e-6: noise 22.3 for epsilon 2 and one conversation; twice that for two.
    assert evidence(plan()).epsilon_by_platforms[1] == pytest.approx(2.0, rel=0.01)


def test_attempts_that_were_repeated_cost_more() -> None:
    assert evidence(plan(), attempts=12).per_conversation_epsilon > evidence(plan()).per_conversation_epsilon
    assert evidence(plan(), attempts=12).mechanism.steps == 120


def test_more_noise_is_never_claimed_to_protect_less() -> None:
    found = [
        evidence(plan(noise_multiplier=noise)).guarantee("coordinator-and-members").epsilon
        for noise in (20.0, 40.0, 80.0)
    ]
    assert found == sorted(found, reverse=True)


def test_a_delta_that_the_tails_of_the_noise_use_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="delta is too small"):
        evidence(plan(delta=1e-12))


def test_the_known_limits_name_what_this_kind_of_run_does_not_protect() -> None:
    limits = " ".join(evidence(plan()).known_limits)
    assert "demonstration" in limits
    assert "Open aggregation" in limits
    real = plan().model_copy(update={"demonstration": False})
    assert "demonstration" not in " ".join(evidence(real).known_limits)


@pytest.mark.parametrize(
    ("epsilon", "shown"), [(2.0, "2.00"), (2.001, "2.01"), (1.999, "2.00"), (0.07, "0.07"), (0.0, "0.00")]
)
def test_an_epsilon_is_never_rounded_down(epsilon: float, shown: str) -> None:
    assert round_up(epsilon) == shown
