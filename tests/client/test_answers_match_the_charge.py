"""What leaves a member is what its ledger charges: as much noise and as many steps as the plan says, at the plan's price.

The scale of everything that an answer adds to what is known beforehand is held against the plan by a chi-square test. False
alarms: once in a million runs of a sound program, for both tails together. Each fault below is noticed every time in 25 runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import stats

from ringfence.client.local_data import TrainingRows
from ringfence.client.local_evaluation import evaluate_locally
from ringfence.client.local_training import LocalTrainer
from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import open_member_ledger
from ringfence.client.member_settings import DataSettings, MemberSettings, save_member_settings
from ringfence.model.evaluation_messages import EvaluateRequest, EvaluateUpdate
from ringfence.model.feature_set import load_feature_set
from ringfence.model.head import ARCHITECTURES
from ringfence.model.histogram_quality import BINS
from ringfence.model.key_files import make_signing_key, raw_public_base64
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import TrainRequest, TrainUpdate
from ringfence.model.stage_features import DIMENSION
from ringfence.privacy import score_histogram, training
from ringfence.privacy.bounding import ContributionManifest, KeptConversation
from ringfence.privacy.grid import Grid
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms, cost_in_units
from ringfence.privacy.renyi_filter import SampledGaussian
from ringfence.privacy.run_cost import run_cost
from ringfence.privacy.score_histogram import CELLS
from ringfence.privacy.update_grid import dequantise_update

FALSE_ALARM = 1e-6
RUNS = 25
CONVERSATIONS = 8
SIZE_CLASS = 16
NOISE, EVALUATION_NOISE = 10.0, 12.0
CLIP_NORM, LEARNING_RATE, MOMENTUM = 0.01, 0.01, 0.9
KEY = Ed25519PrivateKey.generate()
TERMS = LedgerTerms("conversations", limits=LedgerLimits(returned_head_required=False, steps=100))


def plan_of(
    *, architecture: str = "hidden-1761", local_steps: int = 1, momentum: float = 0.0, **privacy: Any
) -> Plan:
    return Plan(
        name="spring",
        federation="north",
        training=TrainingTerms(
            architecture=architecture,
            feature_set_sha256=load_feature_set("static-128").fingerprint,
            rounds=4,
            local_steps=local_steps,
            learning_rate=LEARNING_RATE,
            momentum=momentum,
            prefixes=(1.0,),
        ),
        privacy=PrivacyTerms(
            **{
                "contribution_bound": 2,
                "noise_multiplier": NOISE,
                "clip_norm": CLIP_NORM,
                "evaluation_noise_multiplier": EVALUATION_NOISE,
                **privacy,
            }
        ),
    )


def dimension_of(plan: Plan) -> int:
    return ARCHITECTURES[plan.training.architecture].parameter_count(DIMENSION)


def question(plan: Plan) -> TrainRequest:
    content = plan.canonical_json()
    return TrainRequest("spring-1", content, KEY.sign(content), 1, 1, np.zeros(dimension_of(plan)))


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> LocalTrainer:
    """A member all of whose conversations are positive and say the same, so that all gradients are one."""
    home = MemberHome(tmp_path_factory.mktemp("acme")).create()
    lines = [
        {"id": f"c{n}", "label": 1, "messages": [{"author": f"p{n}", "text": "good morning"}]}
        for n in range(CONVERSATIONS)
    ]
    (home.root / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    settings = MemberSettings(
        federation="north",
        member="acme",
        fleet_address="127.0.0.1:1",
        release_address="127.0.0.1:2",
        plan_public_key=raw_public_base64(KEY.public_key()),
        size_class=SIZE_CLASS,
        data=DataSettings(files=("data.jsonl",)),
    )
    save_member_settings(home, settings=settings)
    return LocalTrainer(home, has_ledger=True)


@dataclass(frozen=True)
class Case:
    """A plan whose answers' scale is tested, and how many answers there are to a test."""

    plan: Plan
    answers: int

    def p_value(self, trainer: LocalTrainer) -> float:
        """Answer, take off what is known beforehand, and test the scale of the rest against the plan."""
        terms = self.plan.training
        # Momentum carries each step's gradient on: the first of three steps counts 1 + m + m^2 times.
        shares = [sum(terms.momentum**i for i in range(n + 1)) for n in range(terms.local_steps)]
        grid = Grid(CLIP_NORM, dimension_of(self.plan))
        scale = NOISE * grid.sensitivity * math.sqrt(sum(share**2 for share in shares))
        expected = sum(shares) * CONVERSATIONS * CLIP_NORM * self.direction(trainer)
        squares, freedom = 0.0, 0
        for _ in range(self.answers):
            made = trainer.answer(question(self.plan)).update
            assert isinstance(made, TrainUpdate)
            released = -dequantise_update(made.update) * SIZE_CLASS / LEARNING_RATE
            squares += float((((released - expected) / scale) ** 2).sum())
            freedom += released.size
        return two_tails(squares, freedom)

    def direction(self, trainer: LocalTrainer) -> np.ndarray:
        """Return the direction of every conversation's gradient at the model of zeros, and near it."""
        if self.plan.training.architecture == "hidden-1761":
            # No unit does anything yet: only the last bias moves the score.
            return -np.eye(dimension_of(self.plan))[-1]
        row = trainer._rows(self.plan, prefixes=(1.0,), bounds="greedy").features[0, 0].astype(np.float64)
        gradient = -np.append(row, 1.0)
        return gradient / np.linalg.norm(gradient)


def two_tails(squares: float, freedom: int) -> float:
    return 2 * min(stats.chi2.cdf(squares, freedom), stats.chi2.sf(squares, freedom))


CASES = {
    "one step": Case(plan_of(), answers=5),
    "three steps": Case(plan_of(local_steps=3, momentum=MOMENTUM), answers=5),
}
LINEAR = {
    "linear, one step": Case(plan_of(architecture="linear-109"), answers=20),
    "linear, three steps": Case(
        plan_of(architecture="linear-109", local_steps=3, momentum=MOMENTUM), answers=20
    ),
}
Fault = Callable[[SampledGaussian], SampledGaussian]
NOISE_FAULTS: dict[str, Fault] = {
    "noise x0.9": lambda honest: replace(honest, noise_multiplier=0.9 * honest.noise_multiplier),
    "noise halved": lambda honest: replace(honest, noise_multiplier=0.5 * honest.noise_multiplier),
}
FAULTS = {**NOISE_FAULTS, "an extra step": lambda honest: replace(honest, steps=honest.steps + 1)}


def break_training(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Have the member carry out something else than the plan says."""
    honest = training.train_privately
    patch.setattr(
        training,
        "train_privately",
        lambda *given, mechanism, **more: honest(*given, mechanism=fault(mechanism), **more),
    )


@pytest.mark.parametrize("case", [*CASES.values(), *LINEAR.values()], ids=[*CASES, *LINEAR])
def test_an_update_holds_the_noise_and_the_steps_of_the_plan(trainer: LocalTrainer, case: Case) -> None:
    assert min(case.p_value(trainer) for _ in range(RUNS)) > FALSE_ALARM / RUNS


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_an_update_with_another_mechanism_is_noticed_every_time_in_25_runs(
    trainer: LocalTrainer, monkeypatch: pytest.MonkeyPatch, case: Case, fault: Fault
) -> None:
    break_training(monkeypatch, fault)
    assert max(case.p_value(trainer) for _ in range(RUNS)) < FALSE_ALARM


ROWS = TrainingRows(
    features=np.zeros((CONVERSATIONS, 1, DIMENSION), np.float32),
    labels=np.ones(CONVERSATIONS, np.int64),
    manifest=ContributionManifest(
        2, tuple(KeptConversation(f"c{n}", (f"p{n}",)) for n in range(CONVERSATIONS))
    ),
)


def evaluation_p_value(answers: int = 200) -> float:
    """The model of zeros scores everything 0: all conversations are in one cell, and the rest is noise."""
    plan = plan_of()
    request = EvaluateRequest("spring-1", plan.canonical_json(), b"", np.zeros(dimension_of(plan)))
    exact = np.zeros(CELLS)
    exact[BINS + BINS // 2] = CONVERSATIONS
    noise = np.stack(
        [evaluate_locally(request, plan=plan, rows=ROWS).histogram - exact for _ in range(answers)]
    )
    # Counts are rounded to whole numbers, which adds the variance of a uniform value.
    return two_tails(float((noise**2).sum()) / (EVALUATION_NOISE**2 + 1 / 12), noise.size)


def test_a_histogram_holds_the_noise_of_the_plan() -> None:
    assert min(evaluation_p_value() for _ in range(RUNS)) > FALSE_ALARM / RUNS


@pytest.mark.parametrize("fault", NOISE_FAULTS.values(), ids=NOISE_FAULTS)
def test_a_histogram_with_less_noise_is_noticed_every_time_in_25_runs(
    monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    honest = score_histogram.noised_score_histogram

    def faulty(scores: np.ndarray, *, contribution_bound: int, noise_multiplier: float, **more: Any) -> Any:
        broken = fault(SampledGaussian(contribution_bound, 1.0, noise_multiplier, 1))
        return honest(
            scores,
            contribution_bound=contribution_bound,
            noise_multiplier=broken.noise_multiplier,
            **more,
        )

    monkeypatch.setattr(score_histogram, "noised_score_histogram", faulty)
    assert max(evaluation_p_value() for _ in range(RUNS)) < FALSE_ALARM


CHARGED = {
    "full batch": plan_of(local_steps=3),
    "poisson": plan_of(local_steps=3, sampling="poisson", sample_rate=0.1),
    "three conversations": plan_of(local_steps=2, contribution_bound=3),
}


@pytest.mark.parametrize("plan", CHARGED.values(), ids=CHARGED)
def test_the_ledger_charges_the_steps_the_noise_and_the_bound_of_the_plan(tmp_path: Path, plan: Plan) -> None:
    home = MemberHome(tmp_path).create()
    make_signing_key(home.identity_key_file)
    limits = replace(TERMS.limits, contribution_bound=3)
    terms = replace(TERMS, limits=limits)
    privacy, steps = plan.privacy, plan.training.local_steps
    asked = question(plan)
    update = TrainUpdate("spring-1", plan.digest(), 1, 1, np.zeros(4, np.int64))
    evaluate = EvaluateRequest("spring-1", asked.plan, asked.signature, asked.parameters)
    counts = EvaluateUpdate("spring-1", plan.digest(), np.zeros(CELLS, np.int64))
    with open_member_ledger(
        home, terms=terms, anchor_file=home.ledger_anchor_file, federation="north", now=lambda: 1.79e9
    ) as ledger:
        ledger.charge(asked, plan=plan, update=update, dataset_digest="d" * 64)
        ledger.charge(evaluate, plan=plan, update=counts, dataset_digest="d" * 64)
        _, trained, evaluated = (entry.values for entry in ledger.entries())
    assert terms_of(trained) == (
        privacy.contribution_bound,
        privacy.sample_rate,
        steps,
        NOISE,
        NOISE,
    )
    assert terms_of(evaluated) == (privacy.contribution_bound, 1.0, 1, EVALUATION_NOISE, EVALUATION_NOISE)
    # The price: of exactly these terms, and over the whole run what the policy has judged beforehand.
    round_ = SampledGaussian(privacy.contribution_bound, privacy.sample_rate, NOISE, steps)
    histogram = SampledGaussian(privacy.contribution_bound, 1.0, EVALUATION_NOISE, 1)
    whole = run_cost(plan, headline=terms.headline, fallback=terms.fallback)
    for total, gate, judged in (
        ("headline_units", terms.headline, whole.headline_units),
        ("fallback_units", terms.fallback, whole.fallback_units),
    ):
        assert trained[total] == cost_in_units(gate, round_)
        assert evaluated[total] == cost_in_units(gate, histogram)
        assert plan.training.rounds * trained[total] + evaluated[total] == judged


def terms_of(entry: dict[str, Any]) -> tuple[float, ...]:
    names = ("contribution_bound", "sample_rate", "steps", "headline_noise", "fallback_noise")
    return tuple(entry[name] for name in names)
