"""A coordinator that asks for more than was agreed, against a member's real agent: a code leaves, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation_harness import FEDERATION, Fleet, make_plan, member_command, wait_until
from flwr.app import ConfigRecord, Message, RecordDict
from scripted_coordinator import ScriptedCoordinator

from ringfence.model.plan import CohortTerms, Plan, TrainingTerms
from ringfence.model.round_messages import (
    TRAIN_ACTION,
    Refusal,
    RefusalCode,
    TrainRequest,
    TrainUpdate,
    request_to_records,
)

HEADS: dict[str, bytes] = {}
PLANTED = "planted-words-of-a-conversation"


@pytest.fixture(scope="module")
def asked(fleet: Fleet) -> Fleet:
    """A fleet where acme's agent runs, and gamma's, whose data is damaged in the midst of a text."""
    damaged = {
        "id": "gamma-0",
        "label": 1,
        "messages": [{"author": PLANTED, "text": PLANTED, "extra": PLANTED}],
    }
    (fleet.member("gamma").root / "data.jsonl").write_text(json.dumps(damaged) + "\n" + PLANTED + "\n")
    for name in ("acme", "gamma"):
        fleet.processes.start_agent(fleet.member(name))
        wait_until(
            lambda name=name: "connected to" in fleet.processes.log(f"agent-{name}"), what="agents connect"
        )
    return fleet


@pytest.fixture(scope="module")
def coordinator(asked: Fleet):
    with ScriptedCoordinator(asked.federation) as scripted:
        yield scripted


def outcome(
    asked: Fleet, coordinator: ScriptedCoordinator, request: TrainRequest, *, member: str = "acme"
) -> TrainUpdate | Refusal | None:
    """Ask, with the ledger head that the member sent last, as the round loop does."""
    coordinator.ask(asked.nodes[member], replace(request, known_head=HEADS.get(member, b"")))
    (arrival,) = coordinator.collect()
    if isinstance(arrival.answer, TrainUpdate):
        HEADS[member] = arrival.answer.ledger_head
    return arrival.answer


def training(**changes: object) -> TrainingTerms:
    return TrainingTerms.model_validate({**make_plan().training.model_dump(), **changes})


def unsigned(coordinator: ScriptedCoordinator) -> TrainRequest:
    return replace(coordinator.request(make_plan()), signature=b"")


def signed_by_another(coordinator: ScriptedCoordinator) -> TrainRequest:
    request = coordinator.request(make_plan())
    return replace(request, signature=Ed25519PrivateKey.generate().sign(request.plan))


def signed_for_another_plan(coordinator: ScriptedCoordinator) -> TrainRequest:
    signature = coordinator.request(make_plan()).signature
    return replace(coordinator.request(make_plan(rounds=2)), signature=signature)


def one_byte_changed(coordinator: ScriptedCoordinator) -> TrainRequest:
    request = coordinator.request(make_plan())
    return replace(request, plan=request.plan.replace(b'"rounds":3', b'"rounds":9'))


def not_canonical(coordinator: ScriptedCoordinator) -> TrainRequest:
    class Spaced(Plan):
        def canonical_json(self) -> bytes:
            return json.dumps(self.model_dump(mode="json"), indent=1).encode()

    return coordinator.request(Spaced.model_validate(make_plan().model_dump()))


def not_a_plan(coordinator: ScriptedCoordinator) -> TrainRequest:
    class Nothing(Plan):
        def canonical_json(self) -> bytes:
            return b"{}"

    return coordinator.request(Nothing.model_validate(make_plan().model_dump()))


def another_federation(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(federation="elsewhere"))


def not_a_demonstration(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(demonstration=False))


def another_feature_set(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(training=training(feature_set_sha256="0" * 64)))


def another_architecture(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(training=training(architecture="everything-at-once")))


def another_purpose(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(purpose="advertising"))


def a_round_past_the_last(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(rounds=3), round_=4)


def a_smaller_model(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(), dimension=3)


def a_model_that_is_not_finite(coordinator: ScriptedCoordinator) -> TrainRequest:
    return coordinator.request(make_plan(), parameters=np.full(109, np.nan))


ATTACKS = {
    unsigned: RefusalCode.BAD_REQUEST,
    signed_by_another: RefusalCode.BAD_REQUEST,
    signed_for_another_plan: RefusalCode.BAD_REQUEST,
    one_byte_changed: RefusalCode.BAD_REQUEST,
    not_canonical: RefusalCode.BAD_REQUEST,
    another_federation: RefusalCode.POLICY,
    not_a_demonstration: RefusalCode.POLICY,
    another_feature_set: RefusalCode.POLICY,
    another_architecture: RefusalCode.POLICY,
    another_purpose: RefusalCode.POLICY,
    a_round_past_the_last: RefusalCode.BAD_REQUEST,
    a_smaller_model: RefusalCode.BAD_REQUEST,
    a_model_that_is_not_finite: RefusalCode.BAD_REQUEST,
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_question_outside_the_agreement_is_answered_with_a_code(
    asked: Fleet,
    coordinator: ScriptedCoordinator,
    attack: Callable[[ScriptedCoordinator], TrainRequest],
) -> None:
    assert outcome(asked, coordinator, attack(coordinator)) == Refusal(ATTACKS[attack])


def test_a_signed_text_that_is_no_plan_is_answered_with_a_code(
    asked: Fleet, coordinator: ScriptedCoordinator
) -> None:
    assert isinstance(outcome(asked, coordinator, not_a_plan(coordinator)), Refusal)


def test_a_message_of_another_form_is_answered_with_a_code(
    asked: Fleet, coordinator: ScriptedCoordinator
) -> None:
    records = request_to_records(coordinator.request(make_plan()))
    records["more"] = ConfigRecord({"code": "import os"})
    for content in (records, RecordDict()):
        message = Message(content, asked.nodes["acme"], TRAIN_ACTION, ttl=600.0)
        (message_id,) = coordinator.grid.push_messages([message])
        coordinator.channel._waiting[message_id] = (asked.nodes["acme"], 1)
        (arrival,) = coordinator.collect()
        assert arrival.answer == Refusal(RefusalCode.BAD_REQUEST)


def test_the_same_question_gets_the_same_bytes_and_another_under_its_name_gets_none(
    asked: Fleet, coordinator: ScriptedCoordinator
) -> None:
    """New noise for the same release would average out; the first answer is the only one."""
    request = coordinator.request(make_plan(), round_=2, run="once")
    first = outcome(asked, coordinator, request)
    again = outcome(asked, coordinator, request)
    assert isinstance(first, TrainUpdate)
    assert isinstance(again, TrainUpdate)
    assert np.array_equal(first.update, again.update)
    assert first.update.any()
    other_model = replace(request, parameters=np.ones(109))
    assert outcome(asked, coordinator, other_model) == Refusal(RefusalCode.BAD_REQUEST)
    other_plan = coordinator.request(make_plan(cohort=CohortTerms(minimum=3)), round_=2, run="once")
    assert outcome(asked, coordinator, other_plan) == Refusal(RefusalCode.BAD_REQUEST)


def test_an_honest_question_is_answered_after_all_of_that(
    asked: Fleet, coordinator: ScriptedCoordinator
) -> None:
    answer = outcome(asked, coordinator, coordinator.request(make_plan(), run="honest"))
    assert isinstance(answer, TrainUpdate)
    assert answer.plan_digest == make_plan().digest()
    assert answer.update.shape == (109,)


def test_damaged_data_leaves_as_a_code_and_none_of_its_words_anywhere(
    asked: Fleet, coordinator: ScriptedCoordinator
) -> None:
    answer = outcome(asked, coordinator, coordinator.request(make_plan(), run="damaged"), member="gamma")
    assert answer == Refusal(RefusalCode.NO_DATA)
    # Neither in what was sent, which is all in Flower's database, nor in a log, nor in what the member keeps.
    places = [
        asked.federation.coordinator.root,
        asked.processes.logs,
        *(path for path in asked.member("gamma").root.iterdir() if path.name != "data.jsonl"),
    ]
    files = [file for place in places for file in (place.rglob("*") if place.is_dir() else [place])]
    assert any(file.name == "superlink.db" for file in files)
    for file in files:
        if file.is_file():
            assert PLANTED.encode() not in file.read_bytes(), file.name


def test_a_second_agent_on_the_same_folder_is_refused(asked: Fleet) -> None:
    """Two would spend one budget twice."""
    home = asked.member("acme")
    second = asked.processes.start("second", member_command("agent", "run", "--home", home.root))
    assert second.wait(60) == 4
    assert "Another agent runs on this folder" in asked.processes.log("second")
    assert "Traceback" not in asked.processes.log("second")
    assert asked.processes.running["agent-acme"].poll() is None


def test_agent_and_worker_listen_nowhere(asked: Fleet) -> None:
    agent = psutil.Process(asked.processes.running["agent-acme"].pid)
    family = [agent, *agent.children(recursive=True)]
    assert len(family) >= 2
    for one in family:
        assert [found for found in one.net_connections(kind="inet") if found.status == "LISTEN"] == []


def test_the_federation_of_these_tests_is_the_members_own() -> None:
    """Otherwise every refusal above could have that one reason."""
    assert make_plan().federation == FEDERATION
