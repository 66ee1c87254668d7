"""The agent sends what the firewall cleared, at the end of its slot, and a code where an answer is not of the agreed form."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cleared_answers import HEAD_HASH, charged, signed_head

from ringfence.client.agent import Agent
from ringfence.client.answering import Outgoing
from ringfence.client.audit_chain import AuditBrokenError
from ringfence.client.audit_log import AuditLog, audit_entries, audit_file
from ringfence.client.firewall import Cleared, Firewall
from ringfence.client.member_home import MemberHome
from ringfence.client.member_settings import MemberSettings
from ringfence.client.stored_answer import Charged, question_digest
from ringfence.model.errors import ConnectionFailedError
from ringfence.model.plan import CohortTerms, Plan, PrivacyTerms, TrainingTerms
from ringfence.model.round_messages import (
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    answer_from_records,
)

SECRET = "the blue heron waits"  # stands for what a person wrote
PLAN = Plan(
    name="spring",
    federation="test",
    demonstration=True,
    training=TrainingTerms(feature_set_sha256="f" * 64),
    privacy=PrivacyTerms(noise_multiplier=10.0),
    cohort=CohortTerms(round_deadline_s=200.0),
)
REQUEST = TrainRequest(
    run="spring-1",
    plan=PLAN.canonical_json(),
    signature=bytes(64),
    round=1,
    attempt=1,
    parameters=np.zeros(109),
)
UPDATE = TrainUpdate(
    run="spring-1",
    plan_digest=PLAN.digest(),
    round=1,
    attempt=1,
    update=np.arange(109, dtype=np.int64),
    ledger_head=signed_head(),
)


class Wire:
    """A fleet connection that keeps what it is given, and asks the agent to stop when it has asked its questions."""

    node_id = 1

    def __init__(self, stop: threading.Event, questions: int = 1, *, breaks: bool = False) -> None:
        self._breaks = breaks
        self.sent: list[TrainUpdate | Refusal] = []
        self._stop, self._left = stop, questions

    def receive(self, *, stop: threading.Event | None = None) -> object | None:
        self._left -= 1
        if self._left < 0:
            self._stop.set()
            return None
        return object()

    def answer(self, task: object, cleared: Cleared) -> None:
        self.sent.append(answer_from_records(cleared.take()))
        if self._breaks:
            self._stop.set()
            raise ConnectionFailedError("The coordinator broke off at the last byte.")


class Says:
    """An answering that says always the same."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def answer(self, task: object) -> Outgoing:
        return self._outgoing


class Ledger:
    """A ledger that has charged one update."""

    def __init__(self) -> None:
        self.sent: list[TrainRequest] = []

    def charged(self, request: TrainRequest) -> Charged:
        return charged(UPDATE, question=question_digest(request))

    def mark_sent(self, request: TrainRequest) -> None:
        self.sent.append(request)


class Stop(threading.Event):
    """Notes how long it was asked to wait, and waits not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        return self.is_set()


def run_agent(
    folder: Path, outgoing: Outgoing, *, pad_to_share: float = 0.0, questions: int = 1, breaks: bool = False
) -> Any:
    home = MemberHome(folder).create()
    stop, ledger = Stop(), Ledger()
    wire = Wire(stop, questions, breaks=breaks)

    @contextmanager
    def connect() -> Iterator[Any]:
        yield wire

    Agent(
        home,
        settings=MemberSettings(
            federation="test",
            member="acme",
            fleet_address="127.0.0.1:1",
            release_address="127.0.0.1:2",
            demonstration=True,
            plan_public_key="A" * 43 + "=",
        ),
        answering=Says(outgoing),  # type: ignore[arg-type]
        ledger=ledger,  # type: ignore[arg-type]
        firewall=Firewall(AuditLog.of(home), destination="127.0.0.1:1"),
        connect=connect,
        pad_to_share=pad_to_share,
    ).run(stop)
    return wire, ledger, stop, home


def test_an_update_is_sent_recorded_and_marked(tmp_path: Path) -> None:
    wire, ledger, _, home = run_agent(tmp_path, Outgoing(UPDATE, REQUEST, PLAN), questions=2)
    assert [sent.update.tolist() for sent in wire.sent] == [UPDATE.update.tolist()] * 2
    assert ledger.sent == [REQUEST, REQUEST]
    assert [(entry.kind, entry.run, entry.ledger_head) for entry in audit_entries(audit_file(home))] == [
        ("train-update", "spring-1", HEAD_HASH)
    ] * 2


def test_an_answer_whose_sending_the_coordinator_breaks_off_counts_as_sent(tmp_path: Path) -> None:
    wire, ledger, _, _ = run_agent(tmp_path, Outgoing(UPDATE, REQUEST, PLAN), breaks=True)
    assert len(wire.sent) == 1, "the coordinator has the bytes"
    assert ledger.sent == [REQUEST]


@pytest.mark.parametrize(("deadline_s", "waits"), [(0.01, 30.0), (7 * 86_400.0, 3600.0)])
def test_a_plan_cannot_switch_padding_off_or_hold_the_agent_for_days(
    tmp_path: Path, deadline_s: float, waits: float
) -> None:
    plan = PLAN.model_copy(update={"cohort": PLAN.cohort.model_copy(update={"round_deadline_s": deadline_s})})
    _, _, stop, _ = run_agent(
        tmp_path, Outgoing(Refusal(RefusalCode.FAILED), REQUEST, plan), pad_to_share=0.5
    )
    assert sum(stop.waits) == pytest.approx(waits, abs=1.0)


@pytest.mark.parametrize(
    "defective",
    [
        pytest.param(replace(UPDATE, update=np.zeros(109)), id="floats"),
        pytest.param(replace(UPDATE, update=np.arange(110)), id="one number more"),
        pytest.param(replace(UPDATE, update=UPDATE.update ^ (np.arange(109) == 7)), id="one bit changed"),
        pytest.param(replace(UPDATE, run=SECRET), id="text"),
        pytest.param(replace(UPDATE, ledger_head=b""), id="not charged"),
        pytest.param(ValueError(SECRET), id="an exception"),
    ],
)
def test_a_defective_answer_leaves_as_a_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, defective: Any
) -> None:
    with caplog.at_level(logging.DEBUG):
        wire, ledger, _, home = run_agent(tmp_path, Outgoing(defective, REQUEST, PLAN))
    assert wire.sent == [Refusal(RefusalCode.FAILED)]
    assert ledger.sent == []
    assert [entry.kind for entry in audit_entries(audit_file(home))] == ["refusal"]
    assert SECRET not in caplog.text


def test_an_agent_whose_audit_log_was_cut_sends_nothing_more(tmp_path: Path) -> None:
    outgoing = Outgoing(UPDATE, REQUEST, PLAN)
    _, _, _, home = run_agent(tmp_path, outgoing)
    audit_file(home).write_bytes(b"")
    with pytest.raises(AuditBrokenError):
        run_agent(tmp_path, outgoing)


@pytest.mark.parametrize(
    ("outgoing", "pad_to_share", "waits"),
    [
        pytest.param(Outgoing(UPDATE, REQUEST, PLAN), 0.5, 100.0, id="an update waits for its slot"),
        pytest.param(
            Outgoing(Refusal(RefusalCode.NO_DATA), REQUEST, PLAN), 0.5, 100.0, id="and so does a refusal"
        ),
        pytest.param(Outgoing(UPDATE, REQUEST, PLAN), 0.0, 0.0, id="no padding"),
        pytest.param(
            Outgoing(Refusal(RefusalCode.UNKNOWN_APP)), 0.5, 0.0, id="nothing of the member's in it"
        ),
    ],
)
def test_answers_wait_for_the_end_of_their_slot(
    tmp_path: Path, outgoing: Outgoing, pad_to_share: float, waits: float
) -> None:
    wire, _, stop, _ = run_agent(tmp_path, outgoing, pad_to_share=pad_to_share)
    assert len(wire.sent) == 1
    # The poll's own wait is a quarter of a second; nothing here takes a second of the slot.
    assert sum(stop.waits) == pytest.approx(max(waits, 0.25), abs=1.0)
