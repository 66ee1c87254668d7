"""Forgetting somebody stops an answer that a running agent holds: while it waits, when it is asked for again, and at idle."""

from __future__ import annotations

import base64
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ringfence.client.agent import Agent
from ringfence.client.answering import Answering
from ringfence.client.audit_log import AuditLog, audit_entries, audit_file
from ringfence.client.erasure import forget_person
from ringfence.client.exclusions import load_exclusions
from ringfence.client.firewall import Cleared, Firewall
from ringfence.client.flower_adapter import FleetTask
from ringfence.client.member_home import MemberHome
from ringfence.client.member_ledger import MemberLedger, open_member_ledger
from ringfence.client.member_settings import MemberSettings
from ringfence.client.withdrawals import Withdrawals
from ringfence.client.worker import WorkerAnswer
from ringfence.model.key_files import make_signing_key
from ringfence.model.plan import Plan, PrivacyTerms, TrainingTerms
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
from ringfence.privacy.ledger_reader import LedgerReader
from ringfence.privacy.ledger_terms import LedgerLimits, LedgerTerms

KEY = Ed25519PrivateKey.generate()
PLAN = Plan(
    name="spring",
    federation="north",
    training=TrainingTerms(feature_set_sha256="0" * 64),
    privacy=PrivacyTerms(noise_multiplier=85.0),
)
REQUEST = TrainRequest(
    "spring-1", PLAN.canonical_json(), KEY.sign(PLAN.canonical_json()), 1, 1, np.zeros(109)
)
UPDATE = TrainUpdate("spring-1", PLAN.digest(), 1, 1, np.arange(109, dtype=np.int64))
SETTINGS = MemberSettings(
    federation="north",
    member="acme",
    fleet_address="127.0.0.1:1",
    release_address="127.0.0.1:2",
    plan_public_key=base64.b64encode(KEY.public_key().public_bytes_raw()).decode(),
)
Do = Callable[[], object]


class Stop(threading.Event):
    """Waits not at all; something is done at the first wait that is one for a slot."""

    def __init__(self, do: Do) -> None:
        super().__init__()
        self._do: Do | None = do

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and timeout > 1.0 and self._do is not None:
            self._do()
            self._do = None
        return self.is_set()


class Wire:
    """A connection with as many questions as are given, None for none, that stops the agent after the last."""

    node_id = 1

    def __init__(self, stop: threading.Event, questions: list[FleetTask | None], *, asked: Do) -> None:
        self.sent: list[Any] = []
        self._stop, self._left, self._asked = stop, questions, asked

    def receive(self, *, stop: threading.Event | None = None) -> FleetTask | None:
        if not self._left:
            self._stop.set()
            return None
        self._asked()
        return self._left.pop(0)

    def answer(self, task: object, cleared: Cleared) -> None:
        self.sent.append(answer_from_records(cleared.take()))


class Worker:
    def answer(self, request: TrainRequest, *, timeout_s: float) -> WorkerAnswer:
        return WorkerAnswer(UPDATE, dataset_digest="d" * 64)


class Member:
    """A member with an agent that is about to answer."""

    def __init__(self, home: MemberHome, ledger: MemberLedger) -> None:
        self.home, self.ledger = home, ledger
        self.withdrawals = Withdrawals(home, owner=ledger)
        self.answering = Answering(
            settings=SETTINGS,
            worker=Worker(),
            ledger=ledger,
            permit=lambda plan, asked="answer": None,
            forgetting=self.withdrawals,
        )

    def forget(self) -> None:
        forget_person(self.home, "otter", now=time.time(), even_if_unknown=True)

    def run(self, questions: list[FleetTask | None], *, waiting: Do = int, asked: Do = int) -> Wire:
        stop = Stop(waiting)
        wire = Wire(stop, questions, asked=asked)

        @contextmanager
        def connect() -> Iterator[Any]:
            yield wire

        Agent(
            self.home,
            settings=SETTINGS,
            answering=self.answering,
            ledger=self.ledger,
            firewall=Firewall(AuditLog.of(self.home), destination="127.0.0.1:1"),
            connect=connect,
            pad_to_share=0.5,
        ).run(stop)
        return wire

    def stored(self) -> list[tuple[str, bool]]:
        with LedgerReader.open(self.home.ledger_file, anchor_path=self.home.ledger_anchor_file) as reader:
            return [(item.key, item.sent) for item in reader.stored()]

    def locked(self) -> bool:
        """Whether somebody who wants to forget a person would have to wait now."""
        handle = os.open(self.home.cache / ".lock", os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


def question() -> FleetTask:
    class Message:
        content = request_to_records(REQUEST)

    return FleetTask(message=Message(), action=TRAIN_ACTION, app_id=APP_ID, run_id=1)


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    home = MemberHome(tmp_path).create()
    make_signing_key(home.identity_key_file)
    terms = LedgerTerms("conversations", limits=LedgerLimits(returned_head_required=False))
    with open_member_ledger(
        home, terms=terms, anchor_file=home.ledger_anchor_file, federation="north", now=time.time
    ) as ledger:
        yield Member(home, ledger)


def test_without_a_request_to_forget_the_answer_leaves_after_its_wait(member: Member) -> None:
    wire = member.run([question()])
    assert [type(answer) for answer in wire.sent] == [TrainUpdate]
    assert member.stored() == [("run/north/spring-1/round/1/attempt/1", True)]


def test_an_answer_that_waits_for_its_slot_does_not_leave_once_somebody_is_forgotten(member: Member) -> None:
    wire = member.run([question()], waiting=member.forget)
    assert wire.sent == [Refusal(RefusalCode.BUDGET)]
    assert member.stored() == [], "its bytes are gone"
    assert load_exclusions(member.home).to_withdraw == ()
    assert [entry.kind for entry in audit_entries(audit_file(member.home))] == ["refusal"]


def test_an_unsent_answer_is_not_sent_when_it_is_asked_for_again(member: Member) -> None:
    assert isinstance(member.answering.answer(question()).answer, TrainUpdate)
    member.forget()
    assert member.answering.answer(question()).answer == Refusal(RefusalCode.BUDGET)
    assert member.stored() == []


def test_an_agent_without_questions_withdraws_at_its_next_turn(member: Member) -> None:
    member.answering.answer(question())
    forgets = iter([member.forget])
    wire = member.run([None, None], asked=lambda: next(forgets, int)())
    assert wire.sent == []
    assert member.stored() == []
    assert load_exclusions(member.home).to_withdraw == ()


def test_nobody_is_forgotten_while_an_answer_is_charged_or_marked(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[tuple[str, bool]] = []
    for name in ("charge", "mark_sent"):
        honest = getattr(MemberLedger, name)

        def noting(*given: Any, _name: str = name, _honest: Any = honest, **more: Any) -> Any:
            locked.append((_name, member.locked()))
            return _honest(*given, **more)

        monkeypatch.setattr(MemberLedger, name, noting)
    assert [type(answer) for answer in member.run([question()]).sent] == [TrainUpdate]
    assert locked == [("charge", True), ("mark_sent", True)]
    assert not member.locked()


@pytest.mark.parametrize("waits", [False, True], ids=["before it is computed", "while it waits"])
def test_while_nobody_knows_whom_to_leave_out_only_a_code_leaves(member: Member, waits: bool) -> None:
    def tear() -> None:
        member.home.exclusions_file.write_text("{ torn")

    if not waits:
        tear()
    assert member.run([question()], waiting=tear).sent == [Refusal(RefusalCode.NO_DATA)]
    assert [sent for _, sent in member.stored()] == [False] * waits
