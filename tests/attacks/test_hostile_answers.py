"""What an admitted member can do with its own questions and others': it loses its own answer and nobody else's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cleared_answers import cleared
from federation_harness import Fleet, make_plan
from fleet_attacker import Credentials, RawCaller
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import get_object_id
from scripted_coordinator import ScriptedCoordinator

from ringfence.client.flower_adapter import FleetConnection, FleetTask
from ringfence.model.round_messages import TrainUpdate, answer_to_records
from ringfence.server.round_channel import Arrival

PUSH = "/v1/fleet/push-messages"


@pytest.fixture
def coordinator(fleet: Fleet) -> Iterator[ScriptedCoordinator]:
    with ScriptedCoordinator(fleet.federation) as scripted:
        yield scripted


def update_for(task: FleetTask) -> TrainUpdate:
    return TrainUpdate("scripted", "0" * 64, 1, 1, np.arange(109, dtype=np.int64))


def receive(connection: FleetConnection) -> FleetTask:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if (task := connection.receive()) is not None:
            return task
        time.sleep(0.05)
    raise AssertionError("no question arrived")


def reply_to(task: FleetTask, content: Any) -> Any:
    reply = Message(content, reply_to=task.message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def push(fleet: Fleet, name: str, reply: Any, *, tree: ObjectTree | None = None) -> PushMessagesResponse:
    """Announce a reply as a member would, over the gateway."""
    home = fleet.member(name)
    with no_object_id_recompute():
        request = PushMessagesRequest(
            node=Node(node_id=fleet.nodes[name]),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree if tree is not None else get_object_tree(reply)],
            clientapp_runtime_list=[0.0],
        )
    with RawCaller(
        fleet.address, ca_file=home.ca_file, credentials=Credentials.of(home), node_key_file=home.key_file
    ) as caller:
        response = caller.call(PUSH, request.SerializeToString())
    return PushMessagesResponse.FromString(response.content) if response.status_code == 200 else None


def answer(fleet: Fleet, name: str, connection: FleetConnection, task: FleetTask) -> None:
    """Answer as an honest member does."""
    send(fleet, name, connection, task, reply_to(task, answer_to_records(update_for(task))))


def send(fleet: Fleet, name: str, connection: FleetConnection, task: FleetTask, reply: Any) -> None:
    """Announce a reply and send all of its parts."""
    response = push(fleet, name, reply)
    if response is not None:
        parts = {key: item.deflate() for key, item in get_all_nested_objects(reply).items()}
        push_parts(connection, task, response, parts)


def push_parts(connection: FleetConnection, task: FleetTask, response: Any, parts: dict[str, bytes]) -> None:
    for object_id, content in parts.items():
        connection._client.PushObject(
            PushObjectRequest(
                node=connection._node,
                run_id=task.run_id,
                session_id=response.session_id,
                object_id=object_id,
                object_content=content,
            )
        )


def answers_of(arrivals: list[Arrival]) -> dict[int, TrainUpdate | None]:
    return {arrival.node_id: arrival.answer for arrival in arrivals}


def test_an_answer_in_another_members_name_is_refused_at_the_door(
    fleet: Fleet, coordinator: ScriptedCoordinator
) -> None:
    with fleet.connection("acme") as acme:
        coordinator.ask(fleet.nodes["acme"], coordinator.request(make_plan()))
        reply = reply_to(receive(acme), RecordDict())
        reply.metadata.__dict__["_src_node_id"] = fleet.nodes["gamma"]
        reply.metadata.__dict__["_message_id"] = reply.object_id
        assert push(fleet, "acme", reply) is None
    assert "refused acme: a message in another member's name" in fleet.processes.log("fleet")


def test_an_answer_to_another_members_question_does_not_count(
    fleet: Fleet, coordinator: ScriptedCoordinator
) -> None:
    question = coordinator.request(make_plan())
    with fleet.connection("acme") as acme, fleet.connection("gamma") as gamma:
        gammas = coordinator.ask(fleet.nodes["gamma"], question)
        coordinator.ask(fleet.nodes["acme"], question)
        task = receive(acme)
        forged = reply_to(
            task, RecordDict({"ringfence": ConfigRecord({"kind": "refusal", "code": "policy"})})
        )
        forged.metadata.__dict__["_reply_to_message_id"] = gammas
        forged.metadata.__dict__["_message_id"] = forged.object_id
        send(fleet, "acme", acme, task, forged)
        assert coordinator.silence(1.0) == []
        victims = receive(gamma)
        gamma.answer(victims, cleared(update_for(victims)))
        (arrival,) = coordinator.collect()
    assert arrival.node_id == fleet.nodes["gamma"]
    assert isinstance(arrival.answer, TrainUpdate)


def _announce_and_send_nothing(fleet: Fleet, connection: FleetConnection, task: FleetTask) -> None:
    push(fleet, "acme", reply_to(task, RecordDict({"ringfence": ConfigRecord({"kind": "x"})})))


def _parts_that_are_no_message(fleet: Fleet, connection: FleetConnection, task: FleetTask) -> None:
    """Every part has its right hash and form, so that Flower stores it, and the parts do not make a message."""
    content = b"ArrayRecord  4\x00null"
    broken = get_object_id(content)
    reply = reply_to(task, RecordDict())
    reply.metadata.__dict__["_message_id"] = broken
    response = push(fleet, "acme", reply, tree=ObjectTree(object_id=broken))
    assert response is not None
    push_parts(connection, task, response, {broken: content})


def _another_records_form(fleet: Fleet, connection: FleetConnection, task: FleetTask) -> None:
    reply = reply_to(task, RecordDict({"parameters": ConfigRecord({"num-examples": 10**9})}))
    send(fleet, "acme", connection, task, reply)


def _an_error_with_words(fleet: Fleet, connection: FleetConnection, task: FleetTask) -> None:
    send(fleet, "acme", connection, task, reply_to(task, Error(code=2, reason="planted-words")))


@pytest.mark.parametrize(
    "attack",
    [
        _announce_and_send_nothing,
        _parts_that_are_no_message,
        _another_records_form,
        _an_error_with_words,
    ],
)
def test_a_broken_answer_costs_its_sender_alone(
    fleet: Fleet,
    coordinator: ScriptedCoordinator,
    attack: Callable[[Fleet, FleetConnection, FleetTask], None],
) -> None:
    question = coordinator.request(make_plan())
    found: dict[int, object] = {}

    def collect() -> None:
        # On a thread, so that a collection that waits for the attacker fails this test instead of hanging it.
        deadline = time.monotonic() + 90
        while fleet.nodes["beta"] not in found and time.monotonic() < deadline:
            found.update(answers_of(list(coordinator.channel.collect())))
            time.sleep(0.05)

    with fleet.connection("acme") as acme, fleet.connection("beta") as beta:
        coordinator.ask(fleet.nodes["acme"], question)
        coordinator.ask(fleet.nodes["beta"], question)
        attack(fleet, acme, receive(acme))
        collecting = threading.Thread(target=collect, daemon=True)
        collecting.start()
        task = receive(beta)
        beta.answer(task, cleared(update_for(task)))
        collecting.join(25)
    assert isinstance(found.get(fleet.nodes["beta"]), TrainUpdate)
    assert found.get(fleet.nodes["acme"]) is None


def test_a_member_cannot_take_away_what_others_still_have_to_read(
    fleet: Fleet, coordinator: ScriptedCoordinator
) -> None:
    """The model of the round is one object for all: confirming its receipt must not delete it for the next reader."""
    question = coordinator.request(make_plan())
    with fleet.connection("acme") as acme, fleet.connection("beta") as beta:
        coordinator.ask(fleet.nodes["acme"], question)
        coordinator.ask(fleet.nodes["beta"], question)
        task = receive(acme)
        for part in get_all_nested_objects(task.message):
            acme._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=acme._node, run_id=task.run_id, message_object_id=part)
            )
        received = receive(beta)
        beta.answer(received, cleared(update_for(received)))
        arrivals = coordinator.collect()
    assert isinstance(answers_of(arrivals)[fleet.nodes["beta"]], TrainUpdate)
