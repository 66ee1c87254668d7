"""What the coordinator sends over the fleet connection is held against its hashes and bounds, and never ends the member."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from federation_harness import make_federation
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunResponse, Run
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity

from ringfence.client.flower_adapter import FleetConnection, RunOverError
from ringfence.model.errors import ConfigError, ConnectionFailedError, PeerError
from ringfence.model.round_messages import APP_ID, TRAIN_ACTION, TrainRequest, request_to_records

REQUEST = TrainRequest("run", b"{}", b"s" * 64, 1, 1, np.zeros(109))


@dataclass
class Coordinator:
    """Stands for Flower's client: answers each call from what the test laid down, or raises it."""

    message: PullMessagesResponse
    objects: dict[str, bytes]
    faults: dict[str, Exception] = field(default_factory=dict)
    confirmed: list[str] = field(default_factory=list)
    availability: Callable[[str], bool] = lambda _: True

    def _may_fail(self, call: str) -> None:
        if call in self.faults:
            raise self.faults[call]

    def PullMessages(self, request: Any) -> PullMessagesResponse:  # noqa: N802 - Flower's name
        self._may_fail("PullMessages")
        return self.message

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        self._may_fail("PullObject")
        found = request.object_id in self.objects
        return PullObjectResponse(
            object_found=found,
            object_available=found and self.availability(request.object_id),
            object_content=self.objects.get(request.object_id, b""),
        )

    def ConfirmMessageReceived(self, request: Any) -> ConfirmMessageReceivedResponse:  # noqa: N802
        self._may_fail("ConfirmMessageReceived")
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()

    def GetRun(self, request: Any) -> GetRunResponse:  # noqa: N802
        self._may_fail("GetRun")
        return GetRunResponse(run=Run(run_id=request.run_id, fab_id=APP_ID))


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory):
    return make_federation(tmp_path_factory.mktemp("member"), members=("acme",), conversations=2).members[
        "acme"
    ]


@pytest.fixture
def coordinator(monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    message = Message(request_to_records(REQUEST), 7, TRAIN_ACTION, ttl=60.0)
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        response = PullMessagesResponse(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )
    return Coordinator(
        response, {key: item.deflate() for key, item in get_all_nested_objects(message).items()}
    )


@pytest.fixture
def connection(member, coordinator: Coordinator) -> FleetConnection:
    made = FleetConnection(
        "127.0.0.1:1",
        ca_file=member.ca_file,
        certificate_file=member.certificate_file,
        key_file=member.key_file,
        max_message_bytes=8192,
    )
    made._client = coordinator
    made._node = Node(node_id=7)
    return made


def test_a_whole_message_is_received_and_confirmed(
    connection: FleetConnection, coordinator: Coordinator
) -> None:
    task = connection.receive()
    assert task is not None
    assert (task.app_id, task.action) == (APP_ID, TRAIN_ACTION)
    assert coordinator.confirmed == [coordinator.message.messages_list[0].metadata.message_id]


def test_no_message_is_no_task(connection: FleetConnection, coordinator: Coordinator) -> None:
    coordinator.message = PullMessagesResponse()
    assert connection.receive() is None


def _no_tree(coordinator: Coordinator) -> None:
    del coordinator.message.message_object_trees[:]


def _empty_tree(coordinator: Coordinator) -> None:
    coordinator.message.message_object_trees[0].CopyFrom(ObjectTree())


def _a_changed_byte(coordinator: Coordinator) -> None:
    key = next(iter(coordinator.objects))
    coordinator.objects[key] = coordinator.objects[key][:-1] + b"!"


def _another_model(coordinator: Coordinator) -> None:
    """Whole and readable, and not what the message was hashed with."""
    model = REQUEST.parameters.tobytes()
    (key,) = (key for key, content in coordinator.objects.items() if model in content)
    changed = model[:-8] + np.float64(1.0).tobytes()
    coordinator.objects[key] = coordinator.objects[key].replace(model, changed)


def _swapped_parts(coordinator: Coordinator) -> None:
    one, two, *_ = coordinator.objects
    coordinator.objects[one], coordinator.objects[two] = coordinator.objects[two], coordinator.objects[one]


def _a_missing_part(coordinator: Coordinator) -> None:
    coordinator.objects.popitem()


def _another_kind_of_object(coordinator: Coordinator) -> None:
    """All hashes are right, and the whole is something else than a message."""
    content = b"ConfigRecord 2\x00{}"
    coordinator.objects = {hashlib.sha256(content).hexdigest(): content}
    (key,) = coordinator.objects
    coordinator.message.messages_list[0].metadata.message_id = key
    coordinator.message.message_object_trees[0].CopyFrom(ObjectTree(object_id=key))


def _bytes_that_are_no_object(coordinator: Coordinator) -> None:
    content = b"\xff" * 100
    key = hashlib.sha256(content).hexdigest()
    coordinator.objects = {key: content}
    coordinator.message.messages_list[0].metadata.message_id = key
    coordinator.message.message_object_trees[0].CopyFrom(ObjectTree(object_id=key))


def _too_much(coordinator: Coordinator) -> None:
    content = b"x" * 5000
    more = b"y" * 5000
    for part in (content, more):
        key = hashlib.sha256(part).hexdigest()
        coordinator.objects[key] = part
        coordinator.message.message_object_trees[0].children.add(object_id=key)


@pytest.mark.parametrize(
    "fault",
    [
        _no_tree,
        _empty_tree,
        _a_changed_byte,
        _another_model,
        _swapped_parts,
        _a_missing_part,
        _another_kind_of_object,
        _bytes_that_are_no_object,
        _too_much,
    ],
)
def test_a_message_that_is_not_whole_is_left_out(
    connection: FleetConnection, coordinator: Coordinator, fault: Callable[[Coordinator], None]
) -> None:
    fault(coordinator)
    with pytest.raises(PeerError) as caught:
        connection.receive()
    assert not isinstance(caught.value, ConnectionFailedError)


def test_a_part_that_comes_late_is_waited_for(connection: FleetConnection, coordinator: Coordinator) -> None:
    asked: list[str] = []

    def on_the_third_time(object_id: str) -> bool:
        asked.append(object_id)
        return asked.count(object_id) >= 3

    coordinator.availability = on_the_third_time
    assert connection.receive() is not None


def refusal(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "https://coordinator/")
    return httpx.HTTPStatusError("refused", request=request, response=httpx.Response(status, request=request))


@pytest.mark.parametrize(
    ("call", "error", "expected"),
    [
        (
            "PullMessages",
            refusal(403),
            ConnectionFailedError,
        ),  # suspended: come back later, not four times a second
        ("PullMessages", refusal(401), ConnectionFailedError),
        ("PullMessages", refusal(429), ConnectionFailedError),
        ("PullMessages", refusal(500), ConnectionFailedError),
        ("PullMessages", httpx.ConnectError("away"), ConnectionFailedError),
        ("PullMessages", httpx.ReadTimeout("slow"), ConnectionFailedError),
        ("PullMessages", ValueError("Invalid protobuf response payload"), ConnectionFailedError),
        ("PullObject", refusal(403), RunOverError),
        ("ConfirmMessageReceived", refusal(403), RunOverError),
        ("GetRun", refusal(403), RunOverError),
        ("GetRun", refusal(500), ConnectionFailedError),
    ],
)
def test_a_refused_call_is_told_by_what_the_agent_is_to_do(
    connection: FleetConnection, coordinator: Coordinator, call: str, error: Exception, expected: type
) -> None:
    coordinator.faults[call] = error
    with pytest.raises(PeerError) as caught:
        connection.receive()
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (503, "database does not answer; the agent tries again"),
        (429, "whether two agents run"),
        (403, "whether this member is active"),
    ],
)
def test_a_refused_call_says_whose_trouble_it_is(
    connection: FleetConnection, coordinator: Coordinator, status: int, hint: str
) -> None:
    coordinator.faults["PullMessages"] = refusal(status)
    with pytest.raises(ConnectionFailedError, match=f"HTTP {status}") as caught:
        connection.receive()
    assert hint in caught.value.hint


@pytest.mark.parametrize("damaged", ["key_file", "certificate_file", "ca_file"])
@pytest.mark.parametrize("content", [None, b"", b"not PEM"])
def test_damaged_files_of_the_member_are_named_as_its_own(
    member, tmp_path: Path, damaged: str, content: bytes | None
) -> None:
    files = {name: getattr(member, name) for name in ("key_file", "certificate_file", "ca_file")}
    files[damaged] = tmp_path / "damaged.pem"
    if content is not None:
        files[damaged].write_bytes(content)
    with pytest.raises(ConfigError):
        FleetConnection("127.0.0.1:1", **files)
