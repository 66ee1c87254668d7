"""A member answers in one order: signature, terms, ledger, policy, training, charge. Whatever goes wrong leaves as a code."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict

from ringfence.client.agent import Retry
from ringfence.client.answering import Answering
from ringfence.client.flower_adapter import FleetTask
from ringfence.client.member_settings import MemberSettings
from ringfence.client.worker import WorkerAnswer
from ringfence.model.errors import BudgetError, ConfigError, PeerError, PolicyError
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import (
    APP_ID,
    TRAIN_ACTION,
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    request_to_records,
)

PLANTED = "planted-words-of-a-conversation"
KEY = Ed25519PrivateKey.generate()
PLAN = Plan(
    name="first",
    federation="demo",
    demonstration=True,
    training=TrainingTerms(feature_set_sha256="ab" * 32, rounds=3),
    privacy=PrivacyTerms(noise_multiplier=5.0),
)
UPDATE = TrainUpdate("run", PLAN.digest(), 1, 1, np.array([1, 2, 3], dtype=np.int64))


@dataclass
class Steps:
    """A worker, a ledger and a policy that write down when they are asked, and fail where they are told to."""

    taken: list[str] = field(default_factory=list)
    fails: dict[str, Exception] = field(default_factory=dict)
    kept: TrainUpdate | None = None
    stamps: list[int] = field(default_factory=list)
    made: WorkerAnswer = field(default_factory=lambda: WorkerAnswer(UPDATE, dataset_digest="d" * 64))

    def _take(self, step: str) -> None:
        self.taken.append(step)
        if step in self.fails:
            raise self.fails[step]

    def confirm(self, known_head: bytes) -> None:
        self._take("confirm")

    def settle(self) -> None:
        self._take("settle")

    def stamp(self) -> int:
        return self.stamps.pop(0) if self.stamps else 0

    @contextmanager
    def held(self) -> Iterator[None]:
        self._take("hold")
        yield

    def released(self, request: TrainRequest) -> TrainUpdate | None:
        self._take("released")
        return self.kept

    def permit(self, plan: Plan) -> None:
        self._take("permit")

    def check(self, request: TrainRequest, plan: Plan) -> None:
        self._take("check")

    def answer(self, request: TrainRequest, *, timeout_s: float) -> WorkerAnswer:
        self._take("train")
        return self.made

    def charge(
        self, request: TrainRequest, *, plan: Plan, update: TrainUpdate, dataset_digest: str
    ) -> TrainUpdate:
        self._take("charge")
        return replace(update, ledger_head=b"head")


WHOLE = ["confirm", "settle", "released", "permit", "check", "train", "hold", "charge"]


def answering(steps: Steps) -> Answering:
    settings = MemberSettings(
        federation="demo",
        member="acme",
        fleet_address="127.0.0.1:1",
        release_address="127.0.0.1:2",
        demonstration=True,
        plan_public_key=base64.b64encode(KEY.public_key().public_bytes_raw()).decode(),
    )
    return Answering(
        settings=settings,
        worker=steps,
        ledger=steps,  # type: ignore[arg-type]
        permit=steps.permit,  # type: ignore[arg-type]
        forgetting=steps,
    )


def request(plan: Plan = PLAN, **changes: Any) -> TrainRequest:
    content = plan.canonical_json()
    return replace(TrainRequest("run", content, KEY.sign(content), 1, 1, np.zeros(3)), **changes)


def task(content: object = None, *, app_id: str = APP_ID, action: str = TRAIN_ACTION) -> FleetTask:
    records = request_to_records(content) if isinstance(content, TrainRequest) else content

    class Message:
        content = records

    return FleetTask(message=Message(), action=action, app_id=app_id, run_id=1)


def test_an_honest_question_goes_through_every_step_and_what_was_charged_leaves() -> None:
    steps = Steps()
    out = answering(steps).answer(task(request()))
    assert steps.taken == WHOLE
    assert isinstance(out.answer, TrainUpdate)
    assert out.answer.ledger_head == b"head", "the ledger's bytes leave, not the worker's"


def test_a_question_that_was_answered_is_answered_from_the_ledger_without_training() -> None:
    steps = Steps(kept=UPDATE)
    assert answering(steps).answer(task(request())).answer is UPDATE
    assert steps.taken == ["confirm", "settle", "released"]


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (lambda: task(request(), app_id="other/federation"), RefusalCode.UNKNOWN_APP),
        (lambda: task(request(), action="evaluate"), RefusalCode.UNKNOWN_APP),
        (lambda: task(request(signature=b"\0" * 64)), RefusalCode.BAD_REQUEST),
        (lambda: task(request(round=4)), RefusalCode.BAD_REQUEST),
        (lambda: task(request(PLAN.model_copy(update={"federation": "other"}))), RefusalCode.POLICY),
        (lambda: task(request(PLAN.model_copy(update={"demonstration": False}))), RefusalCode.POLICY),
        (lambda: task(RecordDict()), RefusalCode.BAD_REQUEST),
        (lambda: task(RecordDict({"ringfence": ConfigRecord({"kind": PLANTED})})), RefusalCode.BAD_REQUEST),
    ],
)
def test_a_question_outside_the_agreement_reaches_neither_ledger_nor_data(
    asked: Callable[[], FleetTask], code: RefusalCode
) -> None:
    steps = Steps()
    assert answering(steps).answer(asked()).answer == Refusal(code)
    assert steps.taken == []


@pytest.mark.parametrize(
    ("step", "error", "code"),
    [
        ("confirm", BudgetError("Behind its head."), RefusalCode.BUDGET),
        ("confirm", PeerError("Not this member's head."), RefusalCode.BAD_REQUEST),
        ("settle", ConfigError("Nobody knows whom to leave out."), RefusalCode.NO_DATA),
        ("released", PeerError("Answered, to another question."), RefusalCode.BAD_REQUEST),
        ("permit", PolicyError("Line 3 says no."), RefusalCode.POLICY),
        ("check", BudgetError("Spent."), RefusalCode.BUDGET),
        ("charge", BudgetError("Spent."), RefusalCode.BUDGET),
        ("charge", OSError(28, PLANTED), RefusalCode.FAILED),
        ("train", ValueError(PLANTED), RefusalCode.FAILED),
        ("released", KeyError(PLANTED), RefusalCode.FAILED),
    ],
)
def test_a_step_that_fails_is_the_last_one_and_only_its_code_leaves(
    step: str, error: Exception, code: RefusalCode, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps(fails={step: error})
    with caplog.at_level(logging.DEBUG):
        out = answering(steps).answer(task(request()))
    assert out.answer == Refusal(code)
    assert steps.taken == WHOLE[: WHOLE.index(step) + 1]
    assert PLANTED not in caplog.text


def test_what_was_computed_while_somebody_was_forgotten_is_dropped_uncharged() -> None:
    steps = Steps(stamps=[1, 2])
    assert answering(steps).answer(task(request())).answer == Refusal(RefusalCode.BUSY)
    assert steps.taken[-2:] == ["train", "hold"]


def test_a_refusal_of_the_worker_costs_nothing() -> None:
    steps = Steps(made=WorkerAnswer(Refusal(RefusalCode.NO_DATA), "Line 3 is not JSON."))
    assert answering(steps).answer(task(request())).answer == Refusal(RefusalCode.NO_DATA)
    assert "charge" not in steps.taken


@pytest.mark.parametrize(
    ("failures", "shortest", "longest"), [(1, 0.25, 0.5), (2, 0.5, 1.0), (3, 1.0, 2.0), (50, 15.0, 30.0)]
)
def test_a_member_comes_back_a_little_later_each_time_and_not_in_step_with_others(
    failures: int, shortest: float, longest: float
) -> None:
    retry = Retry()
    assert retry.wait_s(failures, jitter=0.0) == pytest.approx(shortest)
    assert retry.wait_s(failures, jitter=1.0) == pytest.approx(longest)
