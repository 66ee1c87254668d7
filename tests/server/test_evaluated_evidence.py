"""The evidence of a run with an evaluation states its price, and whoever verifies it comes to the same numbers."""

from __future__ import annotations

import pytest

from ringfence.client.evidence_check import check_numbers
from ringfence.model.errors import ReleaseError
from ringfence.model.evidence import PrivacyEvidence, PublicInput, check_evidence_fits, parse_evidence
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.privacy.accounting import epsilon_of
from ringfence.server.run_evidence import evidence_of_run


def plan(noise: float | None) -> Plan:
    return Plan(
        name="spring",
        federation="test",
        demonstration=True,
        training=TrainingTerms(feature_set_sha256="f" * 64, rounds=30, local_steps=10),
        privacy=PrivacyTerms(noise_multiplier=80.0, evaluation_noise_multiplier=noise),
    )


def evidence(agreed: Plan) -> PrivacyEvidence:
    return evidence_of_run(
        agreed,
        dimension=109,
        contributors=3,
        size_classes=[256, 256, 512],
        public_inputs=[PublicInput(name="features", origin="here", licence="MIT")],
    )


@pytest.mark.parametrize("noise", [None, 5.0, 40.0])
def test_every_stated_number_is_the_recomputed_one(noise: float | None) -> None:
    agreed = plan(noise)
    stated = parse_evidence(evidence(agreed).to_json())
    check_evidence_fits(stated, plan=agreed)
    assert stated.mechanism.evaluation_noise_multiplier == noise
    wrong = [check.name for check in check_numbers(stated) if check.agrees is False]
    assert wrong == []
    assert stated.epsilon_by_platforms[1] == pytest.approx(epsilon_of(agreed).epsilon)


def test_evidence_that_forgets_the_evaluation_is_found_out() -> None:
    agreed, unpriced = plan(5.0), evidence(plan(None))
    claimed = unpriced.model_copy(
        update={
            "mechanism": unpriced.mechanism.model_copy(update={"evaluation_noise_multiplier": 5.0}),
            "plan_sha256": agreed.digest(),
        }
    )
    check_evidence_fits(claimed, plan=agreed)
    assert {check.name for check in check_numbers(claimed) if check.agrees is False} >= {
        "guarantees.coordinator-and-members.epsilon",
        "per_conversation_epsilon",
    }
    silent = unpriced.model_copy(update={"plan_sha256": agreed.digest()})
    with pytest.raises(ReleaseError, match="evaluation_noise_multiplier"):
        check_evidence_fits(silent, plan=agreed)
