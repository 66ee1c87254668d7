"""A plan may name the head with a hidden layer: members that agreed train it, and the release scores with it."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ringfence.client.policy import default_policy
from ringfence.client.policy_check import check_plan
from ringfence.client.policy_rules import MethodRules
from ringfence.demo.company_data import benign_chat
from ringfence.demo.simulated_federation import lay_out, simulation_plan
from ringfence.demo.simulation import carry_out
from ringfence.model.detector import Detector
from ringfence.model.errors import PolicyError
from ringfence.model.evidence import parse_evidence
from ringfence.model.feature_set import load_feature_set
from ringfence.model.onnx_scoring import check_parity
from ringfence.model.plan import Plan
from ringfence.model.release_examples import EXAMPLES
from ringfence.model.simulation import simulate_companies
from ringfence.privacy.accounting import epsilon_of
from ringfence.server.candidate import build_candidate
from ringfence.server.coordinator_home import CoordinatorHome

NAME = "hidden-1761"


@pytest.fixture(scope="module")
def plan() -> Plan:
    linear = simulation_plan(members=3, rounds=1, epsilon=8.0, feature_set=load_feature_set())
    return linear.model_copy(update={"training": linear.training.model_copy(update={"architecture": NAME})})


def test_a_run_of_it_ends_in_a_release_that_scores_with_it(tmp_path: Path, plan: Plan) -> None:
    companies = simulate_companies(
        benign_chat(), companies=3, conversations_per_company=60, test_conversations=0, seed=5
    )
    federation = lay_out(tmp_path, plan=plan, companies=companies)
    carry_out(federation)
    federation.run.update(status="completed")
    release = build_candidate(
        federation.run,
        version="0.1.0",
        home=CoordinatorHome(tmp_path / "coordinator"),
        now=datetime(2026, 3, 1, tzinfo=UTC),
    )
    detector = Detector.load(release)
    assert (detector.architecture, detector.parameters.size) == (NAME, 1761)
    assert not np.array_equal(detector.parameters, federation.run.history()[0])
    check_parity(detector, release / "model.onnx", EXAMPLES)
    assert parse_evidence((release / "privacy.json").read_bytes()).mechanism.dimension == 1761


def test_more_parameters_have_more_tails_that_delta_pays_for(plan: Plan) -> None:
    linear = plan.model_copy(
        update={"training": plan.training.model_copy(update={"architecture": "linear-109"})}
    )
    assert epsilon_of(plan).epsilon > epsilon_of(linear).epsilon
    assert epsilon_of(plan).epsilon == epsilon_of(plan, dimension=1761).epsilon


def test_a_member_trains_it_only_if_its_policy_names_it(plan: Plan) -> None:
    policy = default_policy(federation=plan.federation, demonstration=True)
    with pytest.raises(PolicyError, match="architectures"):
        check_plan(plan, policy=policy, now=None)
    agreed = policy.model_copy(update={"methods": MethodRules(architectures=("linear-109", NAME))})
    check_plan(plan, policy=agreed, now=None)
