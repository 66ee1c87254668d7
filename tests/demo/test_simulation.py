"""A simulated federation is the real one without a network: it learns, survives bad members, and repeats its data only."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from ringfence.client import local_training
from ringfence.client.app import HOME_KEY
from ringfence.client.app import app as installed_app
from ringfence.demo.company_data import benign_chat
from ringfence.demo.reference_rows import HeldOut, QualityRow
from ringfence.demo.simulate_command import simulate
from ringfence.demo.simulated_federation import (
    CONVERSATIONS_FILE,
    SimulatedFederation,
    lay_out,
    simulation_plan,
)
from ringfence.demo.simulation import carry_out, judge
from ringfence.model.console import new_application, run_application
from ringfence.model.conversation import Conversation
from ringfence.model.detector import Detector
from ringfence.model.errors import ConfigError, DeadlineError
from ringfence.model.feature_set import FeatureSet, load_feature_set
from ringfence.model.plan import Plan
from ringfence.model.simulation import CompanyData, simulate_companies
from ringfence.privacy.accounting import epsilon_of
from ringfence.server.candidate import build_candidate
from ringfence.server.coordinator_home import CoordinatorHome

ALMOST_NO_PRIVACY = 1e5


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def features() -> FeatureSet:
    return load_feature_set()


@pytest.fixture(scope="module")
def chat() -> list[Conversation]:
    return benign_chat()


@pytest.fixture(scope="module")
def thirty(chat: list[Conversation]) -> list[CompanyData]:
    return simulate_companies(chat, companies=30, conversations_per_company=20, test_conversations=0, seed=3)


def federation_of(
    folder: Path,
    companies: Sequence[CompanyData],
    features: FeatureSet,
    *,
    rounds: int = 2,
    epsilon: float = 8.0,
) -> SimulatedFederation:
    plan = simulation_plan(members=len(companies), rounds=rounds, epsilon=epsilon, feature_set=features)
    return lay_out(folder, plan=plan, companies=companies)


def failing_for(*homes: Path) -> ClientApp:
    """The installed app, but at these members it raises."""
    app = ClientApp()

    @app.train("update")
    def train(message: Message, context: Context) -> Message:
        if Path(str(context.node_config[HOME_KEY])) in homes:
            raise RuntimeError("this member's machine is on fire")
        return installed_app(message, context)

    return app


@pytest.mark.parametrize("members", [3, 30])
def test_every_member_answers_every_round(
    members: int, tmp_path: Path, thirty: list[CompanyData], features: FeatureSet
) -> None:
    federation = federation_of(tmp_path, thirty[:members], features, rounds=3)
    outcomes = carry_out(federation)
    assert [(item.answered, item.missing, item.refused) for item in outcomes] == [(members, 0, 0)] * 3
    history = federation.run.history()
    assert len(history) == 4
    assert all(np.isfinite(model).all() for model in history)
    assert all(not np.array_equal(before, after) for before, after in pairwise(history))


def test_members_compute_features_once_and_share_one_feature_set(
    tmp_path: Path, thirty: list[CompanyData], features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    encoded: list[str] = []
    compute = FeatureSet.rows_of

    def load(name: str) -> FeatureSet:
        loaded.append(name)
        return features

    def rows_of(
        self: FeatureSet, conversations: Sequence[Conversation], prefixes: Sequence[float] = (1.0,)
    ) -> np.ndarray:
        encoded.extend(item.id for item in conversations)
        return compute(self, conversations, prefixes)

    local_training._feature_set.cache_clear()
    monkeypatch.setattr(local_training, "load_feature_set", load)
    monkeypatch.setattr(FeatureSet, "rows_of", rows_of)
    federation = federation_of(tmp_path, thirty[:5], features, rounds=3)
    carry_out(federation)
    local_training._feature_set.cache_clear()
    assert len(loaded) == 1
    assert 0 < len(encoded) == len(set(encoded))


def test_a_member_whose_app_raises_is_missing_and_the_others_go_on(
    tmp_path: Path, thirty: list[CompanyData], features: FeatureSet
) -> None:
    federation = federation_of(tmp_path, thirty[:3], features)
    bad = next(iter(federation.members.values())).root
    outcomes = carry_out(federation, app=failing_for(bad))
    assert [(item.answered, item.missing, item.refused) for item in outcomes] == [(2, 1, 0)] * 2
    assert federation.run.rounds_done() == 2


def test_a_member_with_an_empty_file_refuses_and_the_others_go_on(
    tmp_path: Path, thirty: list[CompanyData], features: FeatureSet
) -> None:
    federation = federation_of(tmp_path, thirty, features)
    (list(federation.members.values())[4].root / CONVERSATIONS_FILE).write_text("")
    outcomes = carry_out(federation)
    assert [(item.answered, item.missing, item.refused) for item in outcomes] == [(29, 0, 1)] * 2


def test_a_round_without_enough_members_ends_the_run_with_a_clear_error(
    tmp_path: Path, thirty: list[CompanyData], features: FeatureSet
) -> None:
    federation = federation_of(tmp_path, thirty[:3], features)
    bad = [home.root for home in federation.members.values()][:2]
    with pytest.raises(DeadlineError, match="1 of at least 2 members answered"):
        carry_out(federation, app=failing_for(*bad))
    assert federation.run.rounds_done() == 0


def files_of(federation: SimulatedFederation) -> Mapping[str, bytes]:
    return {name: (home.root / CONVERSATIONS_FILE).read_bytes() for name, home in federation.members.items()}


def test_the_seed_repeats_the_conversations_and_never_the_noise(
    tmp_path: Path, chat: list[Conversation], features: FeatureSet
) -> None:
    def made(name: str, *, seed: int, epsilon: float) -> SimulatedFederation:
        companies = simulate_companies(
            chat, companies=2, conversations_per_company=20, test_conversations=0, seed=seed
        )
        federation = federation_of(tmp_path / name, companies, features, epsilon=epsilon)
        for home in federation.members.values():
            # The order in which the contribution bound keeps conversations is secret too; here it is held still.
            (home.root / "contribution.key").write_bytes(bytes(32))
        carry_out(federation)
        return federation

    first, again = (made(name, seed=5, epsilon=8.0) for name in ("first", "again"))
    other = made("other", seed=6, epsilon=8.0)
    assert files_of(first) == files_of(again)
    assert set(files_of(first).values()).isdisjoint(files_of(other).values())
    assert not np.allclose(first.run.history()[-1], again.run.history()[-1], atol=1e-3)
    quiet = [made(name, seed=5, epsilon=1e12).run.history()[-1] for name in ("quiet", "also-quiet")]
    np.testing.assert_allclose(*quiet, atol=1e-3)


def test_with_hardly_any_noise_the_federation_beats_the_head_that_it_started_from(
    tmp_path: Path, chat: list[Conversation], features: FeatureSet
) -> None:
    companies = simulate_companies(
        chat, companies=6, conversations_per_company=150, test_conversations=60, seed=11
    )
    federation = federation_of(tmp_path, companies, features, rounds=5, epsilon=ALMOST_NO_PRIVACY)
    carry_out(federation)
    held_out = HeldOut(features, {company.name: company.test for company in companies})
    public, alone, federated = judge(federation, held_out=held_out, feature_set=features)
    assert federated.average_precision > public.average_precision + 0.01
    assert federated.average_precision > alone.average_precision


class Judges(HeldOut):
    """Judges, and remembers which head it judged under which name."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.judged: dict[str, np.ndarray] = {}

    def judge(self, name: str, parameters: np.ndarray, *, plan: Plan, privacy: bool | None) -> QualityRow:
        self.judged[name] = parameters
        return super().judge(name, parameters, plan=plan, privacy=privacy)


def test_what_is_judged_is_what_a_release_would_publish(
    tmp_path: Path, chat: list[Conversation], features: FeatureSet
) -> None:
    companies = simulate_companies(
        chat, companies=3, conversations_per_company=20, test_conversations=20, seed=3
    )
    federation = federation_of(tmp_path, companies, features, rounds=5)
    carry_out(federation)
    judges = Judges(features, {company.name: company.test for company in companies})
    judge(federation, held_out=judges, feature_set=features)
    federation.run.update(status="completed")
    release = build_candidate(
        federation.run,
        version="0.1.0",
        home=CoordinatorHome(tmp_path / "coordinator"),
        now=datetime(2026, 3, 1, tzinfo=UTC),
    )
    published = Detector.load(release).parameters
    np.testing.assert_allclose(judges.judged["federated, 3 companies"], published, rtol=1e-6)


@pytest.mark.parametrize(
    ("rounds", "epsilon"), [(1, 0.5), (5, 2.0), (30, 8.0), (300, 8.0), (5, ALMOST_NO_PRIVACY)]
)
def test_the_plan_promises_the_epsilon_that_was_asked_for_and_never_more(
    rounds: int, epsilon: float, features: FeatureSet
) -> None:
    plan = simulation_plan(members=100, rounds=rounds, epsilon=epsilon, feature_set=features)
    assert epsilon_of(plan).epsilon <= epsilon
    assert epsilon_of(plan).epsilon == pytest.approx(epsilon, rel=1e-2)
    assert plan.cohort.minimum == 66


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan"), float("inf"), 1e-4])
def test_an_epsilon_that_no_plan_can_keep_is_refused(epsilon: float, features: FeatureSet) -> None:
    with pytest.raises(ConfigError):
        simulation_plan(members=3, rounds=1000, epsilon=epsilon, feature_set=features)


def test_the_command_prints_one_json_object_and_says_what_epsilon_means(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"):
        monkeypatch.setenv(name, "1")  # so that what the command sets is undone
    application = new_application("t", "")
    application.command()(simulate)
    arguments = ["--members", "2", "--rounds", "1", "--conversations", "20", "--json"]
    assert run_application(application, arguments) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)["data"]
    assert data["quality"][0]["name"] == "public head, before any training"
    assert data["round_outcomes"][0]["answered"] == 2
    assert data["privacy"]["epsilon"] <= 8.0
    assert "For every person" in data["privacy"]["sentence"]
    assert "Next: ringfence demo" in printed.err
