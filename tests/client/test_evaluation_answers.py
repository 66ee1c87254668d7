"""A member's score histogram is charged once a run, kept, cleared, and refused where plan, policy or budget say no."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cleared_answers import charged, signed_head
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nobody_forgotten import NobodyForgotten

from ringfence.client.answer_schema import FirewallError
from ringfence.client.answering import Answering, Outgoing
from ringfence.client.audit_log import AuditLog, audit_entries
from ringfence.client.firewall import Firewall, Question, question_of
from ringfence.client.flower_adapter import FleetTask
from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import MemberLedger, open_member_ledger
from ringfence.client.member_settings import MemberSettings
from ringfence.client.policy import default_policy
from ringfence.client.policy_check import Spending, check_plan, refusals_of, spending_of
from ringfence.client.worker import WorkerAnswer
from ringfence.model.errors import PolicyError
from ringfence.model.evaluation_messages import EVALUATE_ACTION, EvaluateRequest, EvaluateUpdate
from ringfence.model.key_files import make_signing_key
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import (
    APP_ID,
    TRAIN_ACTION,
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    answer_from_records,
    request_to_records,
)
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms
from ringfence.privacy.run_cost import run_cost
from ringfence.privacy.score_histogram import CELLS

KEY = Ed25519PrivateKey.generate()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def plan(noise: float | None = 20.0, **privacy: Any) -> Plan:
    return Plan(
        name="spring",
        federation="demo",
        training=TrainingTerms(feature_set_sha256="ab" * 32, rounds=30, local_steps=10),
        privacy=PrivacyTerms(noise_multiplier=85.0, evaluation_noise_multiplier=noise, **privacy),
        cohort=CohortTerms(minimum=3),
    )


def question(agreed: Plan | None = None, **changes: Any) -> EvaluateRequest:
    content = (agreed or plan()).canonical_json()
    return replace(EvaluateRequest("spring-1", content, KEY.sign(content), np.zeros(109)), **changes)


def histogram(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-5, 50, CELLS, dtype=np.int64)


@dataclass
class Counting:
    """A worker that gives another histogram each time, as noise would have it, and remembers who asked what."""

    asked: list[object] = field(default_factory=list)
    permitted: list[str] = field(default_factory=list)

    def answer(self, request: Any, *, timeout_s: float) -> WorkerAnswer:
        self.asked.append(request)
        update = EvaluateUpdate(request.run, plan().digest(), histogram(len(self.asked)))
        return WorkerAnswer(update, dataset_digest="d" * 64)

    def permit(self, agreed: Plan, asked: str = "answer") -> None:
        self.permitted.append(asked)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[MemberLedger]:
    home = MemberHome(tmp_path).create()
    make_signing_key(home.identity_key_file)
    terms = LedgerTerms(lineage="chats", limits=LedgerLimits(returned_head_required=False))
    with open_member_ledger(
        home, terms=terms, anchor_file=home.ledger_anchor_file, federation="demo", now=lambda: 1_790_000_000.0
    ) as opened:
        yield opened


def say(ledger: MemberLedger, worker: Counting, request: Any, *, action: str = EVALUATE_ACTION) -> Outgoing:
    settings = MemberSettings(
        federation="demo",
        member="acme",
        fleet_address="127.0.0.1:1",
        release_address="127.0.0.1:2",
        plan_public_key=base64.b64encode(KEY.public_key().public_bytes_raw()).decode(),
    )

    class Message:
        content = request_to_records(request)

    return Answering(
        settings=settings,
        worker=worker,
        ledger=ledger,
        permit=worker.permit,
        forgetting=NobodyForgotten(),
    ).answer(FleetTask(message=Message(), action=action, app_id=APP_ID, run_id=1))


def test_a_histogram_is_charged_under_its_own_kind_and_price(ledger: MemberLedger) -> None:
    worker = Counting()
    said = say(ledger, worker, question())
    assert isinstance(said.answer, EvaluateUpdate)
    assert said.answer.histogram.tolist() == histogram(1).tolist()
    assert said.answer.ledger_head
    _, entry = ledger.entries()
    assert (entry.kind, entry.key) == ("evaluate", "run/demo/spring-1/evaluation")
    charged = {
        name: entry.values[name] for name in ("steps", "sample_rate", "headline_noise", "fallback_noise")
    }
    assert charged == {"steps": 1, "sample_rate": 1.0, "headline_noise": 20.0, "fallback_noise": 20.0}
    terms = LedgerTerms(lineage="chats")
    gates = {"headline": terms.headline, "fallback": terms.fallback}
    price = run_cost(plan(), **gates).headline_units - run_cost(plan(None), **gates).headline_units
    assert entry.values["headline_units"] == price
    assert worker.permitted == ["evaluation"]


def test_the_same_question_gets_the_same_counts_at_no_further_price(ledger: MemberLedger) -> None:
    worker = Counting()
    first, again = (say(ledger, worker, question()).answer for _ in range(2))
    assert isinstance(first, EvaluateUpdate)
    assert isinstance(again, EvaluateUpdate)
    assert first.histogram.tolist() == again.histogram.tolist()
    assert len(worker.asked) == 1
    assert len(list(ledger.entries())) == 2


@pytest.mark.parametrize(
    ("request_", "action", "code"),
    [
        pytest.param(question(parameters=np.ones(109)), EVALUATE_ACTION, RefusalCode.BAD_REQUEST, id="another model"),
        pytest.param(question(plan(None), run="spring-3"), EVALUATE_ACTION, RefusalCode.BAD_REQUEST, id="a plan without evaluation"),
        pytest.param(question(plan(0.5), run="spring-3"), EVALUATE_ACTION, RefusalCode.BUDGET, id="noise below the ledger's floor"),
        pytest.param(question(plan(contribution_bound=3), run="spring-3"), EVALUATE_ACTION, RefusalCode.BUDGET, id="k above it"),
        pytest.param(question(signature=bytes(64)), EVALUATE_ACTION, RefusalCode.BAD_REQUEST, id="not signed"),
        pytest.param(question(), TRAIN_ACTION, RefusalCode.BAD_REQUEST, id="sent as a round"),
        pytest.param(question(), "evaluate.other", RefusalCode.UNKNOWN_APP, id="another action"),
    ],
)  # fmt: skip
def test_a_second_model_or_a_plan_that_says_otherwise_is_refused(
    ledger: MemberLedger, request_: EvaluateRequest, action: str, code: RefusalCode
) -> None:
    worker = Counting()
    say(ledger, worker, question())
    assert say(ledger, worker, request_, action=action).answer == Refusal(code)
    assert len(worker.asked) == 1
    assert len(list(ledger.entries())) == 2


def test_a_round_sent_as_an_evaluation_is_refused(ledger: MemberLedger) -> None:
    content = plan().canonical_json()
    asked = TrainRequest("spring-1", content, KEY.sign(content), 1, 1, np.zeros(109))
    assert say(ledger, Counting(), asked).answer == Refusal(RefusalCode.BAD_REQUEST)


UPDATE = EvaluateUpdate("spring-1", plan().digest(), histogram(), signed_head())
QUESTION = question_of(question(), plan=plan())


@pytest.fixture
def firewall(tmp_path: Path) -> Firewall:
    return Firewall(AuditLog(tmp_path / "audit.jsonl"), destination="coordinator.example:8443")


def test_a_histogram_passes_the_firewall_and_stands_in_the_audit_log(
    tmp_path: Path, firewall: Firewall
) -> None:
    cleared = firewall.clear(UPDATE, question=QUESTION, charged=charged(UPDATE, question=QUESTION.digest))
    sent = answer_from_records(cleared.take())
    assert isinstance(sent, EvaluateUpdate)
    assert sent.histogram.tolist() == UPDATE.histogram.tolist()
    (entry,) = audit_entries(tmp_path / "audit.jsonl")
    assert (entry.kind, entry.run, entry.round, entry.size_bytes) == (
        "evaluate-update",
        "spring-1",
        0,
        8 * CELLS,
    )


TRAINED = TrainUpdate("spring-1", plan().digest(), 1, 1, np.arange(CELLS), signed_head())


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        pytest.param(
            replace(UPDATE, histogram=UPDATE.histogram / 7), QUESTION, id="shares in place of counts"
        ),
        pytest.param(replace(UPDATE, histogram=UPDATE.histogram[1:]), QUESTION, id="a cell too few"),
        pytest.param(
            replace(UPDATE, histogram=np.append(UPDATE.histogram, 812)), QUESTION, id="a count more"
        ),
        pytest.param(replace(UPDATE, histogram=UPDATE.histogram + 2**41), QUESTION, id="out of range"),
        pytest.param(replace(UPDATE, histogram=UPDATE.histogram.reshape(2, -1)), QUESTION, id="two rows"),
        pytest.param(replace(UPDATE, run="spring-2"), QUESTION, id="another run"),
        pytest.param(replace(UPDATE, ledger_head=b""), QUESTION, id="not charged"),
        pytest.param(TRAINED, QUESTION, id="an update to the question of an evaluation"),
        pytest.param(
            UPDATE,
            Question("spring-1", plan().digest(), "train-update", 0, 0, "p", CELLS, QUESTION.digest),
            id="a histogram to the question of a round",
        ),
    ],
)
def test_another_histogram_stays(tmp_path: Path, firewall: Firewall, answer: Any, asked: Question) -> None:
    with pytest.raises(FirewallError):
        firewall.clear(answer, question=asked, charged=charged(answer, question=asked.digest))
    assert list(audit_entries(tmp_path / "audit.jsonl")) == []


def test_the_policy_counts_evaluations_apart_from_rounds(ledger: MemberLedger) -> None:
    say(ledger, Counting(), question())
    say(ledger, Counting(), question(run="spring-2"))
    spent = spending_of(ledger.entries(), order=ledger.order, plan_digest=plan().digest())
    assert (spent.answers, spent.evaluations) == (0, 2)


def test_a_finished_run_may_still_be_evaluated_and_not_for_ever() -> None:
    rules = default_policy(federation="demo")
    agreed = plan(10.0)
    done = Spending(order=4, answers=30)
    check_plan(agreed, policy=rules, now=NOW, spent=done, asked="evaluation")
    permitted = [
        given
        for given in range(40)
        if not refusals_of(
            agreed, policy=rules, now=NOW, spent=replace(done, evaluations=given), asked="evaluation"
        )
    ]
    assert permitted == list(range(len(permitted)))
    assert 1 <= len(permitted) < 40


@pytest.mark.parametrize("noise", [0.1, 0.99])
def test_an_evaluation_below_the_members_floor_of_noise_is_refused(noise: float) -> None:
    with pytest.raises(PolicyError, match="noise_floor"):
        check_plan(plan(noise), policy=default_policy(federation="demo"), now=NOW)
